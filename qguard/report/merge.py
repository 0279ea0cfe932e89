"""Reports of several jobs, precisions and machines as one; a precision on two kinds of machine is two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qguard.errors import UsageProblem
from qguard.files import sha256_json
from qguard.metrics.bounds import Bound
from qguard.report import SCHEMA, worst
from qguard.report.across import TARGET as _TARGET
from qguard.report.across import across
from qguard.report.across import lines as of_hosts
from qguard.report.headline import failed_of, label_of, name_of
from qguard.report.host import label
from qguard.report.shape import AcrossShape, HostVectorsShape, upgraded
from qguard.version import __version__


def merge(
    reports: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, tuple[Path, ...]] | None = None,
    gates: Mapping[str, Bound] | None = None,
) -> dict[str, Any]:
    """One report, schema 2, with every run once; its verdict is the worst of all, and of none ``unmeasured``.

    Args:
        reports: Reports by the name of their file, of schema 1 or 2.
        places: Folders where the vectors of each report's runs may lie, by the name of its file: then hosts are compared with
            each other (:mod:`qguard.report.across`), and the verdict is also of that. ``None`` to compare none.
        gates: For that, by metric.

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
    compared = {sha256_json(entry): entry for report in reports.values() for entry in report.get("across", [])}
    if places is not None:
        near = [(runs[key], places.get(source[key], ())) for key in runs]
        compared = {sha256_json(e): e for e in across(sorted(near, key=lambda r: label(r[0]["host"])), gates or {})}
    verdicts = [*(r["verdict"] for r in ordered), *(str(r["verdict"]) for r in reports.values())]
    verdict = worst([*verdicts, *(str(entry["verdict"]) for entry in compared.values())])
    texts: dict[str, dict[str, str]] = {}  # of each suite, by key
    for report in reports.values():
        for suite, kept in report.get("texts", {}).items():
            texts.setdefault(suite, {}).update(kept)
    return {
        "schema": SCHEMA, "qguard": __version__, "verdict": verdict, "runs": ordered, "findings": list(findings.values()),
        "texts": texts, **_moment(list(reports.values())), **({"across": list(compared.values())} if compared else {}),
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
    _check_parts(name, runs, report.get("across", []))
    return runs


def _check_parts(name: str, runs: Sequence[Mapping[str, Any]], across: Any) -> None:
    """What is read of vectors and of hosts that were compared before is what qguard wrote."""
    try:
        for run in runs:
            if run.get("host_vectors") is not None:
                HostVectorsShape.model_validate(run["host_vectors"])
        for entry in across:
            AcrossShape.model_validate(entry)
    except (ValidationError, TypeError) as e:
        first = e.errors()[0]["msg"] if isinstance(e, ValidationError) else e
        raise UsageProblem(f"{name}: what it says of hosts and their vectors is damaged ({first}); copy it again") from None


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
    lines += of_hosts(report, {h: i for i, h in enumerate(hosts, 1)})
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
