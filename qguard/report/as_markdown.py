"""The report in Markdown, as GitHub and GitLab show it: the verdict first, then what failed, then every gate.

Texts of a suite may hold anything: they stand in code spans or are escaped, so that none becomes markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qguard.console.visible import visible
from qguard.latency.check import interval_text
from qguard.report import across, cpus
from qguard.report.advice import PAIRED, judged, left_out, moved_gates, shadowed_gates
from qguard.report.answers import sentences
from qguard.report.headline import bound_of, failed_of, family_of, headline, label_of, name_of, texts_of
from qguard.report.indexes import HEADS, rows
from qguard.report.loads import figures, named, sent

LARGEST = 900_000  # bytes; a job's summary on GitHub may hold 1 MiB, and other steps write there too
_MARK = {"pass": "✅", "fail": "❌", "unmeasured": "⚠️"}
_MOST = 40  # failed checks of one run


def render(report: dict[str, Any]) -> bytes:
    """The report as UTF-8 Markdown of at most :data:`LARGEST` bytes."""
    verdict = report["verdict"]
    lines = [f"## {_MARK[verdict]} qguard: {verdict.upper()}", ""]
    lines += [
        f"- {code(name_of(run))} {escape(run['model'])}, {escape(run['suite'])}: {escape(sentences(run))}"
        for run in report["runs"]
    ]
    lines += [""] if report["runs"] else []
    bad = [r for r in report["runs"] if r["verdict"] != "pass"]
    for run in bad:
        lines += _failure(run, texts_of(report, run))
    if not report["runs"]:
        lines += ["Nothing was measured.", ""]
    lines += ["| precision | model | suite | verdict | tightest gate | margin | size |", "|---|---|---|---|---|---|---|"]
    lines += [_row(run) for run in report["runs"]]
    if of_hosts := across.rows(report):
        lines += ["", "| " + " | ".join(across.HEADS) + " |", "|---" * len(across.HEADS) + "|"]
        lines += [f"| {_MARK[r['verdict']]} " + " | ".join(map(escape, r["figures"])) + " |" for r in of_hosts]
    for run in report["runs"]:
        lines += _details(run)
    data = ("\n".join(lines) + "\n").encode()
    if len(data) <= LARGEST:
        return data
    cut = data[: LARGEST - 100]
    return cut[: cut.rfind(b"\n") + 1] + b"\n*The rest is left out: too large for a summary; the JSON report has it.*\n"


def _failure(run: Mapping[str, Any], texts: Mapping[str, str]) -> list[str]:
    head = headline(run, texts)
    lines = [f"### {_MARK[run['verdict']]} {escape(head.title)}: {escape(head.outcome)}", ""]
    for miss in head.misses:
        more = f" (+{miss.more} more)" if miss.more else ""
        by = f", **{miss.by}**" if miss.by else ""
        lines.append(f"- {code(miss.label)} {escape(miss.words)}{by}{more}")
    lines += [f"- worst: {code(head.worst)}"] if head.worst else []
    lines += [f"- {escape(head.why)}"] if head.why else []
    lines += [f"- {escape(s.words)}" + (f": {code(s.command)}" if s.command else "") for s in head.steps]
    return [*lines, ""]


def _row(run: Mapping[str, Any]) -> str:
    gated = [c for c in run["checks"] if c["margin"] is not None and c["bound"] and family_of(c) != "artifact"]
    gated = [c for c in gated if c["margin"] or c["bound"]["number"]]  # none of what must not be is as near as can be
    # margins of different metrics compare only as shares of their bounds
    tight = min(gated, key=lambda c: c["margin"] / max(abs(c["bound"]["number"]), 1e-9), default=None)
    size = run.get("artifact", {}).get("bytes")
    cells = [
        _cell(name_of(run)), escape(run["model"]), escape(run["suite"]), f"{_MARK[run['verdict']]} {run['verdict']}",
        f"{_cell(label_of(tight))} {tight['value']:.4g} {bound_of(tight)}" if tight else "",
        f"{tight['margin']:+.4f}" if tight else "", f"{size / 1e6:.1f} MB" if size else "",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _details(run: Mapping[str, Any]) -> list[str]:
    failed = failed_of(run)
    shown = [*failed[:_MOST], *(c for c in run["checks"] if c["bound"] and c["outcome"] == "pass" and c["slice"] is None)]
    lines = ["", f"<details><summary>{_html(name_of(run))}, {_html(run['model'])}, {_html(run['suite'])}</summary>", ""]
    if shown:
        lines += ["| | check | value | 95 % interval | gate | margin |", "|---|---|---|---|---|---|"]
    for c in shown:
        if not c["name"].startswith("latency."):
            ends = f"{c['interval'][0]:.4f} to {c['interval'][1]:.4f}" if c["interval"] else ""
            mark, margin = _MARK.get(c["outcome"], ""), "" if c["margin"] is None else f"{c['margin']:+.4f}"
            accepted = " (accepted)" if c.get("accepted") else ""
            lines.append(f"| {mark} | {_cell(label_of(c))}{accepted} | {c['value']:.4f} | {ends} | {bound_of(c)} | {margin} |")
    if len(failed) > _MOST:
        lines += ["", f"{len(failed) - _MOST} more failed checks are in the JSON report."]
    if run["latency"]:
        lines += ["", "| | latency | ratio | interval | baseline | candidate |", "|---|---|---|---|---|---|"]
    for f in run["latency"]:
        mark = _MARK.get(f["outcome"], "" if f["outcome"] == "reported" else "⚠️")
        lines.append(
            f"| {mark} | `{f['metric']}[{f['bucket']}]` | {f['ratio']:.2f} | {interval_text(f['interval'])} | "
            f"{f['baseline_ms']:.2f} ms | {f['candidate_ms']:.2f} ms |"
        )
    if loads := run.get("load"):
        lines += ["", "| load | sent | p50 ms | p95 ms | p99 ms | per second | requests | failed | first ms |", "|---" * 9 + "|"]
    for f in loads or ():
        lines.append("| " + " | ".join([_cell(named(f)), _cell(sent(f)), *figures(f)]) + " |")
    if indexes := rows(run):
        lines += ["", "| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
        lines += ["| " + " | ".join([_cell(i["name"]), *i["figures"]]) + " |" for i in indexes]
        lines += ["", *(f"- {_cell(i['name'])}: {escape(i['words'])}" for i in indexes)]
    if there := cpus.rows(run):
        lines += ["", "| " + " | ".join(cpus.HEADS) + " |", "|---" * len(cpus.HEADS) + "|"]
        lines += ["| " + " | ".join([_cell(c["name"]), *map(escape, c["figures"])]) + " |" for c in there]
    for c in run["checks"]:
        if c["name"].startswith("latency.") and c["name"] not in PAIRED and c["bound"]:
            lines.append(f"\n{_MARK.get(c['outcome'], '⚠️')} {_cell(label_of(c))} {c['value']:.4g}, gate {bound_of(c)}")
    if run["missing"]:
        lines += ["", f"Not measured: {', '.join(f'`{m}`' for m in run['missing'])}"]
    of_gates = [*moved_gates(run["checks"]), *shadowed_gates(run["checks"])]
    lines += ["", *(f"- Gates: {escape(text)}" for text in of_gates)] if of_gates else []
    lines += ["", *(f"- Judged: {escape(text)}" for text in told)] if (told := judged(run)) else []
    lines += ["", *(f"- Left out: {escape(text)}" for text in gone)] if (gone := left_out(run)) else []
    if texts := run.get("texts_left_out"):
        lines += ["", f"Texts of {run['suite']} that the golden leaves out and no gate judges: {len(texts)}", ""]
        lines += [f"- {escape(t)}" for t in texts]
    lines += [f"\n{escape(e)}" for e in dict.fromkeys(run["errors"])]
    if host := run.get("host"):
        versions = ", ".join(f"{k} {v}" for k, v in host["versions"].items())
        lines += ["", escape(f"{host['cpu']}, {host['cores']} cores, {host['class']}; Python {host['python']}, {versions}")]
    return [*lines, "", "</details>"]


# Both services look for addresses, @names and #numbers in what a backslash has already left: only a break stops them
_BREAK = "&#8203;"  # of no width
_LINKS = re.compile(r"@(?=\w)|#(?=\d)|:(?=//)|\bwww(?=\.)", re.I)


def code(text: str) -> str:
    """A code span that holds any text: its fence is longer than every run of backticks in it, and line breaks are spaces."""
    flat = visible(" ".join(text.split()), "")
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def _cell(text: str) -> str:
    """A code span in a table, where a bar would end the cell."""
    return code(text).replace("|", "\\|")


def escape(text: str) -> str:
    """Text on one line, with nothing in it that Markdown, HTML, GitHub or GitLab would take for markup, a link or a mention."""
    escaped = re.sub(r"([\\`*_{}\[\]<>()#|~&@!])", lambda m: f"\\{m[1]}", visible(" ".join(text.split()), ""))
    return _LINKS.sub(lambda m: f"{m[0]}{_BREAK}", escaped)


def _html(text: str) -> str:
    import html

    return html.escape(visible(" ".join(text.split()), ""))
