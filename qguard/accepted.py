"""Accepted results: what a team agreed to live with, per precision and machine, beside the golden and reviewable like it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.errors import GoldenProblem, UsageProblem
from qguard.files import dump_json, read_json, write_atomic
from qguard.golden import golden_folder

SCHEMA = 1
FILE = "accepted.json"
MOVED = 0.10  # ratios of time repeat to a few per cent on an equal fingerprint; a tenth is a change


def read(folder: Path) -> dict[str, Any]:
    """``accepted.json`` of a golden folder; empty where nothing was accepted.

    Raises:
        GoldenProblem: when it is damaged or of another schema.
    """
    path = folder / FILE
    if not path.exists():
        return {"schema": SCHEMA, "latency": []}
    value = read_json(path, GoldenProblem)
    if value.get("schema") != SCHEMA or not isinstance(value.get("latency"), list):
        raise GoldenProblem(
            f"{folder.parent.name}/{folder.name}/{FILE} is damaged or of another schema; restore it from version control"
        )
    return value


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    fingerprint = tuple(sorted((k, str(v)) for k, v in entry["fingerprint"].items()))
    return entry["precision"], entry["metric"], entry["bucket"], fingerprint


def accept(report: Mapping[str, Any], root: Path, reason: str) -> list[str]:
    """Store the latency ratios of a report's passing runs.

    Args:
        report: A JSON report, schema 1.
        root: The project's golden folder.
        reason: Why; for the reviewers.

    Returns:
        One line for each entry that is new or replaced.

    Raises:
        UsageProblem: without a reason, for something that is no report, or when no run of it passed.
        GoldenProblem: when the file cannot be written.
    """
    if not reason.strip():
        raise UsageProblem('accepting needs a reason for its reviewers: --reason "…"')
    if report.get("schema") != 1 or not isinstance(report.get("runs"), list):
        raise UsageProblem("expected a report of pytest --qguard-report=PATH.json, schema 1")
    lines: list[str] = []
    passed = [r for r in report["runs"] if r["verdict"] == "pass"]
    if not passed:
        raise UsageProblem(f"no run of this report passed (verdict {report['verdict']}); only a passing run can be accepted")
    for run in passed:
        folder = golden_folder(root, run["model"], run["suite"])
        stored = read(folder)
        entries = {_key(e): e for e in stored["latency"]}
        for fact in run["latency"]:
            entry = {
                "precision": f"{run['precision']}@{run['runtime']}",
                **{k: fact[k] for k in ("metric", "bucket", "ratio", "interval", "fingerprint")},
                "reason": reason.strip(),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            old = entries.get(_key(entry))
            lines.append(
                f"{run['model']}/{run['suite']} {entry['precision']} {fact['metric']}[{fact['bucket']}] "
                + (f"{old['ratio']:.2f} → " if old else "") + f"{fact['ratio']:.2f}"
            )  # fmt: skip
            entries[_key(entry)] = entry
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, dump_json({**stored, "latency": [entries[k] for k in sorted(entries)]}))
        except OSError as e:
            raise GoldenProblem(
                f"cannot write {run['model']}/{run['suite']}/{FILE}: {e.strerror or e}; the old one is untouched"
            ) from e
    return lines


def trend(folder: Path, precision: str, fact: Mapping[str, Any]) -> tuple[float, dict[str, Any]] | None:
    """How far a ratio moved since it was accepted on an equal fingerprint.

    Args:
        folder: The golden folder of the model and suite.
        precision: ``NAME@RUNTIME``.
        fact: The facts of a latency trial.

    Returns:
        Slowdown as a ratio (1.2: the candidate takes a fifth longer relative to its baseline) and the accepted entry, or
        ``None`` where nothing was accepted for this precision, bucket and machine.
    """
    wanted = _key({**fact, "precision": precision})
    for entry in read(folder)["latency"]:
        if _key(entry) == wanted:
            change = math.log(fact["ratio"] / entry["ratio"])
            return math.exp(-change if fact["metric"] == "latency.speedup" else change), entry
    return None
