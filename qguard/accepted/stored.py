"""``accepted.json``: latency ratios and scores, in one file beside the golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.errors import GoldenProblem
from qguard.files import dump_json, read_json, write_atomic
from qguard.goldens.stored import ACCEPTED

SCHEMA = 1


def read(folder: Path) -> dict[str, Any]:
    """``accepted.json`` of a golden folder: lists ``latency`` and ``scores``, empty where nothing was accepted.

    Raises:
        GoldenProblem: when it is damaged or of another schema.
    """
    path = folder / ACCEPTED
    value: dict[str, Any] = {"schema": SCHEMA, "latency": []}
    if path.exists():
        value = read_json(path, GoldenProblem)
    value.setdefault("scores", [])  # older files hold none
    lists = all(isinstance(value.get(part), list) and all(isinstance(e, dict) for e in value[part]) for part in _PARTS)
    if value.get("schema") != SCHEMA or not lists:
        raise GoldenProblem(
            f"{folder.parent.name}/{folder.name}/{ACCEPTED} is damaged or of another schema; restore it from version control"
        )
    return value


_PARTS = ("latency", "scores")


def write(folder: Path, value: dict[str, Any]) -> None:
    """Replace the file in one rename.

    Raises:
        GoldenProblem: when it cannot be written; the old one then stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ACCEPTED, dump_json(value))
    except OSError as e:
        raise GoldenProblem(
            f"cannot write {folder.parent.name}/{folder.name}/{ACCEPTED}: {e.strerror or e}; the old one is untouched"
        ) from e
