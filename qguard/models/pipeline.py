"""The pipeline a sentence-transformers folder declares: tokenizer limits, pooling, dense heads, normalization, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json, sha256_json

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Names of prompts by role, as sentence-transformers' encode_query and encode_document look for them.
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "Sigmoid")
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Dense:
    """A linear head after pooling: ``activation(x @ weight.T + bias)``; tensors in ``path/model.safetensors``."""

    path: str
    activation: str
    bias: bool


@dataclass(frozen=True)
class Pipeline:
    """What happens around the transformer, as declared by the model's own files.

    Attributes:
        pooling: Modes of :data:`POOLING_MODES`; several are concatenated in this order.
        normalize: Whether the embedding is scaled to unit length at the end.
        dense: Linear heads, in order, between pooling and normalization.
        max_seq_length: Longest input in tokens, special tokens included.
        do_lower_case: Whether the text is lower-cased before the tokenizer sees it.
        prompts: Named prefixes. Those named in :data:`ROLES` are put before queries and documents, that of
            ``default_prompt`` (or ``None``) before every other text.
        include_prompt: Whether prompt tokens take part in the pooling.
    """

    pooling: tuple[str, ...] = ("mean",)
    normalize: bool = False
    dense: tuple[Dense, ...] = ()
    max_seq_length: int = 512
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    transformer: str = ""

    def prefix(self, role: str | None = None) -> str:
        """The text put before an input: the prompt of its role, else the default prompt, else nothing.

        Args:
            role: ``"query"``, ``"document"`` or ``None``.
        """
        for name in ROLES.get(role or "", ()):
            if name in self.prompts:
                return self.prompts[name]
        return self.prompts.get(self.default_prompt, "") if self.default_prompt else ""

    def sha256(self) -> str:
        """Hash of every setting that changes an embedding."""
        return sha256_json(asdict(self))


def read_pipeline(folder: Path) -> Pipeline:
    """Read ``modules.json`` and the files that it names.

    A folder without ``modules.json`` is a plain Transformers model; like sentence-transformers, it is mean-pooled.

    Raises:
        ModelProblem: for a module or setting that no runtime here reproduces; it is named, never ignored.
    """
    modules = _modules(folder)
    values: dict[str, Any] = {}
    dense: list[Dense] = []
    transformer = ""
    seen_pooling = False
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        path = str(module.get("path", ""))
        if values.get("normalize") and kind != "Normalize":
            raise ModelProblem(f"module {kind!r} after Normalize is not supported; the encoder would skip it")
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            seen_pooling = True
            values |= _pooling(read_json(inside(folder, path) / "config.json", ModelProblem))
        elif kind == "Dense":
            dense.append(_dense(folder, path))
        elif kind == "Normalize":
            values["normalize"] = True
        elif kind != "Dropout":  # Dropout is the identity at inference
            raise ModelProblem(
                f"module {module.get('type')!r} of modules.json cannot be reproduced "
                f"(supported: Transformer, Pooling, Dense, Normalize, Dropout)"
            )
    if dense and not seen_pooling:
        raise ModelProblem("a Dense module without a Pooling module before it is not supported")
    root = inside(folder, transformer)
    values |= _lengths(root)
    config = read_optional(folder / "config_sentence_transformers.json")
    if config:
        prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
        if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
            raise ModelProblem(f"prompts of config_sentence_transformers.json: expected names and texts, found {prompts!r}")
        try:
            "".join([*prompts, *prompts.values()]).encode()
        except UnicodeEncodeError as e:
            raise ModelProblem("a prompt holds a lone surrogate, which no tokenizer accepts") from e
        if not isinstance(default, str | None):
            raise ModelProblem(f"default_prompt_name of config_sentence_transformers.json: expected a name, found {default!r}")
        values["prompts"], values["default_prompt"] = dict(sorted(prompts.items())), default
        if values["default_prompt"] and values["default_prompt"] not in values["prompts"]:
            raise ModelProblem(
                f"default_prompt_name {values['default_prompt']!r} is not one of the declared prompts {sorted(values['prompts'])}"
            )
    pipeline = Pipeline(dense=tuple(dense), transformer=transformer, **values)
    return checked(pipeline)


def checked(pipeline: Pipeline) -> Pipeline:
    """The pipeline itself.

    Raises:
        ModelProblem: for prompts that would have to be left out of the pooling.
    """
    if any(pipeline.prefix(role) for role in (None, *ROLES)) and not pipeline.include_prompt:
        raise ModelProblem("include_prompt=false with a prompt is not supported; pass the model without its prompts")
    return pipeline


def transformer_path(folder: Path) -> str:
    """Where the transformer's files are, relative to ``folder``: ``""`` unless ``modules.json`` says otherwise."""
    return str(_modules(folder)[0].get("path", "")) if (folder / "modules.json").exists() else ""


