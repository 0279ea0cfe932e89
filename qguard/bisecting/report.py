"""A bisection in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qguard.bisecting.bisection import Answer
from qguard.bisecting.reading import Reading
from qguard.bisecting.search import PASSED_OVER
from qguard.report.details import without_home

_NOUNS = {"release": "release", "commit": "commit", "pin": "change"}


def lines(answer: Answer) -> Iterator[str]:
    """The answer, verdict first."""
    noun = _NOUNS[answer.what]
    found = answer.found
    if found is None:
        ends = [answer.readings[0], answer.readings[len(answer.names) - 1]]
        yield f"no regression: both ends agree in {answer.label}"
        yield from (f"  {r.name}: {r.words}" for r in ends)
        return
    good, bad = answer.readings[found.good], answer.readings[found.bad]
    between = [answer.names[i] for i in found.between]
    if answer.what == "pin":
        yield from _pins(answer)
    elif between:
        yield (
            f"the first bad {noun} is one of {', '.join([*between, answer.names[found.bad]])}: "
            f"{'it' if len(between) == 1 else 'they'} could not be judged before {answer.names[found.bad]}"
            if len(between) > 1
            else f"the first bad {noun} is {between[0]} or {answer.names[found.bad]}: {between[0]} could not be judged"
        )
        yield from (f"  {answer.readings[i].name}: {answer.readings[i].words}" for i in found.between)
    else:
        yield f"first bad {noun}: {_of(answer)}{answer.names[found.bad]}"
    if answer.what != "pin":
        yield f"  bad:  {_of(answer)}{answer.names[found.bad]}, {answer.label} {bad.words}"
        yield f"  good: {_of(answer)}{answer.names[found.good]}, {answer.label} {good.words}"
    if answer.sides is not None and answer.sides.change is not None:
        yield f"  {answer.sides.words}"
        least = answer.readings[0].detectable
        if least is not None and abs(answer.sides.good - answer.sides.bad) < least:
            yield f"  this is little: the suite tells a loss from chance from {least:.2g} on"
            yield "  the bad end computes otherwise, and may be no worse"
    for i, j in found.turns:
        yield f"  not one change: {answer.names[i]} is bad and {answer.names[j]} is good again; see every value above"
    for name, r in (("bad", bad), ("good", good)):
        if r.command and answer.what != "pin":
            yield f"  again, {name}: {r.command}"


def _of(answer: Answer) -> str:
    return f"{answer.subject} " if answer.what == "release" else ""


def _pins(answer: Answer) -> Iterator[str]:
    assert answer.found is not None
    culprits = answer.culprits
    if not answer.alone:
        yield f"the change is one of these or several together: {', '.join(culprits)}; some combinations could not be judged"
        yield from (f"  {r.name}: {r.words}" for r in (*answer.readings.values(), *answer.extra) if r.outcome == PASSED_OVER)
    elif len(culprits) == 1:
        yield f"the change that did it: {culprits[0]}"
    else:
        yield f"{len(culprits)} changes do it together: {', '.join(culprits)}"
    yield f"  good: {answer.label} {answer.readings[0].words}"
    whole = _reading(answer, culprits) or answer.readings[len(answer.names) - 1]
    yield f"  bad:  {answer.label} {whole.words}, with {whole.name}"
    yield f"  again, bad: {whole.command}"


def _reading(answer: Answer, culprits: list[str]) -> Reading | None:
    every = [*answer.readings.values(), *answer.extra]
    return next((r for r in every if r.judged and r.name == ", ".join(culprits)), None)


def to_json(answer: Answer) -> dict[str, Any]:
    """For machines: ``found`` is whether there is a change. Without the name of a home folder."""
    found = answer.found
    value = {
        "metric": answer.label, "what": answer.what, "subject": answer.subject, "found": found is not None,
        "first_bad": found and answer.names[found.bad], "last_good": found and answer.names[found.good],
        "not_judged_between": [answer.names[i] for i in found.between] if found else [],
        "bad_then_good": [[answer.names[i], answer.names[j]] for i, j in found.turns] if found else [],
        "changes": answer.culprits, "changes_alone": answer.alone if answer.culprits else None,
        "rule": answer.sides.words if answer.sides else None, "seconds": round(answer.seconds, 1),
        "judged": [r.to_json() for r in (*answer.readings.values(), *answer.extra)],
    }  # fmt: skip
    made: dict[str, Any] = without_home(value)
    return made
