"""Which families judge a target, and their checks."""

from __future__ import annotations

from qguard import goldens
from qguard.boundary import step
from qguard.encoders.runtimes import NO_FILES, TOKEN_IDS
from qguard.errors import MeasurementProblem
from qguard.families import FAMILIES, TIMED, Family, family_of, measure
from qguard.families import standard_errors as errors_of
from qguard.gates.check import Check, judge
from qguard.judging import cpus, latency, load, service
from qguard.judging.facts import scope
from qguard.judging.once import once
from qguard.judging.robustness import tried
from qguard.judging.session import Session, Target
from qguard.metrics import Measured


def families_of(session: Session, target: Target) -> list[Family]:
    """The families that a target is judged in, in the order of the gate."""
    return [
        f
        for f in FAMILIES.values()
        if session.kind(target.model) in f.kinds
        and all(_has(session, need, target) for need in f.needs)
        and any(target.precision.vectors in m.vectors for m in f.metrics)
        and not (f.test == TIMED and target.precision.runs_in.cannot_measure(f.name))
    ]


def _has(session: Session, need: str, target: Target) -> bool:
    if need == "labels":
        return session.labelled(target.suite, target.model)
    if need == "candidates":
        return session.ordered(target.suite, target.model)
    if need == "files":
        return target.precision.runs_in.files != NO_FILES
    if need == "tokens":
        return target.precision.runs_in.takes == TOKEN_IDS
    if need == "told":
        return target.precision.runs_in.tells
    if need == "dimensions":
        return bool(target.precision.dims)
    if need == "generated":
        return tried(session, target.precision)
    if need == "endpoint":
        return service.tried(session, target.precision)
    if need == "index":
        return bool(session.indexes)
    if need == "baseline":  # of the model's own vectors, before they are cut or quantized
        return session.baseline_python is not None and target.precision == target.precision.plain
    if need == "cpu":
        return cpus.fits(session, target.precision)
    if need == "process":
        return bool(latency.buckets(session, target.precision, target.model))
    return True


def tests_of(session: Session, target: Target) -> list[str]:
    """The gate tests that judge a target, beside the one of its golden; see :data:`qguard.report.CURRENT`."""
    return [
        *dict.fromkeys(f.test for f in families_of(session, target) if f.test != TIMED),
        *(f"{TIMED}[{b}]" for b in latency.buckets(session, target.precision, target.model)),
    ]


def left_out(session: Session, target: Target) -> dict[str, str]:
    """What is not measured of a target on purpose, each with its reason: what its runtime or its server does not allow, and what
    the project or an option switched off.
    """
    precision = target.precision
    switches = dict.fromkeys(f.switch for f in FAMILIES.values() if f.switch)
    off = {name: f"--qguard-{name}=off" for name in switches if getattr(session.config, name).mode == "off"}
    gone = {f.name for f in FAMILIES.values() if f.switch in off}
    found = {k: why for k, why in precision.runs_in.left_out().items() if k.partition(".")[0] not in gone}
    if not service.is_server(precision):  # nothing that is switched off is missed
        off.pop("service", None)
    if "latency" not in off and (why := load.left_out(session, precision)):
        found["latency"] = why
    if "latency" not in off and load.has_stated_bounds(session, precision):
        found[load.STATED] = "judged by qguard latency import"
    found |= cpus.left_out(session, precision)
    return {**off, **found, **service.left_out(session, precision, target.model)}


def checks(session: Session, target: Target, family: str) -> list[Check]:
    """All checks of one metric family, a name in :data:`qguard.families.FAMILIES`."""
    part = FAMILIES.find(family)
    with step(f"measuring {family} of {target}"):
        found = measure(session.comparison(target), family) if part.sampled else list(part.judged(session, target))
    if not found:
        raise MeasurementProblem(f"the metric family {family!r} gave no value; its test may not pass")
    measured = [m for m in found if isinstance(m, Measured)]
    judged = [c for c in found if isinstance(c, Check)]  # by the family itself
    if not measured:
        return judged
    gates = session.gates(target.precision, target.model)
    if not part.sampled:  # of a suite's items a gate may bound what its labels do not allow
        lost = {g.metric for g in gates if family_of(g.metric) == family} - {m.name for m in measured}
        if lost:
            what = "the artifact holds nothing that this gate bounds" if family == "artifact" else "it was not measured"
            raise MeasurementProblem(f"no value for {', '.join(sorted(lost))}: {what}")
    if slices := set(session.suite_of(target.suite, target.model).slice_names):  # those whose texts are all left out too
        of = {m.name for m in measured}
        idle = [g for g in gates if g.slice in slices and g.metric in of and not any(g.applies(m) for m in measured)]
        if idle:
            lost = {f"{g.metric}[{g.slice}]" for g in idle}
            raise MeasurementProblem(
                f"no value for {', '.join(sorted(lost))}: the slice has too few items, equal labels, or an fp32 score "
                "that is not above 0; remove the gate or give the slice more data"
            )
    return [*judged, *judge(measured, gates, target.suite, session.intervals), *_accepted(session, target, family, measured)]


def _accepted(session: Session, target: Target, family: str, measured: list[Measured]) -> list[Check]:
    """Values that have an accepted score, held against it."""
    if not FAMILIES.find(family).sampled:
        return []
    from qguard.accepted.scores import judge_scores

    folder = goldens.golden_folder(session.config.golden_root, target.model, target.suite)
    return judge_scores(folder, scope(session, target), measured, target.suite)


@once
def standard_errors(session: Session, target: Target, family: str) -> dict[str, float]:
    """Standard error of each whole-suite value of a family over the suite's items, by metric."""
    return errors_of(session.comparison(target), family)
