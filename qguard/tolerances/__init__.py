"""``qguard tolerances``: gates proposed from a suite, a bootstrap over its items, and runs that should give the same values."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from qguard.console.visible import cell, visible
from qguard.errors import UsageProblem
from qguard.families import family_of
from qguard.judging.session import Session
from qguard.precisions import RECIPES, Precision
from qguard.tolerances.proposal import Proposal, loosest, propose
from qguard.tolerances.runs import repeated_runs
from qguard.vectors.quantized import FLOAT


def proposals_for(session: Session, precision: Precision, say: Callable[[str], None]) -> list[Proposal]:
    """One proposal for each gate of a precision over a suite's items; it holds for every configured model and suite.

    Args:
        session: Models and suites as selected.
        precision: Whose gates.
        say: Called with the name of each run when it is done.
    """
    families = {family_of(g.metric) for model in session.config.models for g in session.gates(precision, model)}
    found: dict[str, list[Proposal]] = {}
    for target in session.targets([precision]):
        runs = []
        for run in repeated_runs(session, target, families):
            say(f"{target}: {run.name}")
            runs.append(run)
        for proposal in propose(runs, session.gates(precision, target.model)):
            found.setdefault(proposal.key, []).append(proposal)
    return [loosest(each) for each in found.values()]


def name_of(precision: Precision, configured: Collection[str] = ()) -> str:
    """The table of ``[tool.qguard.gates]`` that bounds this precision and no other runtime's.

    Args:
        precision: Whose gates.
        configured: The tables that there are: one of this runtime wins over one without.
    """
    runtimes = {r.runtime for r in RECIPES.values() if r.precision == precision.name}
    vectors = "" if precision.vectors == FLOAT else f"+{precision.vectors}"
    narrow = f"{precision.label}@{precision.runtime}{vectors}"
    return narrow if len(runtimes) > 1 or narrow in configured else f"{precision.label}{vectors}"


def lines_for(proposals: list[Proposal], reason: str = "") -> dict[str, tuple[str, str]]:
    """What changes: key → bound and a comment with the figures it rests on."""
    out = {}
    for p in (p for p in proposals if p.changed):
        part = f" in {p.part}" if p.part else ""
        held = f" ({p.interval[0]:.4f} to {p.interval[1]:.4f})" if p.interval else ""
        why = f"; looser: {' '.join(reason.split())}" if p.looser and reason.strip() else ""
        out[p.key] = (str(p.in_force), f"{p.value:.4f}{held}{part}, runs differ by {p.spread:.1g}{why}")
    return out


def refuse_unexplained(proposals: list[Proposal], reason: str) -> None:
    """A gate that is given up needs a reason for its reviewers.

    Raises:
        UsageProblem: when a proposal is looser than the gate in force, and there is none.
    """
    looser = [p.key for p in proposals if p.looser]
    if looser and not reason.strip():
        raise UsageProblem(
            f"{', '.join(looser)}: the proposal is looser than the gate in force. Is this artifact as good as it should be? "
            'If so, say why: --write --reason "…"'
        )


def table(proposals: list[Proposal]) -> Any:
    """The proposals as a table of rich, one line each."""
    from rich.table import Table

    out = Table("gate", "now", "value", "95 % interval", "runs differ by", "margin", "proposed")
    for p in proposals:
        held = f"{p.interval[0]:.4f} to {p.interval[1]:.4f}" if p.interval else ""
        proposed = "" if p.bound is None else str(p.bound) + (" (looser)" if p.looser else "" if p.changed else " (as now)")
        part = f" {p.part}" if p.part else ""
        key, value = cell(p.key), f"{p.value:.4f}{visible(part)}"
        out.add_row(key, str(p.now.bound), value, held, f"{p.spread:.1g}", p.why, proposed)
    return out
