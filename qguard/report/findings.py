"""What failed, each with the line that a reader should look at: the gate in the configuration, or the project's own test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qguard.report.headline import Headline, headline, label_of, name_of, texts_of

_HEADER = re.compile(r"^\s*\[+\s*(?P<name>[^\]]+?)\s*\]+\s*(#.*)?$")
_QUOTES = str.maketrans("", "", "\"' ")


def findings(report: Mapping[str, Any], config: Path, base: Path) -> list[dict[str, Any]]:
    """One entry for each metric family of a run that failed, and for each run that was not measured.

    Args:
        report: As of :func:`qguard.report.assemble`.
        config: The configuration file; it need not exist.
        base: The folder that paths are relative to.

    Returns:
        ``file`` (relative, ``None`` outside ``base``), ``line`` (from 1), ``precision``, ``check`` (what failed), ``title`` and
        ``message``.
    """
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    file = relative(config, base)
    found = []
    for run in report["runs"]:
        if run["verdict"] == "pass":
            continue
        head, of = headline(run, texts_of(report, run)), {"file": file, "precision": name_of(run)}
        for miss in head.misses:
            title = f"{name_of(run)} {miss.label} {miss.words}"
            by = f"{miss.by}{f', and {miss.more} more like it' if miss.more else ''}" if miss.by else ""
            message = _message(head, f"{head.title}: {by}".rstrip(": "))
            tables = next((c.get("tables") for c in run["checks"] if label_of(c) == miss.label), None)
            line = gate_line(lines, run, miss.label, tables or ())
            found.append({**of, "line": line, "check": miss.label, "title": title, "message": message})
        if not head.misses:
            title, line = f"{name_of(run)} not measured", gate_line(lines, run, "")
            message = _message(head, f"{head.title}: {head.answers or head.outcome}")
            found.append({**of, "line": line, "check": "unmeasured", "title": title, "message": message})
    return found


def of_test(nodeid: str, file: Path, line: int, text: str, base: Path) -> dict[str, Any]:
    """The entry of a failed test of the project's own.

    Args:
        nodeid: As pytest names it.
        file: Where it is defined.
        line: The first one of the test, from 1.
        text: What pytest says of the failure.
        base: The folder that paths are relative to.
    """
    said = [x for x in text.splitlines() if x.strip()]
    errors = [x.removeprefix("E").strip() for x in said if x.startswith("E ")]
    first = (errors or said or ["failed"])[0]
    return {
        "file": relative(file, base), "line": line, "check": nodeid.rpartition("::")[2], "title": nodeid, "message": first,
    }  # fmt: skip


def relative(path: Path, base: Path) -> str | None:
    """A path relative to ``base``, in POSIX form; ``None`` outside it: nothing says where somebody's folders lie."""
    name = Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    return None if name.startswith("..") else name


def gate_line(lines: list[str], run: Mapping[str, Any], label: str, tables: Sequence[str] = ()) -> int:
    """The line of a gate in a TOML file, from 1; else that of ``[tool.qguard]``, else the first.

    Args:
        lines: Of the file.
        run: What was judged.
        label: ``METRIC`` or ``METRIC[SLICE]``.
        tables: Those that set the gate, of which the last one wins; none where that is not known.
    """
    names = {tables[-1]} if tables else {run["precision"], name_of(run), name_of(run).partition("+")[0]}
    metric = label.partition("[")[0]
    best, table = 0, ""
    for number, line in enumerate(lines, 1):
        if header := _HEADER.match(line):
            table = header["name"].translate(_QUOTES).removeprefix("tool.qguard").removeprefix(".")
            if not best and "tool.qguard" in line:
                best = number
            continue
        key = line.partition("=")[0].translate(_QUOTES)
        if not table.startswith("gates.") or table.removeprefix("gates.") not in names:
            of_load = table.startswith(f"endpoint.{run['precision']}.load")
            if (
                (table == "latency" or of_load)
                and label.startswith("latency.")
                and key == metric.partition(".")[2].removeprefix("stated_")
            ):
                return number
            continue
        if label and key in (label, f"{metric}[*]", metric):
            return number
    return best or 1


def _message(head: Headline, first: str) -> str:
    steps: Iterable[str] = (f"{s.words}: {s.command}" if s.command else s.words for s in head.steps)
    worst = f"worst text: {head.worst}" if head.worst else ""
    return "\n".join(x for x in (first, worst, head.why, *steps) if x)
