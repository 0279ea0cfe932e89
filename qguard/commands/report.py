"""``qguard report``: a saved report in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from qguard.console.visible import say


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    from qguard.report import FORMATS

    parser.add_argument("report", type=Path, metavar="REPORT.json", help="written by pytest --qguard-report=REPORT.json")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help=f"file to write, whose suffix is one of {', '.join(FORMATS)}; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Write it; the verdict stays what it was, and is not this command's exit code."""
    from qguard.errors import UsageProblem
    from qguard.report import check_format, write
    from qguard.report.shape import read_report

    for out in args.out:
        check_format(out)
    report = read_report(args.report)
    for out in args.out:
        try:
            write(report, out)
        except OSError as e:
            raise UsageProblem(f"--out {out}: cannot be written ({e.strerror or e})") from e
        except (ValueError, ArithmeticError, LookupError, TypeError) as e:
            raise UsageProblem(f"{args.report} has the shape of a report, but is damaged: {e}") from e
        say(f"{out}: {report['verdict']}, {len(report['runs'])} run(s)")
    return 0
