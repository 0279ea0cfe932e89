"""The gates in force: what a verdict was judged by, and what it would be judged by now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qguard import goldens
from qguard.families import TASK, TIMED, family_of, measure
from qguard.gates import Asked, Gate
from qguard.judging import latency
from qguard.judging.artifact import BOUNDS
from qguard.metrics import Comparison
from qguard.outputs import vectors_of
from qguard.suites import Suite
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.encoders import Floats
    from qguard.judging.session import Session
    from qguard.judging.target import Target
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
    for name, bound in {} if precision.runs_in.cannot_measure("artifact") else BOUNDS.items():
        if name != "artifact.granularity" or (recipe.granularity is not None and recipe.stores_integers):
            found.append(Gate(name, None, bound))
    found += session.gates(precision, model)
    settings, timed = session.config.latency, latency.buckets(session, precision, model)
    if settings.mode == "gate":
        every = [gate for bucket in timed for gate in latency.gates(session, precision, model, bucket)]
        found += [gate for gate in every if gate.metric != "latency.regression"]
        if settings.trend and timed:
            found.append(Gate("latency.trend", "*", settings.trend))
    return dict(sorted((gate.key, gate) for gate in found))


def split(key: str) -> tuple[str, str | None]:
    """``METRIC[SLICE]`` as metric and slice."""
    metric, _, part = key.partition("[")
    return metric, part.removesuffix("]") or None


def _key(metric: str, part: str | None) -> str:
    return metric + (f"[{part}]" if part else "")


def required(session: Session, target: Target, keys: Collection[str]) -> dict[str, int | None]:
    """The checks that a complete verdict of a target holds, by the families that judge it.

    Args:
        session: Its configuration and goldens are asked, nothing is measured.
        target: What was judged.
        keys: Of the gates in force.

    Returns:
        ``METRIC`` or ``METRIC[SLICE]`` → number of its items; ``None`` where only a measurement tells. Nothing where the golden
        is of other texts, for which a verdict is refused anyway.

    Raises:
        GoldenProblem: when the golden cannot be read.
    """
    from qguard.metrics.task import names

    golden = goldens.read(goldens.golden_folder(session.config.golden_root, target.model, target.suite))
    if golden.manifest["hashes"]["suite"] != session.suite_of(target.suite, target.model).sha256:
        return {}
    suite = golden.judged(session.suite_of(target.suite, target.model))
    found: dict[str, int | None] = {}
    for family in session.families(target):
        mine = [k for k in keys if family_of(k) == family.name]
        if family.switch and getattr(session.config, family.switch).mode != "gate":
            continue
        if family.sampled and suite.corpus is None:
            itself = _golden_itself(session, target, suite, golden.vectors)
            for m in measure(itself, family.name, worst=0):
                if gate_of(dict.fromkeys(mine), m.name, m.slice):
                    found[_key(m.name, m.slice)] = m.items
            continue
        # of others a measurement alone tells in which slices there is a value
        for metric, part in map(split, mine):
            named = part is None or (part != "*" and (family.test == TIMED or part in suite.slice_names))
            if named and (family.name != TASK or metric in names(suite)):
                found[_key(metric, part)] = None
    return found


def _golden_itself(session: Session, target: Target, suite: Suite, vectors: Floats) -> Comparison:
    """The golden in the candidate's place: it has the candidate's items, slices and labels."""
    precision = target.precision
    kept = vectors[:, : precision.dims] if precision.dims else vectors  # of other kinds than dense models, whole
    found = Comparison.of(suite, kept, kept, session.similarity(target.model))
    if precision.dims:
        found = replace(found, whole=vectors.astype(np.float64))
    values = vectors_of(kept)
    ranges = np.stack((values.min(0), values.max(0)))  # any will do: the number of items does not depend on them
    return found if precision.vectors == FLOAT else found.quantize(precision.vectors, ranges)


def gate_of(gates: Mapping[str, object], name: str, part: str | None) -> str | None:
    """The key of the gate that bounds a value, the nearest one first; ``None`` where none does."""
    keys = (name,) if part is None else (f"{name}[{part}]", f"{name}[*]")
    return next((k for k in keys if k in gates), None)


def laxer(then: Asked | None, now: Asked) -> bool:
    """Whether a recorded gate lets through what the one now in force does not; also when they judge different things."""
    return then is None or then.on != now.on or then.bound.laxer(now.bound)
