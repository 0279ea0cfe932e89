"""The values of a verdict, judged again: each must hold its bound, and its bound must be that of the gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from qguard.attest.policy import gate_of, laxer, required
from qguard.attest.refusal import Refusal, listed
from qguard.attest.shape import GateFacts, SuiteFacts, Verdict
from qguard.errors import GoldenProblem
from qguard.gates import Asked as AskedGate
from qguard.judging.target import Target

if TYPE_CHECKING:
    from qguard.attest.verification import Asked


def refuse_checks(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    """Values that contradict the verdict, or would not pass now."""
    for name in asked.session.config.suites:
        if name in verdict.suites:
            facts = verdict.suites[name]
            yield from _contradictions(verdict, asked, name, facts)
            yield from _missing(verdict, asked, name, facts)
            yield from _accepted(verdict, asked, name, facts)


def _contradictions(verdict: Verdict, asked: Asked, suite: str, facts: SuiteFacts) -> Iterator[Refusal]:
    recorded = verdict.gates
    # a gate that is laxer as a whole was named once; here are values whose own bound is
    now = {k: g for k, g in verdict.as_written(asked.gates).items() if not laxer(recorded.get(k), g)}
    for c in facts.checks:
        part = f"{suite}/{c.label}"
        if c.bound is not None and not c.holds:
            judged = c.value if c.judged is None else c.judged
            found = f"{judged:.6g}"
            found = repr(judged) if c.bound.holds(float(found)) else found  # else six digits would hold it
            yield Refusal(part, f"a value that holds {c.bound.exact}", f"{found}, {c.outcome}", asked.again)
        if c.accepted or c.name.startswith("latency.regression"):
            continue
        if c.promised and not c.promised.holds(c.value) and gate_of(asked.gates, c.name, c.slice) is None:
            # the gate that let it pass is no longer, or was never, one of this project
            yield Refusal(
                part, f"{c.name} {c.promised.exact}, by the recipe, which no gate replaces now", f"{c.value:.6g}", asked.again
            )
        then = None if c.bound is None else GateFacts(bound=c.bound, on=c.on)
        sides: tuple[tuple[Mapping[str, AskedGate], str], ...] = ((recorded, "as it was judged by"), (now, "in force now"))
        for gates, whose in sides:
            key = gate_of(gates, c.name, c.slice)
            if key is None:
                continue
            if laxer(then, gates[key]):
                yield Refusal(
                    part, f"{key} {gates[key].bound.exact}, {whose}", c.bound.exact if c.bound else "no bound", asked.again
                )
                break


def _missing(verdict: Verdict, asked: Asked, name: str, facts: SuiteFacts) -> Iterator[Refusal]:
    target = Target(asked.precision, asked.model, name)
    try:
        wanted = required(asked.session, target, [k for k in verdict.gates if k in asked.gates])
    except GoldenProblem:
        return  # which is refused as such
    found = {c.label: c for c in facts.checks if c.bound is not None and not c.accepted}
    if lost := [label for label in wanted if label not in found]:
        yield Refusal(f"suite {name}", f"a value of {listed(lost)}", "none", asked.again)
    for label, items in wanted.items():
        if items is not None and label in found and found[label].items != items:
            yield Refusal(f"{name}/{label}", f"{items} items, as the suite has", f"{found[label].items}", asked.again)


def _accepted(verdict: Verdict, asked: Asked, name: str, facts: SuiteFacts) -> Iterator[Refusal]:
    """Scores that were accepted since must hold for the recorded values too."""
    from qguard.accepted.scores import Scope, directions, judge_scores
    from qguard.goldens import golden_folder
    from qguard.metrics import Measured

    if name not in verdict.goldens:
        return
    scope, higher = verdict.goldens[name].scope, directions()
    measured = [
        Measured(c.name, None, c.value, c.items, higher[c.name])
        for c in facts.checks
        if c.slice is None and c.name in higher and not c.accepted
    ]
    folder = golden_folder(asked.session.config.golden_root, asked.model, name)
    try:
        found = judge_scores(folder, Scope(scope.precision, scope.machine, scope.golden), measured, name)
    except GoldenProblem as e:
        yield Refusal(f"accepted scores of {name}", "a whole accepted.json", str(e), "restore it from version control")
        return
    for c in found:
        if c.outcome == "fail":
            yield Refusal(f"{name}/{c.label}", f"{c.bound}, by an accepted score", f"{c.value:.6g}", asked.again)
