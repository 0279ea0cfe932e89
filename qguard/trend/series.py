"""Series: one value of one target over the reports, in lines whose points can be compared.

Two points can be compared if they were measured on an equal kind of machine, on the same texts and weights, against the same
golden. A line holds such points alone. A step between lines is explained by what differs, and says nothing of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from qguard.accepted.scores import ROUNDING
from qguard.families import FAMILIES, infos
from qguard.latency.decision import UNFIT
from qguard.metrics.bootstrap import DETECTABLE, Z
from qguard.report.headline import bound_of, name_of
from qguard.report.host import label
from qguard.trend.source import Step

PROVEN = 3  # repeats without a difference that show a target to be deterministic
UNKNOWN = "not recorded"  # in reports of older versions
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Context:
    """What points must share to be compared.

    Attributes:
        host: The kind of machine: instruction sets, and for times also the CPU and its cores.
        suite: First digits of the hash of the suite.
        weights: The same of the model's weights.
        golden: The same of the golden's outputs.
        items: How many items the value is of; ``None`` where their number says nothing about what is measured.
    """

    host: str
    suite: str
    weights: str
    golden: str
    items: int | None = None

    @property
    def reference(self) -> tuple[str, str, str]:
        """Suite, weights and golden."""
        return self.suite, self.weights, self.golden


@dataclass(frozen=True)
class Point:
    """One value of a series.

    Attributes:
        step: Index of its report.
        value: As the report has it.
        error: Its standard error over items; of a time over pairs of runs; ``None`` if the report does not say it.
        interval: Both ends, either of which may be ``None``.
        bounds: The gates in words.
        limits: Their numbers.
        accepted: The accepted score in words, and its limit.
        outcome: The worst outcome of its checks.
        context: What it can be compared with.
    """

    step: int
    value: float
    error: float | None
    interval: tuple[float | None, float | None] | None
    bounds: tuple[str, ...]
    limits: tuple[float, ...]
    accepted: tuple[str, float | None] | None
    outcome: str
    items: int
    context: Context


@dataclass(frozen=True)
class Name:
    """Which series: of which target, metric and slice."""

    model: str
    suite: str
    precision: str
    metric: str
    slice: str | None

    @property
    def target(self) -> tuple[str, str, str]:
        """Precision, model and suite."""
        return self.precision, self.model, self.suite

    @property
    def label(self) -> str:
        """Metric and slice, as a gate's key is written."""
        return self.metric + (f"[{self.slice}]" if self.slice else "")


@dataclass(frozen=True)
class Line:
    """Points of a series that can be compared, in order.

    Attributes:
        repeats: How often the same file was judged again with the same versions, in this target and context: without a difference
            in any value, and with one.
        made: Step → what the value was computed with; see :func:`made`.
    """

    name: Name
    context: Context
    points: tuple[Point, ...]
    repeats: tuple[int, int]
    made: Mapping[int, str] = field(repr=False)

    @property
    def steady(self) -> bool:
        """Whether what is equal was seen to give equal values, so that a difference has a cause; never of times."""
        same, differ = self.repeats
        return not timed(self.name.metric) and same >= PROVEN and not differ

    @cached_property
    def relative(self) -> bool:
        """Whether a change is told as a ratio: of times, memory and sizes."""
        metric = self.name.metric
        return (timed(metric) or metric.endswith("size_ratio")) and all(p.value > 0 for p in self.points)


def series(steps: Sequence[Step]) -> dict[Name, list[Point]]:
    """All points of all series, in the order of the steps."""
    found: dict[Name, list[Point]] = {}
    for i, step in enumerate(steps):
        for run in step.report["runs"]:
            for name, point in _points(i, run).items():
                mine = found.setdefault(name, [])
                if mine and mine[-1].step == i and mine[-1].context == point.context:
                    continue  # a merged report may hold one target twice; the first stands
                mine.append(point)
    return found


def _points(step: int, run: Mapping[str, Any]) -> dict[Name, Point]:
    by: dict[Name, list[Mapping[str, Any]]] = {}
    for check in run["checks"]:
        if check["outcome"] != UNFIT:  # the machine was: its value is none
            by.setdefault(Name(run["model"], run["suite"], name_of(run), check["name"], check["slice"]), []).append(check)
    return {name: _point(step, run, checks) for name, checks in by.items()}


