"""``qguard compare``: several precisions side by side, what each costs and gives, and which of them no other beats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from qguard.errors import QguardError, UsageProblem, unknown
from qguard.gates.check import Check, PartlyMeasured
from qguard.judging.facts import stored_bytes
from qguard.judging.session import Session, Target
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, spec_of
from qguard.latency.decision import block_time
from qguard.latency.trial import DROPPED, plan
from qguard.metrics.truncation import OVERLAP
from qguard.precisions import Precision, dimensions
from qguard.vectors.quantized import FLOAT, KINDS

BUCKETS = (Bucket(64, 1), Bucket(64, 32))
SHOWN = ("ranking.overlap@10", "ranking.top1", "embedding.cosine_p01", "embedding.cosine_min", "similarity.p99_error")
# the same of cross-encoders, each with its head in the table
OF_SCORES = {
    "order.tau": "tau", "order.overlap@5": "overlap@5", "order.top1": "first kept", "score.p99_error": "error p99",
    "score.max_error": "error max",
}  # fmt: skip
# of a model with a vector to each token, in the same columns
_OF_TOKENS = {"tokens.cosine_p01": "embedding.cosine_p01", "tokens.cosine_min": "embedding.cosine_min"}
# of a precision with fewer dimensions: fp32's loss by them, and both losses
ALONE, TOTAL = OVERLAP
OF_WORDS = ("weights.kept", "weights.p99_error")  # of a sparse model
SECONDS = 2.0  # of timing for one bucket, beyond the fewest rounds
ROUNDS = (3, 25)
LEVEL = 1.03  # speeds nearer than this are one speed: the trial is short


@dataclass(frozen=True)
class Row:
    """One precision of one model on one suite.

    Attributes:
        values: The metrics of :data:`SHOWN`, :data:`ALONE`, :data:`TOTAL` and :data:`OF_WORDS`, for the whole suite; of a
            multi-vector model those of its tokens in place of the vectors'.
        bytes: Size of the weights; ``None`` without files.
        vector_bytes: Size of one stored vector.
        speed: Bucket → time of fp32 in ONNX Runtime over the candidate's; medians of a few runs in turn, no gate. Empty where the
            runtime is not timed in this process.
        busy: Buckets of ``speed`` in which other work interrupted too many runs: their ratios say little.
        verdict: by every gate but those on latency: ``pass``, ``fail``, or ``unmeasured`` where ``error`` says why.
        failed: The checks that do not hold.
        best: No other row of this model and suite is at least as good in overlap@10 with whole fp32, in speed and in both sizes,
            and better in one; of rows of which all four are known.
    """

    precision: str
    runtime: str
    model: str
    suite: str
    values: dict[str, float] = field(default_factory=dict)
    bytes: int | None = None
    vector_bytes: int | None = None
    speed: dict[str, float] = field(default_factory=dict)
    busy: tuple[str, ...] = ()
    verdict: str = "unmeasured"
    failed: tuple[Check, ...] = ()
    error: str | None = None
    best: bool = False

    @property
    def comparable(self) -> bool:
        """Whether accuracy, sizes and speed are known."""
        return self.error is None and self.bytes is not None and bool(self.speed) and not self.busy

    @property
    def overlap(self) -> float:
        """overlap@10 with whole fp32: by both losses, where dimensions are cut; of scores the rank correlation with fp32's."""
        known = (self.values[name] for name in (TOTAL, SHOWN[0], "order.tau", "score.spearman") if name in self.values)
        return next(known, 0.0)

    @property
    def overall_speed(self) -> float:
        """Geometric mean over the buckets."""
        return math.exp(sum(math.log(s) for s in self.speed.values()) / len(self.speed))


def swept(precisions: Iterable[Precision], dims: str | None, vectors: str | None) -> list[Precision]:
    """Every precision with every number of dimensions and every kind of stored vectors.

    Args:
        precisions: As typed.
        dims: Numbers separated by commas; ``None`` for what the precisions say.
        vectors: Kinds separated by commas, ``float32`` among them; ``None`` for what the precisions say.

    Raises:
        UsageProblem: for what is no number or kind, or where a precision says it too.
    """
    found = list(precisions)
    for option, text, said in (("--dims", dims, "dims"), ("--vectors", vectors, "vectors")):
        if text is None:
            continue
        if twice := [p for p in found if getattr(p, said) != getattr(p.plain, said)]:
            raise UsageProblem(f"{option} {text}: {twice[0]} says that itself; leave one of them out")
        values = [v.strip() for v in text.split(",") if v.strip()]
        if not values:
            raise UsageProblem(f"{option}: expected values separated by commas, found {text!r}")
        if said == "dims":
            chosen: list[Any] = [dimensions(v, f"{option} {text}") for v in values]
        else:
            chosen = values
            if unknown_kinds := [v for v in values if v not in (FLOAT, *KINDS)]:
                raise unknown("precision of vectors", unknown_kinds[0], (FLOAT, *KINDS))
        found = [replace(p, **{said: value}) for p in found for value in chosen]
    return list(dict.fromkeys(found))


