"""The accuracy gates, run for ``qguard accept`` without pytest, in the shape of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qguard.errors import RegressionProblem
from qguard.judging.facts import scope
from qguard.judging.families import standard_errors
from qguard.judging.session import Session
from qguard.precisions import Precision
from qguard.report import SCHEMA


def measure_now(session: Session, precisions: list[Precision], say: Callable[[str], None]) -> dict[str, Any]:
    """Judge every target in all families but latency.

    Args:
        session: Models and suites as selected.
        precisions: What to judge.
        say: Called with the name of what is measured next.

    Returns:
        As :func:`qguard.report.assemble`: ``schema``, ``verdict`` and ``runs``, without latency.

    Raises:
        QguardError: when something could not be measured.
        RegressionProblem: naming every gate that does not hold; only what passes can be accepted.
    """
    runs, failed = [], []
    for target in session.targets(precisions):
        say(str(target))
        session.token_ids(target)
        families = [f for f in session.families(target) if "process" not in f.needs]
        checks = [c for f in families for c in session.checks(target, f.name)]
        fell = [c for c in checks if c.outcome == "fail"]
        failed += [f"{target.precision} {c.label} {c.value:.4g}, gate {c.bound}" for c in fell if not c.accepted]
        errors = {k: v for f in families if f.sampled for k, v in standard_errors(session, target, f.name).items()}
        p = target.precision
        runs.append(
            {
                "model": target.model, "suite": target.suite, "precision": p.label, "runtime": p.runtime, "vectors": p.vectors,
                "verdict": "fail" if fell else "pass", "missing": [], "checks": [c.to_json() for c in checks], "latency": [],
                "scope": scope(session, target).to_json(), "standard_errors": errors,
            }
        )  # fmt: skip
    if failed:
        raise RegressionProblem(f"only what passes can be accepted: {'; '.join(failed)}; nothing was stored")
    return {"schema": SCHEMA, "verdict": "fail" if any(r["verdict"] == "fail" for r in runs) else "pass", "runs": runs}
