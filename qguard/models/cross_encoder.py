"""The pipeline of a cross-encoder's folder: one network that scores pairs, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.kinds import CROSS_ENCODER
from qguard.models.kind import CLASSIFIER
from qguard.models.modules.activations import COMPUTED
from qguard.models.pipeline import (
    ST_CONFIG,
    Pipeline,
    Scoring,
    declared_modules,
    declared_prompts,
    lengths,
    read_optional,
)

SIGMOID, IDENTITY = "Sigmoid", "Identity"
# what a Transformer of release 6 declares that scores pairs
_SCORES: dict[str, Any] = {"transformer_task": "sequence-classification", "module_output_name": "scores"}
_LOGITS = {"method": "forward", "method_output_name": "logits"}
# networks whose configurations may leave out that there are two types of tokens
_TYPED = ("bert", "electra", "convbert", "mobilebert", "squeezebert")
# tokenizers of Transformers 5 that say of each token to which text it belongs; others give no token_type_ids, unless their
# configuration asks for them
_TYPING = ("Bert", "Electra", "ConvBert", "MobileBert", "SqueezeBert", "Deberta", "DebertaV2", "FNet")


def read(folder: Path) -> Pipeline:
    """The pipeline of a folder in sentence-transformers' layout, or of Transformers alone (``…ForSequenceClassification``).

    Raises:
        ModelProblem: for modules, settings and activations that are not reproduced.
    """
    path = _network(folder)
    root = inside(folder, path)
    config = read_json(inside(root, "config.json"), ModelProblem)
    found = config.get("architectures")
    names = [str(n) for n in found] if isinstance(found, list) else []
    if not any(n.endswith(CLASSIFIER) for n in names):
        raise ModelProblem(
            f"config.json of {root.name} names {', '.join(names) or 'no class'}; expected one that ends with {CLASSIFIER}: any "
            "other has no trained classifier of pairs. Give a cross-encoder that was saved with one"
        )
    labels = label_names(config)
    modules = (folder / "modules.json").exists()
    prompts = declared_prompts(folder) if modules else {}  # which sentence-transformers does not read without them
    scoring = Scoring(_activation(folder if modules else None, config, len(labels)), labels, _typed(root, config))
    limits = lengths(root, _SCORES, _LOGITS)
    return Pipeline((), transformer=path, kind=CROSS_ENCODER, scoring=scoring, **limits, **prompts)


def _network(folder: Path) -> str:
    """The folder of the only module."""
    modules = declared_modules(folder)
    (first, path), *rest = modules
    if first == "Transformer" and not rest:
        return path
    if any(name == "LogitScore" for name, _ in modules):
        raise ModelProblem(
            f"{folder.name} scores pairs by the logits of two words of a language model (LogitScore), which is not reproduced; "
            f"give a cross-encoder with a classifier ({CLASSIFIER})"
        )
    found = ", ".join(name for name, _ in modules)
    raise ModelProblem(
        f"{folder.name} scores pairs by the modules {found}; expected one Transformer whose network is a classifier "
        f"({CLASSIFIER}), and others are not reproduced"
    )


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a classifier, in the order of its outputs, as ``config.json`` has them.

    Raises:
        ModelProblem: where their numbers are not 0, 1, 2, ….
    """
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        count = config.get("num_labels", 2)
        return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) and count > 0 else 2))
    try:
        numbered = {int(i): str(name) for i, name in names.items()}
    except ValueError:
        numbered = {}
    if sorted(numbered) != list(range(len(names))):
        raise ModelProblem(f"id2label of config.json: expected numbers from 0 to {len(names) - 1}, found {', '.join(names)}")
    return tuple(numbered[i] for i in range(len(names)))


def _activation(folder: Path | None, config: Mapping[str, Any], labels: int) -> str:
    """What sentence-transformers applies to logits by default: the first that a file states, else by the number of labels.

    Raises:
        ModelProblem: for one that is not reproduced.
    """
    stated = read_optional(folder / ST_CONFIG).get("activation_fn") if folder else None
    own = config.get("sentence_transformers")
    older = own.get("activation_fn") if isinstance(own, dict) else None
    for path in (stated, older, config.get("sbert_ce_default_activation_function")):
        if isinstance(path, str) and path:
            name = path.rpartition(".")[2]
            if not path.startswith("torch."):  # sentence-transformers does not run it either
                break
            if name not in COMPUTED:
                raise ModelProblem(f"activation_fn {path!r} is not reproduced; known: {', '.join(sorted(COMPUTED))}")
            return name
    return SIGMOID if labels == 1 else IDENTITY


def _typed(root: Path, config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer says to which text of a pair a token belongs, and the network reads it."""
    kind, kinds = str(config.get("model_type", "")), config.get("type_vocab_size")
    if not (kinds > 1 if isinstance(kinds, int) else kind in _TYPED):
        return False
    said = read_optional(root / "tokenizer_config.json")
    names, own = said.get("model_input_names"), said.get("tokenizer_class")
    if isinstance(names, list):
        return "token_type_ids" in names
    name = own.removesuffix("Fast").removesuffix("Tokenizer") if isinstance(own, str) else None
    return kind in _TYPED if name is None else name in _TYPING