def _point(step: int, run: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> Point:
    own = [c for c in checks if not c["accepted"]] or checks
    first = own[0]
    bounds = [b for c in own if (b := bound_of(c)) is not None and not c["accepted"]]
    held = next((c for c in checks if c["accepted"]), None)
    limit = bound_of(held) if held else None
    accepted = (str(held["accepted"]), limit.number if limit else None) if held else None
    interval = first["interval"] if first["interval"] and len(first["interval"]) == 2 else None
    return Point(
        step, float(first["value"]), _error(first, run), (interval[0], interval[1]) if interval else None,
        tuple(str(b) for b in bounds), tuple(b.number for b in bounds), accepted,
        "fail" if any(c["outcome"] == "fail" for c in checks) else str(first["outcome"]), first["items"], _context(run, first),
    )  # fmt: skip


def _error(check: Mapping[str, Any], run: Mapping[str, Any]) -> float | None:
    interval = check["interval"]
    if interval and len(interval) == 2 and None not in interval:
        return abs(float(interval[1]) - float(interval[0])) / (2 * Z)
    if check["detectable"] is not None:
        return float(check["detectable"]) / DETECTABLE
    errors = run.get("standard_errors")
    found = errors.get(check["name"]) if isinstance(errors, dict) and check["slice"] is None else None
    return float(found) if isinstance(found, int | float) else None


def family(metric: str) -> str:
    """The metric family."""
    return metric.partition(".")[0]


def timed(metric: str) -> bool:
    """Whether a value is of a process, so that it depends on more of the machine than its instruction sets."""
    known = FAMILIES.get(family(metric))
    return "process" in known.needs if known else False


@cache
def _infos() -> dict[str, Any]:
    return dict(infos())


def better(line: Line) -> bool | None:
    """Whether higher is better; ``None`` of a metric that is not known here and has no gate."""
    if info := _infos().get(line.name.metric):
        return bool(info.higher_is_better)
    bound = next((b for p in line.points for b in p.bounds), None)
    return None if bound is None else bound.startswith(">=")


def judges(metric: str) -> bool:
    """Whether a value says something of the candidate."""
    info = _infos().get(metric)
    return not (info is not None and info.of_fp32)


def _context(run: Mapping[str, Any], check: Mapping[str, Any]) -> Context:
    # of a file or a time the number of items is a finding of its own, or of the runs that were needed
    known = FAMILIES.get(family(check["name"]))
    counted = known is None or not {"files", "process", "endpoint"} & set(known.needs)
    machine = host_of(run) if timed(check["name"]) else machine_of(run)
    return Context(machine, *reference_of(run), check["items"] if counted else None)


def machine_of(run: Mapping[str, Any]) -> str:
    """The kind of machine that decides values: instruction sets, or the name of an accelerator; see :mod:`qguard.accepted`."""
    return str((run.get("scope") or {}).get("machine") or (run["host"] or {}).get("class") or UNKNOWN)


def host_of(run: Mapping[str, Any]) -> str:
    """The kind of machine that decides times: its CPU, cores and instruction sets."""
    host = run["host"] or {}
    return label(host) if {"cpu", "cores", "class"} <= host.keys() else machine_of(run)


def reference_of(run: Mapping[str, Any]) -> tuple[str, str, str]:
    """What values are held against: the first digits of the hashes of suite, weights and golden."""
    golden, provenance = (run.get("scope") or {}).get("golden") or {}, run["details"].get("provenance") or {}
    weights = golden.get("weights") or (provenance.get("model") or {}).get("weights_sha256")
    data = (provenance.get("golden") or {}).get("data_sha256")
    suite, weights, data = (str(v or UNKNOWN)[:16] for v in (golden.get("suite"), weights, data))
    return suite, weights, data


def made(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run's values were computed with: ``artifact``, ``python``, and packages with their versions."""
    host, provenance = run["host"] or {}, run["details"].get("provenance") or {}
    versions = {**(provenance.get("versions") or {}), **(host.get("versions") or {})}
    found = {str(k): str(v) for k, v in versions.items() if v != "absent"}
    if host.get("python"):
        found["python"] = str(host["python"])
    if run["artifact"]:
        found["artifact"] = str(run["artifact"]["sha256"])[:12]
    return found


def least(values: Sequence[float], items: int) -> float:
    """The largest difference of values that is taken for rounding.

    It is 0.0001: other kernels of one CPU flip a tie at times (see :data:`qguard.accepted.scores.ROUNDING`). A tie that flips
    moves a share by one item, or by a tenth of one where ten neighbors are counted. So of values that are such shares it is that.
    """
    for parts in (items, 10 * items):
        if items and all(abs(v * parts - round(v * parts)) < 1e-6 * max(1, parts**0.5) for v in values):
            return max(ROUNDING, (1 + _TOLERANCE) / parts)
    return ROUNDING


def lines(steps: Sequence[Step], found: Mapping[Name, Sequence[Point]]) -> list[Line]:
    """Every line of every series, the series in order, their lines as they begin."""
    of_runs: dict[tuple[Any, str], dict[int, str]] = {}
    for i, step in enumerate(steps):
        for run in step.report["runs"]:
            facts = {**made(run), "qguard": step.report["qguard"]}
            key = (name_of(run), run["model"], run["suite"]), machine_of(run)
            of_runs.setdefault(key, {})[i] = "" if not run["artifact"] else str(sorted(facts.items()))
    split: list[tuple[Name, Context, list[Point]]] = []
    for name, points in found.items():
        by: dict[Context, list[Point]] = {}
        for p in points:
            by.setdefault(p.context, []).append(p)
        split += [(name, context, mine) for context, mine in by.items()]
    proof = _repeats(split, of_runs)
    out = []
    for name, context, mine in split:
        repeats = proof.get((name.target, context.host, context.reference), (0, 0))
        out.append(Line(name, context, tuple(mine), repeats, of_runs.get((name.target, context.host), {})))
    return out


def _repeats(
    split: Sequence[tuple[Name, Context, Sequence[Point]]], made_by: Mapping[tuple[Any, str], Mapping[int, str]]
) -> dict[Any, tuple[int, int]]:
    """Of each target, host and golden: how often the same files and versions were judged again, and how often values differed."""
    pairs: dict[Any, dict[tuple[int, int], bool]] = {}
    for name, context, points in split:
        if timed(name.metric):
            continue
        key, of_run = (name.target, context.host, context.reference), made_by[name.target, context.host]
        for a, b in pairwise(points):
            if of_run[a.step] and of_run[a.step] == of_run[b.step]:
                same = abs(a.value - b.value) <= least((a.value, b.value), a.items)
                mine = pairs.setdefault(key, {})
                mine[a.step, b.step] = mine.get((a.step, b.step), True) and same
    return {key: (sum(mine.values()), sum(not v for v in mine.values())) for key, mine in pairs.items()}