def compare(session: Session, precisions: list[Precision], say: Callable[[str], None]) -> list[Row]:
    """Measure every precision on every configured model and suite.

    Args:
        session: Models and suites as selected. Where it has a fleet, each row is judged by a task; speeds are measured here, when
            nothing else runs.
        precisions: What to compare.
        say: Called with the name of what is measured next.

    Returns:
        One row each, models and suites together; a precision that could not be measured says why, and stops no other.
    """
    rows = []
    speeds: dict[tuple[Precision, str], dict[str, tuple[float, bool]]] = {}
    targets = sorted(session.targets(precisions), key=lambda t: (t.model, t.suite))  # stable: precisions stay as typed
    judged: Mapping[Target, Row | QguardError] = {}
    if session.fleet is not None:
        from qguard.judging.matrix import judged_afar

        judged = judged_afar(session, targets, say)
    for target in targets:
        say(str(target))
        row = row_of(target)
        try:
            found = judged.get(target) or judged_row(session, target, row)
            if isinstance(found, QguardError):
                raise found
            row = found
            key = target.precision.plain, target.model
            if key not in speeds:
                timed = BUCKETS if target.precision.runs_in.timed else ()
                speeds[key] = {str(b): speed(session, target, b) for b in timed}
            busy = tuple(b for b, (_, interrupted) in speeds[key].items() if interrupted)
            rows.append(replace(row, speed={b: ratio for b, (ratio, _) in speeds[key].items()}, busy=busy))
        except QguardError as e:
            rows.append(replace(row, verdict="unmeasured", error=str(e)))
    return mark_best(rows)


def row_of(target: Target) -> Row:
    """The row of a target, before anything is measured."""
    return Row(str(target.precision), target.precision.runtime, target.model, target.suite)


def judged_row(session: Session, target: Target, row: Row) -> Row:
    """The row with values, sizes and verdict: all but its speed.

    Raises:
        QguardError: when nothing of it could be measured.
    """
    # its speed is measured beside that of the others, and is no verdict
    families = [f.name for f in session.families(target) if "process" not in f.needs]
    checks, problems = list[Check](), list[str]()
    for family in families:
        try:
            checks += session.checks(target, family)
        except PartlyMeasured as e:
            checks += e.checks
            problems.append(str(e))
    known = (*SHOWN, *OF_SCORES, *_OF_TOKENS, "score.spearman", ALONE, TOTAL, *OF_WORDS)
    values = {c.name: c.value for c in checks if c.slice is None and c.name in known}
    failed = tuple(c for c in checks if c.outcome == "fail")
    artifact = session.artifact(target.precision, target.model)
    size = artifact.bytes if artifact.has_files else None
    row = replace(row, values=values, bytes=size, vector_bytes=stored_bytes(session, target))
    verdict = "fail" if failed else "unmeasured" if problems else "pass"
    return replace(row, verdict=verdict, failed=failed, error="; ".join(problems) or None)


def speed(session: Session, target: Target, bucket: Bucket) -> tuple[float, bool]:
    """Time of fp32 in ONNX Runtime over the target's in a short trial, and whether other work interrupted too many runs."""
    threads = session.config.latency.threads
    base = Precision("fp32", "onnx")
    batch = bucket.fill(session.golden(target.model, target.suite).token_ids)
    fp32 = spec_of(session.fp32(target.model, base.runtime), base, threads)
    candidate = spec_of(session.artifact(target.precision, target.model), target.precision, threads)
    return (1.0, False) if fp32 == candidate else timed_ratio(fp32, candidate, batch, bucket.tokens)


def time_ratio(baseline: ArmSpec, candidate: ArmSpec, batch: Any, tokens: int) -> float:
    """Time of ``baseline`` over that of ``candidate``: the median of a few rounds in which both run in turn."""
    return timed_ratio(baseline, candidate, batch, tokens)[0]


