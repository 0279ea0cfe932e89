"""``qguard index sweep``: types of indexes, their parameters and precisions side by side, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from qguard.errors import QguardError, UsageProblem
from qguard.indexes.measures import Measures, measure_searches
from qguard.indexes.settings import Index
from qguard.indexes.stores import type_of
from qguard.judging.index import check_target, searches
from qguard.judging.session import Session, Target

Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Row:
    """One index with one precision.

    Attributes:
        target: Precision, model and suite.
        index: Its settings.
        measures: What was found; ``None`` where ``error`` says why nothing was.
        error: Empty if nothing went wrong.
        best: No other row of this model and suite is at least as good in overlap with fp32, time and bytes, and better in one.
    """

    target: Target
    index: Index
    measures: Measures | None
    error: str = ""
    best: bool = False

    @property
    def recall(self) -> float:
        """recall@10 over all queries."""
        assert self.measures is not None
        return float(self.measures.items.rows[:, 0].mean())

    @property
    def costs(self) -> tuple[float, float]:
        """Median milliseconds of a search, and bytes; infinite where the store does not tell."""
        assert self.measures is not None
        return self.measures.p50, float("inf") if self.measures.bytes is None else self.measures.bytes

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        where = {"precision": str(self.target.precision), "model": self.target.model, "suite": self.target.suite}
        found = {} if self.measures is None else {**self.measures.to_json(), "recall": self.recall}
        return {**where, "index": self.index.words, "error": self.error, "best": self.best, **found}


def indexes_of(
    indexes: Sequence[Index], types: Sequence[str], build: Grid, search: Grid
) -> list[tuple[Index, list[dict[str, Any]]]]:
    """Every index with every combination of the parameters that its type has, and the parameters of its searches.

    Raises:
        UsageProblem: for a parameter that none of the types has.
    """
    found: list[tuple[Index, list[dict[str, Any]]]] = []
    used: set[str] = set()
    for index in indexes:
        if index.existing and (set(types) - {index.type} or build):
            raise UsageProblem(f"index {index.name!r} exists already, so only the parameters of its searches can be swept")
        for name in types or (index.type,):
            changed = index if name == index.type else replace(index, type=name, params={}, search={})
            kind = type_of(changed)
            own = {k: v for k, v in build.items() if k in kind.build}
            asked = {k: v for k, v in search.items() if k in kind.search}
            used |= own.keys() | asked.keys()
            given = [{**changed.search, **chosen} for chosen in _combined(asked)]
            found += [(replace(changed, params={**changed.params, **chosen}), given) for chosen in _combined(own)]
    if lost := sorted((build.keys() | search.keys()) - used):
        raise UsageProblem(
            f"no index of this sweep has {', '.join(lost)}; expected parameters of {', '.join(types) or 'its types'}"
        )
    return found


def _combined(grid: Grid) -> Iterator[dict[str, Any]]:
    for chosen in product(*grid.values()):
        yield dict(zip(grid, chosen, strict=True))


def sweep(
    session: Session,
    targets: Sequence[Target],
    indexes: Sequence[tuple[Index, list[dict[str, Any]]]],
    said: Callable[[str], None] = lambda words: None,
) -> list[Row]:
    """Measure every index with every target; what cannot be measured is a row that says why."""
    for target, (index, _) in product(targets, indexes):
        check_target(session, index, target.precision, target.model)
    rows: list[Row] = []
    for target, (index, given) in product(targets, indexes):
        said(f"{target}: {index.words}")
        try:
            found = measure_searches(index, searches(session, target, index), given)
        except QguardError as e:
            rows.append(Row(target, index, None, str(e)))
            continue
        rows += [Row(target, m.index, m) for m in found]
    return [replace(row, best=_unbeaten(row, rows)) for row in rows]


def _unbeaten(row: Row, rows: Sequence[Row]) -> bool:
    if row.measures is None:
        return False
    mine = _marks(row)
    others = (
        _marks(o)
        for o in rows
        if o.measures is not None and (o.target.model, o.target.suite) == (row.target.model, row.target.suite)
    )
    return not any(all(a >= b for a, b in zip(o, mine, strict=True)) and o != mine for o in others)


def _marks(row: Row) -> tuple[float, float, float]:
    """Of which more is better."""
    assert row.measures is not None
    return row.measures.split[2], -row.costs[0], -row.costs[1]


def cheapest(rows: Sequence[Row], recall: float) -> dict[str, Row]:
    """The rows with the fastest search and with the fewest bytes, of those whose recall@10 holds; none where none does."""
    holding = [r for r in rows if r.measures is not None and r.recall >= recall]
    if not holding:
        return {}
    return {
        "fastest": min(holding, key=lambda r: r.costs),
        "smallest": min(holding, key=lambda r: (r.costs[1], r.costs[0])),
    }
