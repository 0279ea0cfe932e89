"""What one version gave, or why it gave nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qguard.bisecting.search import PASSED_OVER
from qguard.gates.check import Check
from qguard.latency.decision import UNDECIDED


@dataclass(frozen=True)
class Reading:
    """The metric of one version.

    Attributes:
        name: The version: a release, a commit, or the pins that were changed.
        value: Of the metric; ``None`` where nothing was measured.
        outcome: ``pass``, ``fail``, ``reported`` (no gate bounds it) or ``passed over``.
        gate: The bound in words; empty without one.
        note: Why it was passed over, or what else is to be known.
        versions: Distribution → version of what computed.
        command: What repeats it.
        seconds: How long it took, with its environment.
        detectable: The smallest loss that the suite tells from chance; see :class:`qguard.gates.check.Check`.
    """

    name: str
    value: float | None
    outcome: str
    gate: str = ""
    note: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0
    detectable: float | None = None

    @classmethod
    def of(cls, name: str, check: Check, **more: Any) -> Reading:
        """That of a check; one that decides neither way is passed over."""
        gate = str(check.bound) if check.bound else ""
        if check.outcome in UNDECIDED:
            why = f"{check.outcome}: {' '.join(check.worst)}"
            return cls(name, check.value, PASSED_OVER, gate, **more | {"note": why})
        return cls(name, check.value, check.outcome, gate, detectable=check.detectable, **more)

    @property
    def judged(self) -> bool:
        """Whether it has a verdict, or a value without a gate."""
        return self.outcome != PASSED_OVER

    @property
    def words(self) -> str:
        """Value and verdict."""
        if not self.judged or self.value is None:
            return f"not judged: {self.note}"
        told = {"pass": "holds", "fail": "FAILS"}.get(self.outcome)
        return f"{self.value:.6g}, gate {self.gate} {told}" if told else f"{self.value:.6g}, no gate"

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.name, "value": self.value, "outcome": self.outcome, "gate": self.gate, "note": self.note,
            "versions": dict(self.versions), "command": self.command, "seconds": round(self.seconds, 2),
            "detectable": self.detectable,
        }  # fmt: skip