def timed_ratio(baseline: ArmSpec, candidate: ArmSpec, batch: Any, tokens: int) -> tuple[float, bool]:
    """As :func:`time_ratio`, and whether other work interrupted too many of the runs for it to say much."""
    arms = [spec.arm(batch) for spec in (baseline, candidate)]
    try:
        for arm in arms:
            arm.open()
        shape = plan(max(min(wall for wall, _ in arm.block(1, 2)) for arm in arms) / 1e9, tokens)
        ratios: list[float] = []
        runs = lost = 0
        start = time.monotonic()
        while len(ratios) < ROUNDS[0] or (len(ratios) < ROUNDS[1] and time.monotonic() - start < SECONDS):
            order = (0, 1) if len(ratios) % 2 else (1, 0)
            timings = {side: arms[side].block(*shape) for side in order}
            for side, spec in ((0, baseline), (1, candidate)):
                runs, lost = runs + len(timings[side]), lost + block_time(timings[side], spec.threads)[1]
            seconds = {side: median(wall for wall, _ in timings[side]) for side in order}
            ratios.append(seconds[0] / seconds[1])
    finally:
        for arm in arms:
            arm.close()
    return median(ratios), lost > DROPPED * runs


def mark_best(rows: Iterable[Row]) -> list[Row]:
    """Mark the Pareto front of each model and suite over overlap@10, speed and both sizes; a row that lacks one is not on it."""
    rows = list(rows)
    return [
        replace(
            r, best=r.comparable and not any(_beats(o, r) for o in rows if (o.model, o.suite) == (r.model, r.suite))
        )
        for r in rows
    ]  # fmt: skip


def _beats(a: Row, b: Row) -> bool:
    if not (a.comparable and b.comparable) or a.bytes is None or b.bytes is None:
        return False
    overlap, vector = a.overlap - b.overlap, (b.vector_bytes or 0) - (a.vector_bytes or 0)
    faster = a.overall_speed / b.overall_speed
    as_good = overlap >= 0 and a.bytes <= b.bytes and vector >= 0 and faster >= 1 / LEVEL
    return as_good and (overlap > 0 or a.bytes < b.bytes or vector > 0 or faster > LEVEL)


def to_json(rows: Iterable[Row]) -> dict[str, Any]:
    """The stable shape of ``--json``, schema 2; failed checks are as in a report."""
    return {"schema": 2, "rows": [asdict(replace(r, failed=())) | {"failed": [c.to_json() for c in r.failed]} for r in rows]}


def table(rows: list[Row]) -> Any:
    """The rows as a table of rich."""
    from rich.table import Table

    several = len({(r.model, r.suite) for r in rows}) > 1
    cut = any(ALONE in r.values for r in rows)
    named = dict(zip(SHOWN, ("overlap@10", "top-1", "cosine p01", "cosine min", "error p99"), strict=True)) | OF_SCORES
    of_scores = [name for name in OF_SCORES if any(name in r.values for r in rows)]
    vectors = not of_scores or any(name in r.values for r in rows for name in SHOWN)
    metrics = [*(SHOWN if vectors else ()), *of_scores]
    heads = [named[name] for name in metrics]
    words = any(OF_WORDS[0] in r.values for r in rows)
    heads += ["words kept", "words p99"] if words else []
    heads += [*(["by dimensions", "in all"] if cut else []), "MB", "vector B", *(f"speed {b}" for b in BUCKETS)]
    out = Table("", "precision", *(["model", "suite"] if several else []))
    for head in heads:
        out.add_column(head, justify="right")
    out.add_column("verdict")
    for r in rows:
        cells = ["*" if r.best else "", r.precision, *([r.model, r.suite] if several else [])]
        if r.error is None:
            size = "" if r.bytes is None else f"{r.bytes / 1e6:.1f}"
            speeds = [f"{r.speed[str(b)]:.2f}{'?' if str(b) in r.busy else ''}" if r.speed else "" for b in BUCKETS]
            shown = (*metrics, *(OF_WORDS if words else ()), *((ALONE, TOTAL) if cut else ()))
            known = r.values | {dense: r.values[m] for m, dense in _OF_TOKENS.items() if m in r.values}
            values = [f"{known[m]:.4f}" if m in known else "" for m in shown]
            numbers = [*values, size, str(r.vector_bytes), *speeds]
        else:
            numbers = [""] * len(heads)
        out.add_row(*cells, *numbers, r.verdict + (f" ({len(r.failed)})" if r.failed else ""))
    return out
