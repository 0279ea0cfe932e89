"""``qguard history``: reports over time, and what fell."""

from __future__ import annotations

import argparse
from pathlib import Path

from qguard.commands import add_json
from qguard.console.visible import say


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.description = (
        "Show the values of past reports over time, and tell which steps changed them, apart from noise. "
        "Exit codes: 0 done; with --gate, nothing fell. 1 with --gate: a value fell, at once or slowly. 2 usage error. "
        "3 there are too few reports to judge."
    )
    text = "a folder of JSON reports, git:PATH for a report that is committed, or report files, the oldest first"
    parser.add_argument("reports", nargs="+", metavar="DIR|git:PATH|REPORT.json", help=text)
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write the page to FILE.html")
    add_json(parser)
    text = "fail if a value of the newest report is worse than before, beyond noise, and nothing but the model explains it"
    parser.add_argument("--gate", action="store_true", help=text)
    text = "look at this report and later ones only, for example after a fall that was accepted"
    parser.add_argument("--since", default="", metavar="NAME|COMMIT", help=text)


def run(args: argparse.Namespace) -> int:
    """Read, judge, write and tell."""
    from qguard.errors import UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.trend.history import FELL, HOLDS, at, history, summary, to_json
    from qguard.trend.page import render
    from qguard.trend.source import read

    if args.out and args.out.suffix != ".html":
        raise UsageProblem(f"--out {args.out}: expected a file that ends in .html; --json FILE writes JSON")
    h = history(read(args.reports), args.since)
    for path, data in ((args.out, render), (args.json, lambda found: dump_json(to_json(found)))):
        if path:
            try:
                write_atomic(path, data(h))
            except OSError as e:
                raise UsageProblem(f"cannot write {path}: {e.strerror or e}") from e
    say("\n".join(summary(h)))
    if not args.gate:
        return 0 if any(j.long_enough for j in h.judged) else 3
    if h.verdict == FELL:
        newest = max(c.line.points[c.last].step for c in h.falls)
        named = list(dict.fromkeys(c.line.name.label for c in h.falls))
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        say(f"{', '.join(named[:5])}{more}: worse than before, and not by noise: FAIL")
        say(f"if that is accepted, look at what came after it: --since {h.steps[newest].name}")
        return 1
    say("no value of the newest report fell beyond noise" if h.verdict == HOLDS else f"{at(h, len(h.steps) - 1)}: NOT JUDGED")
    return 0 if h.verdict == HOLDS else 3
