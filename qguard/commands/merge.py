"""``qguard merge``: the reports of a matrix as one."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from qguard.errors import UsageProblem
from qguard.visible import say

_CODES = {"pass": 0, "fail": 1, "unmeasured": 3}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    from qguard.report import FORMATS

    parser.description = (
        "Merge the reports of several jobs and machines, which passes only if all of them do, "
        "and print a table of precisions and hosts. 0: it passes; 1: a gate failed; 2: usage; 3: something was not measured."
    )
    parser.add_argument("reports", type=Path, nargs="*", metavar="REPORT.json", help="of pytest --qguard-report=REPORT.json")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write it; ends in {', '.join(FORMATS)}; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Merge, write and print the table."""
    from qguard.files import read_json
    from qguard.report import check_format, write
    from qguard.report.merge import merge, table

    if not args.reports:
        raise UsageProblem("expected at least one REPORT.json: nothing measured is no pass")
    for path in args.out:
        check_format(path)
    report = merge({str(p): read_json(p, UsageProblem) for p in args.reports})
    for path in args.out:
        try:
            write(report, path)
        except OSError as e:
            raise UsageProblem(f"cannot write {path}: {e.strerror or e}") from e
    say("\n".join(table(report, shutil.get_terminal_size((100, 24)).columns)))
    return _CODES[report["verdict"]]
