"""What is asked of every version: one metric of one precision, model and suite, with its gate."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.families import FAMILIES, Family, family_of, infos, judges
from qguard.gates.check import Check
from qguard.judging.session import Session, Target
from qguard.metrics import MetricInfo

_KEY = re.compile(r"(?P<metric>[a-z0-9_.@]+)(?:\[(?P<slice>[^\]]+)\])?")


@dataclass(frozen=True)
class Question:
    """A metric of a target.

    Attributes:
        session: What is judged here.
        target: Precision, model and suite.
        metric: Its name.
        slice: Of the suite, or the bucket of a latency; ``None`` for the whole suite.
        artifact: ``--artifact`` as it was given; ``None`` where qguard builds it.
    """

    session: Session
    target: Target
    metric: str
    slice: str | None = None
    artifact: Path | None = None

    @classmethod
    def of(cls, session: Session, target: Target, text: str, artifact: Path | None = None) -> Question:
        """The question of a metric as it is typed: ``ranking.overlap@10``, or ``ranking.overlap@10[legal]``.

        Raises:
            UsageProblem: for a metric that does not exist, or not for this kind of model.
        """
        match, known = _KEY.fullmatch(text), infos()
        if match is None or match["metric"] not in known:
            raise unknown("metric", text, known)
        metric, kind = match["metric"], session.kind(target.model)
        if not judges(metric, kind):
            raise UsageProblem(f"--metric {text}: a model of kind {kind} has no such metric")
        if metric.startswith("regression."):
            raise UsageProblem(f"--metric {text} compares two environments itself; bisect a metric against the golden instead")
        return cls(session, target, metric, match["slice"], artifact)

    @property
    def label(self) -> str:
        """As it is typed."""
        return self.metric + (f"[{self.slice}]" if self.slice else "")

    @property
    def family(self) -> Family:
        """The metric's family."""
        return FAMILIES.find(family_of(self.metric))

    @property
    def info(self) -> MetricInfo:
        """What is known of the metric."""
        return infos()[self.metric]

    @property
    def options(self) -> list[str]:
        """The options of a gate run that measures little else."""
        t = self.target
        found = ["--qguard-precision", str(t.precision), "--qguard-model", t.model, "--qguard-suite", t.suite]
        for name in ("latency", "robustness", "service"):
            found += [] if self.family.switch == name else [f"--qguard-{name}=off"]
        return [*found, "-k", self.family.test]

    @property
    def pytest(self) -> str:
        """The command that judges it in any environment."""
        given = [f"--qguard-artifact={self.artifact}"] if self.artifact else []
        return shlex.join(["pytest", "--pyargs", "qguard.gate", *self.options, *given])

    def answer(self, checks: Iterable[Check]) -> Check:
        """The check of this metric, the failed one if there are several.

        Raises:
            MeasurementProblem: if there is none.
        """
        checks = list(checks)
        found = [c for c in checks if c.name == self.metric and c.slice == self.slice and c.accepted is None]
        if not found:
            parts = sorted({c.slice for c in checks if c.name == self.metric and c.slice})
            has = f"; it has the slices {', '.join(parts)}" if parts and self.slice else ""
            raise MeasurementProblem(f"no value for {self.label} of {self.target}{has}")
        return next((c for c in found if c.outcome == "fail"), found[0])
