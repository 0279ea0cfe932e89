"""The gates in force: what a verdict was judged by, and what it would be judged by now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from qguard.families import FAMILIES, TASK
from qguard.gates import Asked, Gate
from qguard.judging import latency
from qguard.judging.artifact import BOUNDS
from qguard.suites import Suite

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.precisions import Precision


def gates_in_force(session: Session, precision: Precision, model: str) -> dict[str, Gate]:
    """Every gate of a precision that needs no baseline, by its key.

    Args:
        session: Its configuration is asked, nothing is measured.
        precision: What is judged.
        model: The name of the model that it is of.

    Returns:
        ``METRIC`` or ``METRIC[SLICE]`` → gate, sorted.
    """
    recipe, found = precision.recipe, list[Gate]()
    for name, bound in BOUNDS.items():
        if name != "artifact.granularity" or (recipe.granularity is not None and recipe.stores_integers):
            found.append(Gate(name, None, bound))
    found += session.gates(precision, model)
    settings, timed = session.config.latency, latency.buckets(session, precision, model)
    if settings.mode == "gate":
        if speedup := latency.speedup(session, precision, model):
            found += [Gate(speedup.metric, str(bucket), speedup.bound) for bucket in timed]
        if settings.trend and timed:
            found.append(Gate("latency.trend", "*", settings.trend))
    return dict(sorted((gate.key, gate) for gate in found))


def split(key: str) -> tuple[str, str | None]:
    """``METRIC[SLICE]`` as metric and slice."""
    metric, _, part = key.partition("[")
    return metric, part.removesuffix("]") or None


def must_judge(keys: Iterable[str], suite: Suite, also: Collection[str]) -> list[str]:
    """The keys of which a complete verdict holds a check: task quality needs labels, a slice must occur.

    Args:
        keys: Of the gates in force.
        suite: What was judged.
        also: Families that this precision is judged in beyond those of all: ``memory`` needs a timed run.
    """
    from qguard.metrics.task import names

    task, slices = set(names(suite)), set(suite.slice_names)
    families = {f.name for f in FAMILIES.values() if not {"labels", "generated", "process"} & set(f.needs)} | {*also}
    found = []
    for key in keys:
        metric, part = split(key)
        family = metric.partition(".")[0]
        known = family in families or (family == TASK and metric in task) or metric == "latency.speedup"
        if known and (part is None or part in slices or metric == "latency.speedup"):
            found.append(key)
    return found


def gate_of(gates: Mapping[str, Asked], name: str, part: str | None) -> str | None:
    """The key of the gate that bounds a value, the nearest one first; ``None`` where none does."""
    keys = (name,) if part is None else (f"{name}[{part}]", f"{name}[*]")
    return next((k for k in keys if k in gates), None)


def laxer(then: Asked | None, now: Asked) -> bool:
    """Whether a recorded gate lets through what the one now in force does not; also when they judge different things."""
    return then is None or then.on != now.on or then.bound.laxer(now.bound)
