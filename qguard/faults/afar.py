"""The self-test on other machines: each case and each clean repeat is a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qguard.faults import FAULTS, Fault
from qguard.faults.judging import Failure, Result, judge_fault
from qguard.faults.repeats import Repeat, run_repeat
from qguard.fleet import Item, Kept, Place
from qguard.fleet.nodes import digest
from qguard.judging.nodes import session_of, shared
from qguard.judging.session import Session
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision

if TYPE_CHECKING:
    from qguard.faults.runner import Plan

Case = tuple[str, Fault, str]
_TASK = "qguard.faults.afar:judge"


def judged(
    session: Session, plan: Plan, cases: Mapping[int, Case], numbers: list[tuple[str, int]], advance: Callable[[], None]
) -> tuple[dict[int, Result], dict[int, Repeat]]:
    """Results of the cases, by their key, and clean repeats, by their place; kept until all are there.

    Args:
        session: Whose fleet judges.
        plan: What is tested.
        cases: Model, fault and severity.
        numbers: Model and number of each repeat.
        advance: Called after each.
    """
    assert session.fleet is not None
    given = shared(session, plan.suites, plan.precision, stored=str(plan.precision))
    kept = Kept("selftest", given.key, digest())

    def items() -> Iterator[Item]:
        for model, fault, severity in cases.values():
            yield Item({"model": model, "fault": fault.name, "severity": severity})
        for model, number in numbers:
            yield Item({"model": model, "repeat": number})

    results, repeats = dict[int, Result](), dict[int, Repeat]()
    keys = [*(("case", i) for i in cases), *(("repeat", i) for i in range(len(numbers)))]
    for (kind, i), (found, _) in zip(keys, session.fleet.map(_TASK, given, items(), kept), strict=True):
        if kind == "case":
            results[i] = Result(**{**found, "failures": _failures(found)})
        else:
            repeats[i] = Repeat(**{**found, "failures": _failures(found)})
        advance()
    kept.forget()
    return results, repeats


def judge(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """One case or one clean repeat; a task of :mod:`qguard.fleet`."""
    session, suites = _sound(place), place.given["suites"]
    precision = parse_precision(place.given["stored"], session.config.own_precisions)
    found: Result | Repeat
    if "fault" in given:
        found = judge_fault(session, precision, given["model"], suites, FAULTS.find(given["fault"]), given["severity"])
    else:
        found = run_repeat(session, precision, given["model"], suites, given["repeat"])
    return asdict(found) | {"failures": [asdict(f) | {"bound": f.bound and f.bound.to_json()} for f in found.failures]}, b""


@lru_cache(1)
def _sound(place: Place) -> Session:
    """The session of the sound artifact, with what every fault needs."""
    session = session_of(place)
    for model in session.config.models:
        for suite in session.config.suites:
            session.golden(model, suite)
    return session


def _failures(found: Mapping[str, Any]) -> tuple[Failure, ...]:
    return tuple(Failure(**{**f, "bound": f["bound"] and Bound.from_json(f["bound"])}) for f in found["failures"])
