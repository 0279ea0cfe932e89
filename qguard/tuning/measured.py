"""One candidate, measured: what it holds on one half of a suite, how fast it is, and how large."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qguard.errors import QguardError
from qguard.families import measure, sampled
from qguard.gates.check import Check, judge
from qguard.judging.compare import BUCKETS, SHOWN, speed
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.precisions import Precision
from qguard.tuning.space import described

NEAREST = ("ranking.overlap@10", "order.tau", "score.spearman", "weights.kept")  # what a picture shows, the first that there is


@dataclass(frozen=True)
class Measured:
    """A candidate.

    Attributes:
        key: Of its artifact: everything that decides the bytes.
        words: What it is.
        settings: As in ``[tool.qguard.precision.NAME]``.
        holds: Whether every gate of accuracy and on the file holds on the half that chooses.
        failed: The checks that do not, in words.
        missed: How far the worst of them misses its bound, over the distance that the bound leaves to perfect; 0 where all hold.
        values: Metric → value on that half.
        speed: Bucket → time of fp32 in ONNX Runtime over the candidate's.
        busy: Whether other work interrupted too many of those runs.
        bytes: Of the artifact.
        seconds: That it took to make and measure.
        error: Why it could not be measured, in words; then nothing else counts.
    """

    key: str
    words: str
    settings: dict[str, Any]
    holds: bool = False
    failed: tuple[str, ...] = ()
    missed: float = 0.0
    values: dict[str, float] | None = None
    speed: dict[str, float] | None = None
    busy: bool = False
    bytes: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def overall(self) -> float:
        """Geometric mean of the speeds; 0 where it was not timed."""
        speeds = list((self.speed or {}).values())
        return math.exp(sum(map(math.log, speeds)) / len(speeds)) if speeds else 0.0

    @property
    def accuracy(self) -> tuple[str, float]:
        """The metric of the picture and its value."""
        return next(((n, (self.values or {})[n]) for n in NEAREST if n in (self.values or {})), (NEAREST[0], math.nan))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"failed": list(self.failed)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measured:
        """What :meth:`to_json` gave."""
        return cls(**{**values, "failed": tuple(values["failed"])})


def judged_on(session: Session, target: Target, rows: Sequence[int], gated_as: Precision) -> list[Check]:
    """The checks of accuracy of a target on some texts of its suite, under the gates of another precision."""
    golden, whole = session.golden(target.model, target.suite), session.suite(target.suite, target.model)
    suite = whole.without(set(range(len(whole.texts))) - set(rows))
    vectors = session.embeddings(target)
    rows = list(rows)
    compared = Comparison.of(suite, golden.vectors[rows], vectors[rows], session.similarity(target.model))
    measured = [m for f in sampled(suite, session.kind(target.model)) for m in measure(compared, f)]
    gates = session.gates(gated_as, target.model)
    if all(g.on == "value" for g in gates):  # no gate asks for an interval
        measured = [replace(m, uncertainty=None) for m in measured]
    return judge(measured, gates, target.suite)


def of_the_file(session: Session, target: Target) -> list[Check]:
    """The checks that need no suite: what the file holds, and what a batch does to a text."""
    elsewhere = {"generated", "process", "index", "cpu"}
    names = [f.name for f in session.families(target) if not f.sampled and not elsewhere & set(f.needs)]
    return [check for name in names for check in session.checks(target, name)]


def measured(
    session: Session, target: Target, rows: Sequence[int], gated_as: Precision, key: str, settings: dict[str, Any]
) -> Measured:
    """Make a candidate and measure it; whatever stops it is its ``error``, and stops nothing else."""
    start, found = time.monotonic(), Measured(key, described(target.precision), settings)
    try:
        checks = [*judged_on(session, target, rows, gated_as), *of_the_file(session, target)]
        failed = [c for c in checks if c.outcome == "fail"]
        timed = speeds(session, target)
        found = replace(
            found,
            holds=not failed,
            failed=tuple(f"{c.label} {c.value:.4g}, gate {c.bound}" for c in failed),
            missed=max((_missed(c) for c in failed), default=0.0),
            values={c.name: c.value for c in checks if c.slice is None and c.name in (*SHOWN, *NEAREST)},
            speed={bucket: ratio for bucket, (ratio, _) in timed.items()},
            busy=any(busy for _, busy in timed.values()),
            bytes=session.artifact(target.precision, target.model).bytes,
        )
    except QguardError as e:
        found = replace(found, error=str(e))
    return replace(found, seconds=round(time.monotonic() - start, 1))


def _missed(check: Check) -> float:
    bound = check.bound
    if bound is None:
        return 0.0
    room = abs(1 - bound.number) if bound.lower else abs(bound.number)
    return abs(bound.margin(check.value)) / max(room, 1e-9)


def speeds(session: Session, target: Target) -> dict[str, tuple[float, bool]]:
    """Bucket → time of fp32 in ONNX Runtime over the candidate's, and whether other work interrupted too many runs."""
    return {str(bucket): speed(session, target, bucket) for bucket in BUCKETS}
