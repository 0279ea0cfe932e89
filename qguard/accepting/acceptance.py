"""Accepting the passing runs of a report: their latency ratios and their scores."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.accepted import latency, scores
from qguard.accepted.stored import read, write
from qguard.errors import UsageProblem
from qguard.goldens import golden_folder
from qguard.report import SCHEMA
from qguard.report.shape import upgraded


def accept(report: Mapping[str, Any], root: Path, reason: str, lower: bool = False) -> list[str]:
    """Store the latency ratios and the scores of a report's passing runs.

    Args:
        report: A JSON report, of schema 1 or 2.
        root: The project's golden folder.
        reason: Why; for the reviewers.
        lower: Also replace accepted scores by worse ones. A run that fails by accepted scores alone then counts as passing.

    Returns:
        One line for each entry that is new, replaced, or kept although the new value is worse.

    Raises:
        UsageProblem: without a reason, for something that is no report, or when no run of it passed.
        GoldenProblem: when the file cannot be written.
    """
    if not reason.strip():
        raise UsageProblem('accepting needs a reason for its reviewers: --reason "…"')
    report = upgraded(report)
    if report.get("schema") != SCHEMA or not isinstance(report.get("runs"), list):
        raise UsageProblem(f"expected a report of pytest --qguard-report=PATH.json, schema {SCHEMA}")
    why = {"reason": reason.strip(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    passed = [r for r in report["runs"] if r["verdict"] == "pass" or (lower and only_fell(r))]
    if not passed:
        fell = any(only_fell(r) for r in report["runs"])
        raise UsageProblem(
            f"no run of this report passed (verdict {report['verdict']}); only a passing run can be accepted"
            + ("; it fails by accepted scores alone: --lower replaces them" if fell else "")
        )
    lines: list[str] = []
    for run in passed:
        folder = golden_folder(root, run["model"], run["suite"])
        stored = read(folder)
        ratios, said = latency.merged(stored["latency"], run, f"{run['precision']}@{run['runtime']}", why)
        kept = stored["scores"]
        if values := _values(run):
            kept, more = scores.merged(kept, run["scope"], values, why, lower)
            said += more
        write(folder, {**stored, "latency": ratios, "scores": kept})
        lines += [f"{run['model']}/{run['suite']} {line}" for line in said]
    return lines


def only_fell(run: Mapping[str, Any]) -> bool:
    """Whether a run fails by nothing but accepted scores."""
    failed = [c for c in run["checks"] if c["outcome"] == "fail"]
    return bool(failed) and not run["missing"] and all(c.get("accepted") for c in failed)


def _values(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Whole-suite values that have a standard error; none in a report of an older version."""
    errors = run.get("standard_errors", {}) if run.get("scope") else {}
    return {
        c["name"]: {"value": c["value"], "items": c["items"], "standard_error": errors[c["name"]]}
        for c in run["checks"]
        if c["slice"] is None and c["name"] in errors and not c.get("accepted")
    }