def named_modules(folder: Path) -> set[str]:
    """The paths of the modules that ``modules.json`` names; none without that file."""
    return {str(m.get("path", "")) for m in _modules(folder)} if (folder / "modules.json").exists() else set()


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.exists():
        if not (folder / "config.json").exists():
            raise ModelProblem(f"{folder} is not a model folder: neither modules.json nor config.json is there")
        return [{"type": "Transformer", "path": ""}]
    import json

    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelProblem(f"{path} cannot be read as JSON ({e})") from e
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelProblem(f"{path}: expected a list of modules")
    if not modules or not str(modules[0].get("type", "")).endswith("Transformer"):
        found = modules[0].get("type") if modules else "nothing"
        raise ModelProblem(f"{path}: the first module is {found!r}; only models that start with a Transformer are supported")
    return modules


def _pooling(config: dict[str, Any]) -> dict[str, Any]:
    modes: Any = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _LEGACY.items() if config.get(key)]
    if not isinstance(modes, str | list):
        raise ModelProblem(f"pooling mode {modes!r} is neither a name nor a list of names")
    modes = [modes] if isinstance(modes, str) else modes or ["mean"]
    for mode in modes:
        if mode not in POOLING_MODES:
            raise ModelProblem(f"pooling mode {mode!r} cannot be reproduced (supported: {', '.join(POOLING_MODES)})")
    return {"pooling": tuple(modes), "include_prompt": bool(config.get("include_prompt", True))}


def _dense(folder: Path, path: str) -> Dense:
    config = read_json(inside(folder, path) / "config.json", ModelProblem)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise ModelProblem(f"Dense activation {activation!r} in {path} cannot be reproduced ({', '.join(ACTIVATIONS)})")
    if not (inside(folder, path) / "model.safetensors").exists():
        raise ModelProblem(f"{path} has no model.safetensors; pickled weights are never read, save the model again")
    return Dense(path, activation, bool(config.get("bias", True)))


def _lengths(root: Path) -> dict[str, Any]:
    if any(root.glob("*.safetensors")):
        read_json(root / "config.json", ModelProblem)  # without its architecture, torch cannot run these weights
    length, settings = declared_length(root), read_optional(root / "sentence_bert_config.json")
    if length is None:
        raise ModelProblem(f"{root} declares no maximum length; add max_seq_length to sentence_bert_config.json")
    return {"max_seq_length": length, "do_lower_case": bool(settings.get("do_lower_case", False))}


def declared_length(root: Path) -> int | None:
    """The longest input in tokens that a transformer folder declares, or ``None``."""
    limits = [read_optional(root / "sentence_bert_config.json").get("max_seq_length")]
    if limits[0] is None:
        limits = [
            read_optional(root / "tokenizer_config.json").get("model_max_length"),
            read_optional(root / "config.json").get("max_position_embeddings"),
        ]
    return min((int(n) for n in limits if isinstance(n, int | float) and 1 <= n < 10**6), default=None)


def read_optional(file: Path) -> dict[str, Any]:
    """The object of a JSON file, empty where there is no such file.

    Raises:
        ModelProblem: for a file that holds anything else.
    """
    return read_json(file, ModelProblem) if file.exists() else {}
