"""Checks: values with the gates that judge them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from qguard.errors import MeasurementProblem
from qguard.gates import Gate
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound

if TYPE_CHECKING:
    from qguard.metrics.bootstrap import Uncertainty


class PartlyMeasured(MeasurementProblem):
    """Some values of a family could not be measured.

    Attributes:
        checks: Those of the others.
    """

    def __init__(self, message: str, checks: list[Check]) -> None:
        super().__init__(message)
        self.checks = checks


@dataclass(frozen=True)
class Check:
    """One judged value. ``outcome`` is ``pass``, ``fail`` or ``reported`` (no gate bounds it).

    ``accepted`` says, of a value held against an accepted score instead of a gate, which one and how far its noise reaches.

    Attributes:
        margin: Of what is judged to the bound; negative where it fails.
        on: What is judged; see :class:`Gate`.
        interval: Both ends at 95 %, or ``None``: then ``interval_note`` says why.
        interval_note: How an interval came about that is no bootstrap, or why there is none; empty where none was asked for.
        detectable: The smallest drop that so many items can detect; see :class:`qguard.metrics.bootstrap.Uncertainty`.
        unresolved: Words, where the bound is nearer to the value than that; else empty.
        origin: Why the bound is another than the default of MiniLM; see :class:`qguard.gates.Gate`.
        promised: The bound that the value brought with it, where a gate of the project replaced it.
        tables: The project's tables that set the bound, of which the last one wins; see :class:`qguard.gates.Gate`.
    """

    name: str
    suite: str
    slice: str | None
    value: float
    bound: Bound | None
    outcome: str
    margin: float | None
    items: int
    worst: tuple[str, ...] = ()
    on: str = "value"
    interval: tuple[float, float] | None = None
    interval_note: str = ""
    detectable: float | None = None
    unresolved: str = ""
    accepted: str | None = None
    origin: str = ""
    promised: Bound | None = None
    tables: tuple[str, ...] = ()

    @property
    def judged(self) -> float:
        """The number that the gate judged: the value, or an end of its interval."""
        if self.on == "value" or self.interval is None:
            return self.value
        return self.interval[0] if self.on == "lower" else self.interval[1]

    @property
    def label(self) -> str:
        """Name and slice, as a gate's key is written."""
        return self.name + (f"[{self.slice}]" if self.slice else "")

    def to_json(self) -> dict[str, Any]:
        """The stable shape of the JSON report, schema 2."""
        bounds = {"bound": self.bound and self.bound.to_json(), "promised": self.promised and self.promised.to_json()}
        lists = {"worst": list(self.worst), "interval": self.interval and list(self.interval), "tables": list(self.tables)}
        return {**vars(self), **bounds, **lists}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Check:
        """The check of :meth:`to_json`; what an older version did not write has its default."""
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        interval, bounds = value.get("interval"), {key: value.get(key) for key in ("bound", "promised")}
        known |= {key: bound and Bound.from_json(bound) for key, bound in bounds.items()}
        known |= {key: tuple(value.get(key, ())) for key in ("worst", "tables")}
        return cls(**known | {"interval": interval and tuple(interval)})


def judge(measured: Iterable[Measured], gates: Iterable[Gate], suite: str, intervals: bool = False) -> list[Check]:
    """Every value with every gate that bounds it; a value without a gate is reported. The nearest slice gate wins.

    Args:
        measured: The values.
        gates: Of the precision.
        suite: Its name.
        intervals: Compute those of all values; else of the gated ones of the whole suite, and where a gate judges one.

    Raises:
        MeasurementProblem: when a gate judges the end of an interval, and there is none.
    """
    gates = list(gates)
    checks = []
    for m in measured:
        own = [g for g in gates if g.applies(m)]
        promised = m.bound if own else None
        if not own and m.bound:
            own = [Gate(m.name, m.slice, m.bound)]
        own = [g for g in own if g.slice == m.slice] or own
        wanted = intervals or any(m.slice is None or g.on != "value" for g in own)
        spread = m.uncertainty() if wanted and m.uncertainty else None
        if not own:
            checks.append(Check(m.name, suite, m.slice, m.value, None, "reported", None, m.items, m.worst, **_facts(m, spread)))
        for gate in own:
            value = gate.judged(m, spread)
            bound = gate.bound
            outcome, margin = "pass" if bound.holds(value) else "fail", bound.margin(value)
            facts = {**_facts(m, spread, gate), "on": gate.on, "origin": gate.origin, "promised": promised}
            facts["tables"] = gate.tables
            checks.append(Check(m.name, suite, m.slice, m.value, bound, outcome, margin, m.items, m.worst, **facts))
    return checks


def _facts(m: Measured, spread: Uncertainty | None, gate: Gate | None = None) -> dict[str, Any]:
    """What a check says about the uncertainty of its value."""
    if spread is None:
        return {"interval_note": "" if m.uncertainty else "no sample of items"}
    facts = {"interval": spread.interval, "interval_note": spread.note, "detectable": spread.detectable}
    if gate is None or gate.on != "value":  # the end of an interval has the noise in it
        return facts
    from qguard.metrics.bootstrap import cannot_tell

    return {**facts, "unresolved": cannot_tell(m.value, gate.bound.number, m.items, m.noun, spread.detectable)}
