"""``qguard merge``: the reports of a matrix as one."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from qguard.console.visible import say
from qguard.errors import UsageProblem

_CODES = {"pass": 0, "fail": 1, "unmeasured": 3}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    from qguard.report import FORMATS

    parser.description = (
        "Merge reports from several jobs or machines and print a table of precisions and hosts. "
        "The result passes only if every report passes. With --across-hosts, hosts are also compared with each other. "
        "Exit codes: 0 passed, 1 a gate failed, 2 usage error, 3 something was not measured."
    )
    parser.add_argument(
        "reports", type=Path, nargs="*", metavar="REPORT.json", help="written by pytest --qguard-report=REPORT.json"
    )
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write the merged report to FILE, whose suffix is one of {', '.join(FORMATS)}; repeatable",
    )
    parser.add_argument(
        "--across-hosts",
        action="store_true",
        help="also compare each two hosts that ran a precision, by the vectors that pytest --qguard-vectors=DIR kept",
    )
    parser.add_argument(
        "--vectors",
        type=Path,
        action="append",
        default=[],
        dest="folders",
        metavar="DIR",
        help="where those vectors lie, if not beside their report or in a folder 'vectors' there; repeatable",
    )
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="'METRIC >= NUMBER'",
        help="how far hosts may differ, such as 'hosts.overlap@10 >= 0.95' (default: the gates of the precision); repeatable",
    )


def run(args: argparse.Namespace) -> int:
    """Merge, write and print the table."""
    from qguard.files import read_json
    from qguard.report import check_format, write
    from qguard.report.across import parse_gates
    from qguard.report.merge import merge, table

    if not args.reports:
        raise UsageProblem("expected at least one REPORT.json: nothing measured is no pass")
    for path in args.out:
        check_format(path)
    if not args.across_hosts and (args.folders or args.gate):
        raise UsageProblem("--vectors and --gate are for comparing hosts: give --across-hosts")
    places = None
    if args.across_hosts:
        places = {str(p): (p.parent, p.parent / "vectors", *args.folders) for p in args.reports}
    report = merge({str(p): read_json(p, UsageProblem) for p in args.reports}, places, parse_gates(args.gate))
    for path in args.out:
        try:
            write(report, path)
        except OSError as e:
            raise UsageProblem(f"cannot write {path}: {e.strerror or e}") from e
    say("\n".join(table(report, shutil.get_terminal_size((100, 24)).columns)))
    return _CODES[report["verdict"]]
