"""Reports of several jobs, precisions and machines as one; a precision on two kinds of machine is two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qguard.errors import UsageProblem
from qguard.files import sha256_json
from qguard.report import SCHEMA, worst
from qguard.report.headline import failed_of, label_of, name_of
from qguard.report.host import label
from qguard.report.shape import upgraded
from qguard.version import __version__

_TARGET = ("model", "suite", "precision", "runtime", "vectors")


def merge(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One report, schema 2, with every run once; its verdict is the worst of all, and of none ``unmeasured``.

    Args:
        reports: Reports by the name of their file, of schema 1 or 2.

    Raises:
        UsageProblem: for something that is no report, for a run without its host, and for two different runs of one target on
            equal hosts: which of them counts is not to be guessed.
    """
    reports = {name: upgraded(report, name) for name, report in reports.items()}
    runs: dict[str, dict[str, Any]] = {}
    source: dict[str, str] = {}
    for name, report in reports.items():
        for run in _runs(name, report):
            key = sha256_json([[run[k] for k in _TARGET], run["host"]])
            if key in runs and runs[key] != run:
                raise UsageProblem(
                    f"{source[key]} and {name} hold different runs of {name_of(run)} of {run['model']} on {run['suite']}, "
                    f"both on {label(run['host'])}: expected one; leave one of the two files out"
                )
            runs[key], source[key] = dict(run), source.get(key, name)
    ordered = sorted(runs.values(), key=lambda r: ([r[k] for k in _TARGET], label(r["host"])))
    findings: dict[str, Any] = {sha256_json(f): f for report in reports.values() for f in report.get("findings", [])}
    verdict = worst([*(r["verdict"] for r in ordered), *(str(r["verdict"]) for r in reports.values())])
    texts: dict[str, dict[str, str]] = {}  # of each suite, by key
    for report in reports.values():
        for suite, kept in report.get("texts", {}).items():
            texts.setdefault(suite, {}).update(kept)
    return {
        "schema": SCHEMA, "qguard": __version__, "verdict": verdict, "runs": ordered, "findings": list(findings.values()),
        "texts": texts, **_moment(list(reports.values())),
    }  # fmt: skip


def _moment(reports: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """When the last one was written, if all say when, and the commit, if it is one."""
    times, commits = ([r.get(key) for r in reports] for key in ("created", "commit"))
    dated = [t for t in times if isinstance(t, str)]
    return {
        "created": max(dated) if dated and len(dated) == len(times) else None,
        "commit": commits[0] if commits and len(set(map(str, commits))) == 1 else None,
    }


def _runs(name: str, report: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    runs = report.get("runs")
    whole = report.get("schema") == SCHEMA and isinstance(runs, list) and report.get("verdict") in ("pass", "fail", "unmeasured")
    if not whole or not isinstance(runs, list):
        raise UsageProblem(
            f"{name}: expected a report of schema {SCHEMA}, written by: pytest --precision int8 --qguard-report={name}"
        )
    for run in runs:
        fields = (*_TARGET, "verdict", "checks", "missing", "errors", "latency")
        lost = [k for k in fields if not isinstance(run, dict) or k not in run]
        if lost:
            raise UsageProblem(f"{name}: a run has no {', '.join(lost)}; the file is damaged, copy it again")
        if "host" not in run:
            raise UsageProblem(f"{name}: an older qguard wrote it and did not store the machine; run pytest again")
    return runs


def table(report: Mapping[str, Any], width: int = 100) -> list[str]:
    """Precision × host in plain text: the verdict, and of one that fails its first gate; hosts are numbered below.

    Args:
        report: A merged one.
        width: Columns to stay within, as far as the names allow.
    """
    hosts = list(dict.fromkeys(sha256_json(r["host"]) for r in report["runs"]))
    names = {sha256_json(r["host"]): r["host"] for r in report["runs"]}
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for run in report["runs"]:
        rows.setdefault((name_of(run), run["model"], run["suite"]), {})[sha256_json(run["host"])] = _cell(run)
    head = ["precision", *(f"host {i}" for i, _ in enumerate(hosts, 1))]
    grid = [[" ".join(row), *(cells.get(h, "not run") for h in hosts)] for row, cells in rows.items()]
    sizes = [max(len(row[i]) for row in [head, *grid]) for i in range(len(head))]
    most = max(12, (width - sizes[0]) // max(1, len(hosts)) - 2)
    sizes = [sizes[0], *(min(s, most) for s in sizes[1:])]
    lines = ["  ".join(map(_fit, row, sizes)).rstrip() for row in [head, *grid]]
    lines += [f"host {i}: {label(names[h])}" for i, h in enumerate(hosts, 1)]
    return [*lines, f"{len(report['runs'])} runs: {report['verdict'].upper()}"]


def _fit(text: str, size: int) -> str:
    return text.ljust(size) if len(text) <= size else text[: size - 1] + "…"


def _cell(run: Mapping[str, Any]) -> str:
    failed = failed_of(run)
    if failed:
        first = failed[0]
        more = f" +{len(failed) - 1}" if len(failed) > 1 else ""
        return f"FAIL {label_of(first)} {first['value']:.4g}{more}"
    return str(run["verdict"])
