"""``qguard compare``: several precisions side by side, what each costs and gives, and which of them no other beats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from qguard.errors import QguardError
from qguard.gates.check import Check
from qguard.harness import Harness, Target
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, spec_of
from qguard.latency.trial import plan
from qguard.metrics import families_of
from qguard.precisions import Precision

BUCKETS = (Bucket(64, 1), Bucket(64, 32))
SHOWN = ("ranking.overlap@10", "ranking.top1", "embedding.cosine_p01", "embedding.cosine_min", "similarity.p99_error")
SECONDS = 2.0  # of timing for one bucket, beyond the fewest rounds
ROUNDS = (3, 25)
LEVEL = 1.03  # speeds nearer than this are one speed: the trial is short


@dataclass(frozen=True)
class Row:
    """One precision of one model on one suite.

    Attributes:
        values: The metrics of :data:`SHOWN`, for the whole suite.
        bytes: Size of the weights.
        speed: Bucket → time of fp32 in ONNX Runtime over the candidate's; medians of a few runs in turn, no gate.
        verdict: ``pass`` or ``fail`` by the precision's own accuracy gates, ``unmeasured`` where ``error`` says why.
        failed: The checks that do not hold.
        best: No other row of this model and suite is at least as good in overlap@10, speed and size, and better in one.
    """

    precision: str
    runtime: str
    model: str
    suite: str
    values: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    speed: dict[str, float] = field(default_factory=dict)
    verdict: str = "unmeasured"
    failed: tuple[Check, ...] = ()
    error: str | None = None
    best: bool = False

    @property
    def overall_speed(self) -> float:
        """Geometric mean over the buckets."""
        return math.exp(sum(math.log(s) for s in self.speed.values()) / len(self.speed))


def compare(harness: Harness, precisions: list[Precision], say: Callable[[str], None]) -> list[Row]:
    """Measure every precision on every configured model and suite.

    Args:
        harness: Models and suites as selected.
        precisions: What to compare.
        say: Called with the name of what is measured next.

    Returns:
        One row each, models and suites together; a precision that could not be measured says why, and stops no other.
    """
    rows = []
    speeds: dict[tuple[Precision, str], dict[str, float]] = {}
    targets = sorted(harness.targets(precisions), key=lambda t: (t.model, t.suite))  # stable: precisions stay as typed
    for target in targets:
        say(str(target))
        row = Row(str(target.precision), target.precision.runtime, target.model, target.suite)
        try:
            row = _judged(harness, target, row)
            key = target.precision, target.model
            if key not in speeds:
                speeds[key] = {str(b): _speed(harness, target, b) for b in BUCKETS}
            rows.append(replace(row, speed=speeds[key]))
        except QguardError as e:
            rows.append(replace(row, verdict="unmeasured", error=str(e)))
    return mark_best(rows)


def _judged(harness: Harness, target: Target, row: Row) -> Row:
    families = families_of(harness.suite(target.suite))
    checks = [c for family in ("artifact", *families) for c in harness.checks(target, family)]
    values = {c.name: c.value for c in checks if c.slice is None and c.name in SHOWN}
    failed = tuple(c for c in checks if c.outcome == "fail")
    size = harness.artifact(target.precision, target.model).bytes
    return replace(row, values=values, bytes=size, verdict="fail" if failed else "pass", failed=failed)


def _speed(harness: Harness, target: Target, bucket: Bucket) -> float:
    threads = harness.config.latency.threads
    base = Precision("fp32", "onnx")
    batch = bucket.fill(harness.golden(target.model, target.suite).token_ids)
    fp32, candidate = (spec_of(harness.artifact(p, target.model), p, threads) for p in (base, target.precision))
    return 1.0 if fp32 == candidate else time_ratio(fp32, candidate, batch, bucket.tokens)


def time_ratio(baseline: ArmSpec, candidate: ArmSpec, batch: Any, tokens: int) -> float:
    """Time of ``baseline`` over that of ``candidate``: the median of a few rounds in which both run in turn."""
    arms = [spec.arm(batch) for spec in (baseline, candidate)]
    try:
        for arm in arms:
            arm.open()
        shape = plan(max(min(wall for wall, _ in arm.block(1, 2)) for arm in arms) / 1e9, tokens)
        ratios: list[float] = []
        start = time.monotonic()
        while len(ratios) < ROUNDS[0] or (len(ratios) < ROUNDS[1] and time.monotonic() - start < SECONDS):
            order = (0, 1) if len(ratios) % 2 else (1, 0)
            seconds = {side: median(wall for wall, _ in arms[side].block(*shape)) for side in order}
            ratios.append(seconds[0] / seconds[1])
    finally:
        for arm in arms:
            arm.close()
    return median(ratios)


def mark_best(rows: Iterable[Row]) -> list[Row]:
    """Mark the Pareto front of each model and suite over overlap@10, speed and size; unmeasured rows are never on it."""
    rows = list(rows)
    return [
        replace(
            r, best=r.error is None and not any(_beats(o, r) for o in rows if (o.model, o.suite) == (r.model, r.suite))
        )
        for r in rows
    ]  # fmt: skip


def _beats(a: Row, b: Row) -> bool:
    if a.error is not None or b.error is not None:
        return False
    overlap = a.values[SHOWN[0]] - b.values[SHOWN[0]]
    faster = a.overall_speed / b.overall_speed
    as_good = overlap >= 0 and a.bytes <= b.bytes and faster >= 1 / LEVEL
    return as_good and (overlap > 0 or a.bytes < b.bytes or faster > LEVEL)


def to_json(rows: Iterable[Row]) -> dict[str, Any]:
    """The stable shape of ``--json``, schema 2; failed checks are as in a report."""
    return {"schema": 2, "rows": [asdict(replace(r, failed=())) | {"failed": [c.to_json() for c in r.failed]} for r in rows]}


def table(rows: list[Row]) -> Any:
    """The rows as a table of rich."""
    from rich.table import Table

    several = len({(r.model, r.suite) for r in rows}) > 1
    heads = ["overlap@10", "top-1", "cosine p01", "cosine min", "error p99", "MB", *(f"speed {b}" for b in BUCKETS)]
    out = Table("", "precision", *(["model", "suite"] if several else []))
    for head in heads:
        out.add_column(head, justify="right")
    out.add_column("verdict")
    for r in rows:
        cells = ["*" if r.best else "", r.precision, *([r.model, r.suite] if several else [])]
        if r.error is None:
            numbers = [f"{r.values[m]:.4f}" for m in SHOWN] + [f"{r.bytes / 1e6:.1f}"] + [f"{s:.2f}" for s in r.speed.values()]
        else:
            numbers = [""] * len(heads)
        out.add_row(*cells, *numbers, r.verdict + (f" ({len(r.failed)})" if r.failed else ""))
    return out
