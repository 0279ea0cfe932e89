"""The gates in force: what a verdict was judged by, and what it would be judged by now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from qguard.gates import Gate, parse_bound
from qguard.metrics import FAMILIES, TASK
from qguard.metrics.artifact import BOUNDS
from qguard.suites import Suite

if TYPE_CHECKING:
    from qguard.harness import Harness
    from qguard.precisions import Precision

# Bounds are printed with six digits: what is compared with a printed one may lie that far from it
PRINTED = 1e-6

Gates = dict[str, dict[str, str]]


def gates_in_force(harness: Harness, precision: Precision, model: str) -> Gates:
    """Every gate of a precision that needs no baseline, by its key.

    Args:
        harness: Its configuration is asked, nothing is measured.
        precision: What is judged.
        model: The name of the model that it is of.

    Returns:
        ``METRIC`` or ``METRIC[SLICE]`` → ``bound`` and ``on``, as :class:`qguard.config.tables.GateConfig` has them.
    """
    recipe, found = precision.recipe, dict[str, dict[str, str]]()
    for name, bound in BOUNDS.items():
        if name != "artifact.granularity" or (recipe.granularity is not None and recipe.stores_integers):
            found[name] = {"bound": bound, "on": "value"}
    for gate in harness.gates(precision, model):
        found[_key(gate)] = {"bound": f"{gate.op} {gate.bound:g}", "on": gate.on}
    latency = harness.config.latency
    if latency.mode == "gate":
        if speedup := harness.timing.speedup(precision):
            for bucket in harness.timing.buckets(precision):
                found[f"latency.speedup[{bucket}]"] = {"bound": f"{speedup.op} {speedup.bound:g}", "on": "value"}
        if latency.trend and harness.timing.buckets(precision):
            op, limit = parse_bound("latency.trend", latency.trend)
            found["latency.trend[*]"] = {"bound": f"{op} {limit:g}", "on": "value"}
    return dict(sorted(found.items()))


def _key(gate: Gate) -> str:
    return gate.metric + (f"[{gate.slice}]" if gate.slice else "")


def split(key: str) -> tuple[str, str | None]:
    """``METRIC[SLICE]`` as metric and slice."""
    metric, _, part = key.partition("[")
    return metric, part.removesuffix("]") or None


def must_judge(gates: Mapping[str, Mapping[str, str]], suite: Suite, also: Collection[str]) -> list[str]:
    """The keys of which a complete verdict holds a check: task quality needs labels, a slice must occur.

    Args:
        gates: In force.
        suite: What was judged.
        also: Families that this precision is judged in beyond those of all: ``memory`` needs a timed run.
    """
    from qguard.metrics.task import names

    task, slices = set(names(suite)), set(suite.slice_names)
    families = {*FAMILIES, "artifact", "invariance", *also}
    keys = []
    for key in gates:
        metric, part = split(key)
        family = metric.partition(".")[0]
        known = family in families or (family == TASK and metric in task) or metric == "latency.speedup"
        if known and (part is None or part in slices or metric == "latency.speedup"):
            keys.append(key)
    return keys


def gate_of(gates: Mapping[str, Mapping[str, str]], name: str, part: str | None) -> str | None:
    """The key of the gate that bounds a value, the nearest one first; ``None`` where none does."""
    keys = (name,) if part is None else (f"{name}[{part}]", f"{name}[*]")
    return next((k for k in keys if k in gates), None)


def laxer(then: Mapping[str, str] | None, now: Mapping[str, str]) -> bool:
    """Whether a recorded gate lets through what the one now in force does not; also when they judge different things."""
    if then is None or then["on"] != now["on"]:
        return True
    (op, limit), (now_op, now_limit) = (parse_bound("recorded", g["bound"]) for g in (then, now))
    if op != now_op:
        return True
    return limit < now_limit if op == ">=" else limit > now_limit


def holds(value: float, bound: str) -> bool:
    """Whether a value satisfies a printed bound; NaN never does."""
    op, limit = parse_bound("recorded", bound)
    slack = PRINTED * max(1.0, abs(limit))
    return value >= limit - slack if op == ">=" else value <= limit + slack
