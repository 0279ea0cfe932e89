"""A matrix of precisions, models and suites, each cell judged by a task on some machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from qguard.encoders.runtimes import ENDPOINT
from qguard.errors import MeasurementProblem, QguardError, UsageProblem
from qguard.fleet import Item, Kept, Place
from qguard.fleet.nodes import digest
from qguard.fleet.work import problem_of
from qguard.gates.check import Check
from qguard.judging.compare import Row, judged_row, row_of
from qguard.judging.nodes import session_of, shared
from qguard.judging.session import Session, Target
from qguard.precisions import Precision, parse_precision

_TASK = "qguard.judging.matrix:judge"


def judged_afar(session: Session, targets: Sequence[Target], say: Callable[[str], None]) -> dict[Target, Row | QguardError]:
    """Judge targets on the session's fleet, each by a task; of a large suite none is: its documents are spread over the nodes.

    Results are kept until all are there, so that a run that was killed goes on where it was.

    Args:
        session: This machine's.
        targets: The cells.
        say: Called with the name of each cell that was judged.

    Returns:
        The row of each target but those of large suites, or why it could not be measured.

    Raises:
        UsageProblem: for a target that no other machine can judge.
        MeasurementProblem: where two machines made different artifacts of one model and precision.
    """
    assert session.fleet is not None
    if served := [t for t in targets if t.precision.runtime == ENDPOINT]:
        raise UsageProblem(f"--ray: {served[0].precision} is a server, which is asked by one machine; leave it or --ray out")
    held = [s for s in session.config.suites if session.suite(s).corpus is None]
    cells = [t for t in targets if t.suite in held]
    if not cells:
        return {}
    # those whose artifacts are still to be made come first, each on a machine of its own
    seen, first, others = set[tuple[Precision, str]](), list[Target](), list[Target]()
    for target in cells:
        key = target.precision.plain, target.model
        (others if key in seen else first).append(target)
        seen.add(key)
    order = [*first, *others]
    given = shared(session, held)
    kept = Kept("compare", given.key, digest())
    items = [Item({"precision": str(t.precision), "model": t.model, "suite": t.suite}) for t in order]
    found: dict[Target, Row | QguardError] = {}
    made: dict[tuple[Precision, str], str] = {}
    for target, (answer, _) in zip(order, session.fleet.map(_TASK, given, items, kept), strict=True):
        say(f"judged: {target}")
        if "problem" in answer:
            found[target] = problem_of(answer["problem"])
            continue
        key = target.precision.plain, target.model
        if made.setdefault(key, answer["artifact"]) != answer["artifact"]:
            kept.forget()
            raise MeasurementProblem(
                f"two nodes made different files of {key[0]} of {key[1]}: what was judged is not one artifact. Make it once "
                f"(qguard quantize --precision {key[0]} --out DIR) and judge that (pytest --artifact DIR)"
            )
        found[target] = _row(answer)
    kept.forget()
    return found


def _row(answer: Mapping[str, Any]) -> Row:
    values = answer["row"]
    return Row(**{**values, "busy": tuple(values["busy"]), "failed": tuple(Check.from_json(c) for c in answer["failed"])})


def judge(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """One cell; a task of :mod:`qguard.fleet`."""
    session = session_of(place)
    precision = parse_precision(given["precision"], session.config.own_precisions)
    target = Target(precision, given["model"], given["suite"])
    try:
        row = judged_row(session, target, row_of(target))
        artifact = session.artifact(precision, target.model)
        made = artifact.sha256 if artifact.has_files else ""
    except QguardError as e:
        known = next(c.__name__ for c in type(e).__mro__ if c.__module__ == QguardError.__module__)
        return {"problem": {"kind": known, "words": str(e)}}, b""
    return {"row": asdict(replace(row, failed=())), "failed": [c.to_json() for c in row.failed], "artifact": made}, b""
