"""Which models qguard judges: what it would get wrong is refused in words, from the folder's files alone.

Nothing here imports a heavy library, but :func:`refuse_unknown_type`, which is called where Transformers is needed anyway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS
from qguard.models.kind import CLASSIFIER, MASKED, module_entries, read_kind
from qguard.models.multi_vector import older
from qguard.models.pipeline import SHIFTED, first_position, read_optional

if TYPE_CHECKING:
    from qguard.models.model import Model

# encoders with a decoder of which the encoder alone is opened, as by sentence-transformers: type → class in Transformers
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_TWO_HALVES = ("longt5", "switch_transformers", "t5gemma", "t5gemma2", "bart", "mbart")
# several towers in one: the text tower alone is a model that can be judged
_TOWERS = ("clip", "siglip", "siglip2", "chinese_clip", "align", "altclip", "blip", "clipseg")
# names of the table of learned positions
_TABLES = ("position_embeddings.weight", "position_embedding.weight", "wpe.weight")


def admit(model: Model) -> None:
    """Read what a model's folder declares.

    Raises:
        ModelProblem: for a kind of model, a setting or code of its own that qguard does not judge (yet), or for
            texts that may be longer than the model has positions.
    """
    folder = model.folder
    modules = module_entries(folder)
    for root in (folder, *(inside(folder, str(m.get("path") or "")) for m in modules)):
        if (root / "adapter_config.json").exists():  # mostly without a config.json of its own
            raise ModelProblem(
                _refusal(
                    model,
                    "is a PEFT adapter (adapter_config.json), whose weights are not its own",
                    "merge it and save the whole: PeftModel.from_pretrained(base, adapter).merge_and_unload()",
                )
            )
    read_kind(folder, model.stated_kind)  # raises for one that does not exist
    for module in modules:
        package, _, rest = str(module.get("type", "")).partition(".")
        if package == "pylate":
            raise ModelProblem(f"model {model.name!r}: {older(folder.name)}")
        if package != "sentence_transformers":
            raise ModelProblem(_refusal(model, f"has a module {module.get('type')!r}, which is code that comes with it", _CODE))
        if rest.endswith(".CLIPModel"):
            raise ModelProblem(_refusal(model, "is a CLIPModel, which embeds images as well as texts", _TEXT_TOWER))
    pipeline = model.pipeline  # raises for modules that cannot be reproduced
    if not pipeline.static:
        _admit_transformer(model, read_optional(model.root / "config.json"), pipeline.longest)
    elif "max_seq_length" in model.settings:
        raise ModelProblem(
            _refusal(model, "is static and reads texts of any length", "remove max_seq_length from [tool.qguard.models]")
        )


_CODE = (
    "such code is never run. Where Transformers and sentence-transformers compute the same by themselves, give a copy whose "
    "files do not name it"
)
_TEXT_TOWER = (
    "qguard judges texts alone. Save the text tower as a model of its own (docs/models.md shows how): Transformer, Pooling of "
    "the last token, and a Dense module with the text projection"
)


# a head beyond the encoder, by the names of Transformers' classes
_HEAD = re.compile(r"For[A-Z]|LMHead")


def _admit_transformer(model: Model, config: Mapping[str, Any], length: int) -> None:
    declared = config.get("architectures")
    architectures = [str(a) for a in declared] if isinstance(declared, list) else []
    for name in architectures:
        if model.kind != DENSE:
            break
        if name.endswith(CLASSIFIER):
            raise ModelProblem(_refusal(model, f"is a {name}: it gives {KINDS[CROSS_ENCODER].gives}"))
        if _HEAD.search(name) and not (model.folder / "modules.json").exists():
            raise ModelProblem(
                _refusal(
                    model,
                    f"is a {name}, and no modules.json says how it embeds texts",
                    "if it is the mean of its tokens, declare that with SentenceTransformer(FOLDER).save(COPY) and give the copy"
                    + (', if it weighs words (SPLADE), state kind = "sparse"' if name.endswith(MASKED) else ""),
                )
            )
    kind = str(config.get("model_type", ""))
    if kind in _TWO_HALVES or (config.get("is_encoder_decoder") and kind not in ENCODERS):
        raise ModelProblem(_refusal(model, f"is of type {kind!r}, an encoder with a decoder"))
    if model.onnx is None and kind in ENCODERS and any(name.startswith("decoder.") for name in model.tensors):
        alone = f"{ENCODERS[kind]}.from_pretrained(FOLDER).save_pretrained(COPY)"
        raise ModelProblem(
            _refusal(
                model,
                f"is of type {kind!r} and holds a decoder, which an embedding does not use",
                f"save the encoder alone in a copy of the folder: {alone}",
            )
        )
    if kind in _TOWERS:
        raise ModelProblem(_refusal(model, f"is of type {kind!r}, which embeds images as well as texts", _TEXT_TOWER))
    room = positions(model)
    if room is not None and length > room:
        raise ModelProblem(
            f"model {model.name!r}: texts may have {length} tokens (max_seq_length), and the model has positions for {room}. "
            f"State max_seq_length = {room} in [tool.qguard.models], or run: qguard init {model.ref} --max-seq-length {room}"
        )


def positions(model: Model) -> int | None:
    """Tokens that the table of learned positions has rows for; ``None`` without such a table, as of rotary positions."""
    config = read_optional(model.root / "config.json")
    kind = str(config.get("model_type", ""))
    if model.onnx is not None:
        stated = config.get("max_position_embeddings")
        rows = stated if isinstance(stated, int) and kind in (*SHIFTED, "bert", "distilbert", "electra", "albert") else None
    else:
        tables = (t["shape"] for n, t in model.tensors.items() if n.endswith(_TABLES))
        rows = next((shape[0] for shape in tables if len(shape) == 2), None)
    return rows if rows is None else rows - first_position(config)


def refuse_unknown_type(root: Path) -> None:
    """The installed Transformers knows the type of a transformer folder; imports it.

    Raises:
        ModelProblem: where it does not.
    """
    from qguard.machine.quiet import quiet_transformers

    quiet_transformers()
    import transformers

    kind = read_json(root / "config.json", ModelProblem).get("model_type")
    if not isinstance(kind, str):
        raise ModelProblem(f"{root.name}/config.json: expected model_type to name an architecture, found {kind!r}")
    if kind in transformers.CONFIG_MAPPING:
        return
    if read_json(root / "config.json", ModelProblem).get("auto_map"):
        raise ModelProblem(
            f"{root.name} is of type {kind!r}, which is code that comes with it (auto_map in config.json); such code is never "
            f"run, and transformers {transformers.__version__} has no such type. Give a copy of the model in a type that "
            "Transformers has, or its fp32 ONNX file"
        )
    raise ModelProblem(
        f"{root.name} is of type {kind!r} (model_type in config.json), which transformers {transformers.__version__} does not "
        "know; install a version that does, or give its fp32 ONNX file as the model"
    )


def _refusal(model: Model, what: str, mend: str = "qguard does not judge that yet; give a dense embedding model") -> str:
    return f"model {model.name!r} {what}; {mend}"
