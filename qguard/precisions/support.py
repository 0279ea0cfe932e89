"""What is supported: the tested matrix of architectures and precisions, and what of it can be used where qguard runs.

The matrix is written by ``benchmarks/models.py`` from runs of qguard itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qguard.extras import install
from qguard.machine.versions import installed
from qguard.precisions import Precision
from qguard.precisions.recipe import NOT_BUILT

MATRIX = Path(__file__).with_name("supported.json")
# of a cell: it was run and held; qguard said in words that it cannot be; anything else, which no released matrix holds
WORKS, REFUSED, WRONG = "works", "refused", "wrong"


@dataclass(frozen=True)
class Cell:
    """One precision of one architecture.

    Attributes:
        status: :data:`WORKS` or :data:`REFUSED`.
        cosine: Mean cosine to fp32 of a tiny model with random weights, in [-1, 1]; ``None`` where it was refused.
        words: Why it was refused, and the way out.
    """

    status: str
    cosine: float | None
    words: str


@dataclass(frozen=True)
class Architecture:
    """A row of the matrix.

    Attributes:
        name: As people call it.
        model_type: As ``config.json`` calls it.
        models: Models that have it, or nothing.
        cells: Precision as it is typed → what came of it.
    """

    name: str
    model_type: str
    models: str
    cells: Mapping[str, Cell]


@cache
def matrix() -> tuple[Architecture, ...]:
    """Every tested architecture."""
    found = json.loads(MATRIX.read_text(encoding="utf-8"))
    return tuple(
        Architecture(
            row["name"], row["model_type"], row["models"],
            {k: Cell(c["status"], c.get("cosine"), c["words"]) for k, c in row["cells"].items() if "cosine" in c or c["words"]},
        )
        for row in found["families"].values()
    )  # fmt: skip


@cache
def tested_with() -> dict[str, str]:
    """Distribution → version that the matrix was run with."""
    found: dict[str, str] = json.loads(MATRIX.read_text(encoding="utf-8"))["versions"]
    return found


def of_type(model_type: str) -> tuple[Architecture, ...]:
    """The rows of a ``model_type``; none where it was not tested."""
    return tuple(a for a in matrix() if a.model_type == model_type)


def obstacle(precision: Precision) -> str:
    """Why a precision cannot be made or run here, and the way out; empty where it can. Nothing heavy is imported."""
    recipe = precision.recipe
    needed: dict[str, Any] = installed(*recipe.packages, *precision.runs_in.libraries)
    absent = [name for name, version in needed.items() if version == "absent"]
    if not absent:
        return ""
    what = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
    return what if recipe.make == NOT_BUILT else f"{what}; run: {install(*absent)}"
