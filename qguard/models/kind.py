"""Of which kind a model is, as its own files or the project say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS, MULTI_VECTOR, kind_of_package, kind_of_type

_CONFIG = "config_sentence_transformers.json"
CLASSIFIER, MASKED = "ForSequenceClassification", "ForMaskedLM"  # how Transformers' classes of these networks end
ROUTERS = ("Router", "Asym")  # modules that send texts to modules of their own
PYLATE, _STANFORD = "ColBERT", "HF_ColBERT"  # of ColBERT: PyLate's model_type, and the class that Stanford's library names


def read_kind(folder: Path, stated: str | None = None) -> str:
    """A name in :data:`qguard.kinds.KINDS`.

    Of the files that say something, the first counts: ``model_type`` of ``config_sentence_transformers.json``, the types of the
    modules, and for a folder without modules the class of the network (``…ForSequenceClassification`` is a cross-encoder).
    Where none of them says anything the project may state it, and without a word it is a dense model.

    Args:
        folder: The model's.
        stated: What the project says.

    Raises:
        ModelProblem: where the files say something else than the project, or name a class that sentence-transformers does not
            have.
    """
    if (said := said_kind(folder)) is None:
        return stated or DENSE
    kind, where = said
    if stated not in (None, kind):
        raise ModelProblem(
            f'kind = "{stated}": {where} of {folder.name} says that the model is of kind {kind!r}; remove kind from its table of '
            "[tool.qguard.models]"
        )
    return kind


def said_kind(folder: Path) -> tuple[str, str] | None:
    """The kind that a folder's files say, and which of them; ``None`` where none does.

    Raises:
        ModelProblem: for a class that sentence-transformers does not have.
    """
    return next(_said(folder), None)


def _said(folder: Path) -> Iterator[tuple[str, str]]:
    """Kinds and what says them, the most telling first."""
    config = folder / _CONFIG
    declared = read_json(config, ModelProblem).get("model_type") if config.exists() else None
    if declared is not None:
        kind = MULTI_VECTOR if declared == PYLATE else kind_of_type(str(declared))
        if kind is None:
            known = ", ".join(k.model_type for k in KINDS.values())
            raise ModelProblem(f"model_type of {_CONFIG}: expected one of {known}, found {declared!r}")
        yield kind, f"model_type of {_CONFIG}"
    for entry in module_entries(folder):
        package, _, rest = str(entry.get("type", "")).partition(".")
        if package == "sentence_transformers" and (kind := kind_of_package(rest.partition(".")[0])):
            yield kind, f"module {rest.rpartition('.')[2]!r} of modules.json"
    if declared is None and not (folder / "modules.json").exists() and (folder / "config.json").exists():
        names = read_json(inside(folder, "config.json"), ModelProblem).get("architectures")
        for name in names if isinstance(names, list) else []:
            if str(name).endswith(CLASSIFIER):
                yield CROSS_ENCODER, f"the class {name} of config.json"
            if name == _STANFORD:
                yield MULTI_VECTOR, f"the class {name} of config.json"


def module_entries(folder: Path) -> list[dict[str, Any]]:
    """The entries of ``modules.json`` and of its Routers; what is wrong with them, the pipeline's reader says."""
    try:
        found = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    modules = [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []
    return [*modules, *(routed for m in modules for routed in _routed(folder, m))]


def _routed(folder: Path, module: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The modules that a Router names, as ``modules.json`` would have them."""
    path = str(module.get("path") or "")
    for file in (inside(folder, path) / "router_config.json", inside(folder, path) / "config.json"):
        if str(module.get("type", "")).rpartition(".")[2] in ROUTERS and file.exists():
            types = read_json(file, ModelProblem).get("types")
            named = types.items() if isinstance(types, dict) else ()
            return [{"type": kind, "path": f"{path}/{name}" if path else name} for name, kind in named]
    return []
