"""``qguard accept``: what is agreed to, with its reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qguard.commands import add_selection, config_of, session_of
from qguard.console.visible import say
from qguard.errors import UsageProblem


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "report", type=Path, nargs="?", metavar="REPORT.json", help="written by pytest --qguard-report=REPORT.json"
    )
    parser.add_argument(
        "--precision",
        metavar="NAME[:DIMS][@RUNTIME][+VECTORS],…",
        help="instead of reading a report, run the accuracy gates of these precisions now; no latency",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="reason for reviewers")
    parser.add_argument("--lower", action="store_true", help="also replace accepted scores with worse ones")
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Store what a report, or a run of now, has passed."""
    from qguard.accepting.acceptance import accept
    from qguard.files import read_json

    if (args.report is None) == (args.precision is None):
        raise UsageProblem("expected either REPORT.json or --precision: what is accepted must have been measured")
    if args.report is not None:
        report, root = read_json(args.report, UsageProblem), config_of(args).golden_root
    else:
        from qguard.accepting.measured import measure_now
        from qguard.precisions import parse_precisions

        session = session_of(args)
        config = session.config
        precisions = parse_precisions(args.precision, config.precisions, config.own_precisions)
        if not args.reason.strip():
            raise UsageProblem('accepting needs a reason for its reviewers: --reason "…"')  # before minutes of measuring
        report, root = measure_now(session, precisions, lambda what: say(f"{what} …", file=sys.stderr)), config.golden_root
    lines = accept(report, root, args.reason, args.lower)
    say("\n".join(lines) or "nothing new: every value is already accepted, or the report has none that can be accepted")
    return 0
