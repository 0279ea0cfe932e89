"""Proof that an index is used, before anything is measured: a store that searches exactly gives better answers, only later.

- the store holds every row, an index of the type and the metric that were asked for, and the parameters that it tells;
- rows read back are those that were inserted;
- an approximate index, searched as narrowly as it can be, misses the nearest row of some random directions. An exact search never
  does, so an index that is idle is found out. The parameters of the project give other answers than the narrowest ones;
- an index that rounds vectors gives scores that are not those of the vectors themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.indexes.collection import Collection, Held, IndexType, defaults
from qguard.indexes.settings import BINARY, HAMMING, Index
from qguard.indexes.stored import Rows, stored, values
from qguard.indexes.truth import EQUAL, Exact, probes
from qguard.vectors.cosine import cosine

SAMPLE = 64  # rows that are read back
ROUNDING = 1e-5  # relative: what float32's order of sums may move a score by; int8 codes move it by 1e-3
WRONG = 1e-3  # relative: more is another metric, not rounding
NEAR = 0.99  # least cosine of a row as the index rounds it to the row itself


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        rows: That the store holds.
        type: Of the index, as the store says it.
        metric: Likewise.
        params: Likewise, as far as the store tells them.
        read_back: Rows that were read back and are those that were inserted; 0 where the store gives none back.
        probes: Random directions that were searched.
        missed: Of which the narrowest search missed the nearest row; ``None`` for an index that promises every nearest row.
        changed: Of which the project's parameters give another nearest row than the narrowest ones; ``None`` likewise.
        score_error: The largest distance of a score from the exact one, over the largest score.
    """

    rows: int
    type: str
    metric: str
    params: dict[str, Any]
    read_back: int
    probes: int
    missed: int | None
    changed: int | None
    score_error: float

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    @property
    def words(self) -> str:
        """In one line."""
        parts = [f"{self.rows} rows", f"{self.type} by {self.metric}"]
        if self.read_back:
            parts.append(f"{self.read_back} rows read back")
        if self.missed is not None:
            parts.append(f"the narrowest search misses {self.missed} of {self.probes} random directions")
        return "; ".join([*parts, f"scores within {self.score_error:.1g} of exact ones"])


def prove(collection: Collection, index: Index, kind: IndexType, rows: Rows, metric: str) -> Proof:
    """See the module.

    Raises:
        MeasurementProblem: where a part of the proof fails, with what was expected and what was found.
    """
    held = collection.held()
    _of_words(index, held, len(rows), metric)
    # the rows of a collection that is there already are what was read of it
    read = len(rows) if index.existing else _rows_back(collection, index, kind, rows)
    return _of_answers(collection, index, kind, rows, metric, held, read)


def _problem(index: Index, words: str) -> MeasurementProblem:
    return MeasurementProblem(f"index {index.name!r} ({index.type} in {index.store}) {words}")


def _of_words(index: Index, held: Held, rows: int, metric: str) -> None:
    """What the store says of itself."""
    if held.rows != rows:
        raise _problem(index, f"holds {held.rows} rows; expected {rows}. Build it anew from all rows")
    if held.type != index.type:
        found = f"one of type {held.type}" if held.type else "none that covers all rows"
        raise _problem(index, f"is not what the store holds: expected an index of type {index.type}, found {found}")
    if held.metric != metric:
        raise _problem(index, f"ranks by {held.metric}; expected {metric}")
    for name, wanted in index.params.items():
        if name not in held.params:
            raise _problem(index, f"has no {name}: expected {wanted}, and the store tells none. The parameter did not arrive")
        if held.params[name] != wanted:
            raise _problem(index, f"has {name} = {held.params[name]}; expected {wanted}. The parameter did not arrive")


def _rows_back(collection: Collection, index: Index, kind: IndexType, rows: Rows) -> int:
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))
    found = collection.read(chosen)
    if found is None:
        return 0
    back, given = values(found, rows.kind, rows.dim), rows.values(chosen)
    bad = np.flatnonzero(~np.isfinite(back).all(1))
    if len(bad):
        raise _problem(index, f"holds NaN or infinite values in row {chosen[bad[0]]}, and {len(bad)} of {len(chosen)} rows asked")
    near = cosine(back, given)
    if near.min() < (NEAR if kind.rounds else 1 - 1e-5):
        worst = int(near.argmin())
        raise _problem(
            index,
            f"holds other vectors than this model's: row {chosen[worst]} has the cosine {near[worst]:.3f} to the vector that "
            "belongs there. Build it anew from this model's vectors",
        )
    return len(chosen)


def _of_answers(collection: Collection, index: Index, kind: IndexType, rows: Rows, metric: str, held: Held, read: int) -> Proof:
    floats = probes(rows.dim)
    given = stored(floats, BINARY) if rows.kind == BINARY else stored(floats, rows.kind, rows.ranges)
    exact = Exact(values(given, rows.kind, rows.dim), rows.scored, metric, np.full(len(given), -1))
    best = exact.neighbours(1).scores[:, 0]
    asked = collection.search(given, index.k, defaults(kind, index))
    scores = exact.scores(asked.rows)
    error = score_error(asked.scores, scores, metric, rows.dim)
    if kind.rounds and error <= ROUNDING / 10:
        raise _problem(
            index,
            f"gives the scores of vectors that are not rounded (within {error:.1g}): the index is idle, and the store searched "
            "the vectors themselves",
        )
    if not kind.rounds and error > WRONG:
        squared = score_error(asked.scores, -np.square(scores), metric, rows.dim) <= WRONG
        found = "they are squared distances" if squared else f"they are off by {error:.1g} of the largest"
        raise _problem(index, f"gives other scores than those of {metric}: {found}")
    if not kind.weakest:
        return Proof(held.rows, held.type, held.metric, dict(held.params), read, len(given), None, None, error)
    narrow = collection.search(given, 1, {**defaults(kind, index), **kind.weakest})
    reached = exact.scores(narrow.rows)[:, 0]
    missed = int((reached < best - EQUAL * np.maximum(1, np.abs(best))).sum())
    words = ", ".join(f"{k} = {v}" for k, v in kind.weakest.items())
    if not missed and not kind.rounds:
        raise _problem(
            index,
            f"finds the nearest row of all {len(given)} random directions even with {words}, as an exact search does: the index "
            f"is idle, or {len(rows)} rows are too few to tell",
        )
    changed = int((asked.rows[:, 0] != narrow.rows[:, 0]).sum())
    own = {k: v for k, v in defaults(kind, index).items() if k in kind.weakest}
    if missed and not changed and own != dict(kind.weakest):
        raise _problem(
            index,
            f"gives the same answers with {', '.join(f'{k} = {v}' for k, v in own.items())} and with {words}: the parameters of "
            "the search did not arrive",
        )
    return Proof(held.rows, held.type, held.metric, dict(held.params), read, len(given), missed, changed, error)


def score_error(told: Any, exact: Any, metric: str, dim: int) -> float:
    """The largest distance of a store's scores from the exact ones, both (q, k), over the largest exact one; 0 or more."""
    known = np.isfinite(exact) & np.isfinite(told)
    if not known.any():
        return float("inf")
    true = (exact - dim) / 2 if metric == HAMMING else exact
    scale = max(float(np.abs(true[known]).max()), 1e-30)
    return float(np.abs(told[known] - true[known]).max()) / scale
