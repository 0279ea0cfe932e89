"""What another load tool states of a server, added to a report. It can make a verdict worse, never better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qguard.encoders.runtimes import ENDPOINT
from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.gates.check import Check
from qguard.judging.load import STATED
from qguard.metrics.bounds import Bound
from qguard.report import worst
from qguard.report.answers import answers

if TYPE_CHECKING:
    from qguard.config import Config

_FIGURES = {"p50": "p50_ms", "p95": "p95_ms", "p99": "p99_ms"}


def bounds_of(config: Config, precision: str) -> dict[str, Bound]:
    """``p50``, ``p95``, ``p99`` and ``failed`` → the project's bound on what is stated, as far as there is one."""
    endpoint = config.endpoint.get(precision)
    stated = endpoint.load.stated if endpoint and endpoint.load else None
    return {name: bound for name, bound in stated if bound is not None} if stated else {}


def add_loads(report: dict[str, Any], loads: Sequence[dict[str, Any]], precision: str | None, config: Config) -> list[Check]:
    """Add loads to the runs of a server, with the checks of the project's bounds on what is stated.

    Args:
        report: Schema 2; it is changed.
        loads: What a tool states, in the shape of :class:`qguard.report.shape.LoadShape`.
        precision: The endpoint; ``None`` for the only one in the report.
        config: Whose bounds are asked.

    Returns:
        The checks; none if no bound names such a figure.

    Raises:
        UsageProblem: where the report has no such run, or holds these loads already.
        MeasurementProblem: for a bound on a figure that is not stated.
    """
    served = [run for run in report["runs"] if run["runtime"] == ENDPOINT]
    names = list(dict.fromkeys(run["precision"] for run in served))
    if not names:
        raise UsageProblem("the report is of no server: expected a run of an endpoint, as of pytest --precision served")
    if precision is None and len(names) > 1:
        raise UsageProblem(f"the report is of several servers; give --precision, one of {', '.join(names)}")
    if precision is not None and precision not in names:
        raise unknown("endpoint", precision, names)
    chosen = [run for run in served if run["precision"] == (precision or names[0])]
    if any(load in run.get("load", []) for run in chosen for load in loads):
        raise UsageProblem("the report holds this result already")
    bounds, found = bounds_of(config, precision or names[0]), []
    for run in chosen:
        checks = [check for load in loads for check in _checks(load, bounds, run["suite"])]
        run.setdefault("load", []).extend(loads)
        run["checks"] += [check.to_json() for check in checks]
        for part in (run.get("left_out", []), run.get("left_out_because", {})):
            if STATED in part:
                part.remove(STATED) if isinstance(part, list) else part.pop(STATED)
        if any(check.outcome == "fail" for check in checks):
            run["verdict"] = "fail"
        run["answers"] = answers(run)
        found += checks
    report["verdict"] = worst(run["verdict"] for run in report["runs"])
    return found


def _checks(load: dict[str, Any], bounds: dict[str, Bound], suite: str) -> list[Check]:
    values = {name: load[key] for name, key in _FIGURES.items()}
    total = load["requests"] + (load["failed"] or 0)
    values["failed"] = None if load["failed"] is None else load["failed"] / max(1, total)
    out = []
    for name, bound in bounds.items():
        if (value := values[name]) is None:
            raise MeasurementProblem(f"the bound on stated {name} cannot be judged: {load['source']} does not state it")
        outcome = "pass" if bound.holds(value) else "fail"
        words = f"stated by {load['source']}, not measured by qguard"
        out.append(Check(f"latency.stated_{name}", suite, None, value, bound, outcome, bound.margin(value), total, (words,)))
    return out
