"""A gate's bound from data: how far the runs differ, and how far other texts like these would move the value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qguard.gates import Gate
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.tolerances.runs import Run

# Kernels of other CPUs round differently: no margin is smaller, and no proposal has digits beyond it.
ROUNDING = 1e-4
SLACK = 3.0  # times the proposed margin; a gate with more room than that hides losses that the suite would show


@dataclass(frozen=True)
class Proposal:
    """One gate, as it is and as the data would have it.

    Attributes:
        key: As in the configuration.
        now: The gate in force.
        value: Of the run that the gate makes; of a ``[*]`` gate, that of the slice which decides.
        part: That slice.
        spread: How far the worst run lies on the bad side of ``value``.
        detectable: See :class:`qguard.metrics.bootstrap.Uncertainty`; ``None`` without an interval.
        interval: Its ends.
        bound: Proposed, or ``None`` to keep the gate.
        why: The margin in words, or why the gate is kept.
    """

    key: str
    now: Gate
    value: float
    part: str | None
    spread: float
    detectable: float | None
    interval: tuple[float, float] | None
    bound: Bound | None
    why: str

    @property
    def slack(self) -> float:
        """The room that the present gate leaves; negative where it fails."""
        return self.now.bound.margin(self.value)

    @property
    def in_force(self) -> Bound:
        """The bound that should be in force."""
        return self.bound or self.now.bound

    @property
    def looser(self) -> bool:
        """Whether the proposal gives up something that the present gate asks for."""
        return self.bound is not None and self.bound.laxer(self.now.bound)

    @property
    def changed(self) -> bool:
        """Whether it differs from the gate in force."""
        return self.bound is not None and self.bound != self.now.bound

    @property
    def idle(self) -> str:
        """A line on large unused slack, else empty."""
        if self.bound is None or self.slack <= SLACK * abs(self.bound.margin(self.value)):
            return ""
        resolves = "" if self.detectable is None else f", this suite resolves {self.detectable:.2g}"
        return (
            f"{self.key} holds {self.value:.4f} and is gated at {self.now.bound.number:g}: slack {self.slack:.2g}{resolves}; "
            f"proposed {self.bound.number:g}"
        )


def propose(runs: Sequence[Run], gates: Iterable[Gate]) -> list[Proposal]:
    """A proposal for each gate over a suite's items.

    Args:
        runs: The first is the gate's own.
        gates: In force; those on other things than items are left out.
    """
    out = []
    for gate in gates:
        values = {m.slice: m for m in runs[0].measured if gate.applies(m)}
        if gate.slice == "*":
            own = {g.slice for g in gates if g.metric == gate.metric}
            values = {s: m for s, m in values.items() if s not in own}
        if values:
            each = [_propose(gate, m, runs) for m in values.values()]
            out.append(loosest(each))
    return out


def loosest(proposals: Sequence[Proposal]) -> Proposal:
    """The one whose bound lets all of them pass: of slices, models or suites under one gate."""
    sign = 1 if proposals[0].now.bound.lower else -1
    free = min(((p.bound.number * sign, i) for i, p in enumerate(proposals) if p.bound is not None), default=None)
    kept = min((p for p in proposals if p.bound is None), key=lambda p: sign * p.value, default=None)
    if free is None or (kept is not None and sign * kept.value < free[0]):
        return kept or proposals[0]
    return proposals[free[1]]


def _propose(gate: Gate, m: Measured, runs: Sequence[Run]) -> Proposal:
    lower = gate.bound.lower
    sign = 1 if lower else -1
    values = [r.value for run in runs for r in run.measured if (r.name, r.slice) == (m.name, m.slice)]
    worst = min(values, key=lambda v: sign * v)
    spread = abs(m.value - worst)
    found = m.uncertainty() if m.uncertainty else None
    perfect = 1.0 if lower else 0.0
    lost = abs(perfect - worst)
    detectable = found.detectable if found else None

    def proposal(bound: Bound | None, why: str) -> Proposal:
        return Proposal(gate.key, gate, m.value, m.slice, spread, detectable, found.interval if found else None, bound, why)

    if gate.on != "value":
        return proposal(None, f"kept: it judges the {gate.on} end of the interval")
    if detectable is not None:
        margin, why = detectable, f"{detectable:.2g}, the smallest drop that {m.items} {m.noun} can detect"
    elif found and found.tail:
        margin, why = lost / 2, f"{lost / 2:.2g}, half of its loss again: there is no interval"
    else:
        return proposal(None, f"kept: {found.note if found else 'no sample of items'}")
    if margin < ROUNDING:
        margin, why = ROUNDING, f"{ROUNDING:g}, the rounding of other CPUs"
    bound = Bound(gate.bound.op, rounded(worst - sign * margin, margin, sign))
    if bound.laxer(gate.bound) and gate.bound.holds(worst):  # nothing is given up that holds
        return proposal(gate.bound, f"{why}; but the gate holds in every run, and stays")
    return proposal(bound, why)


def rounded(bound: float, margin: float, sign: int) -> float:
    """A bound with no more digits than its margin deserves: down to a multiple of 1, 2 or 5 x 10^k, at most the margin.

    Args:
        bound: Where it should be.
        margin: What the rounding may add at most.
        sign: 1 for a lower bound, which is rounded down; -1 for an upper one.
    """
    power = 10.0 ** math.floor(math.log10(margin))
    step = max(s * power for s in (1, 2, 5) if s * power <= margin * (1 + 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    return round(sign * math.floor(round(sign * bound / step, 2)) * step, digits + 1)
