"""``qguard selftest``: does the gate bite?"""

from __future__ import annotations

import argparse
import sys

from qguard.commands import (
    add_artifact,
    add_json,
    add_precision,
    add_ray,
    add_selection,
    fleet_facts,
    fleet_of,
    session_of,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, default="")
    add_artifact(parser)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME", help="inject only this fault; repeatable")
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        metavar="N",
        help="number of runs of the unchanged artifact, none of which may fail (default 20)",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="number of processes, each with one thread (default: one per core)")
    add_ray(parser, "judge faults and clean repeats")
    add_json(parser)
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Inject every fault, judge each, and say what the gate does not see."""
    from rich.box import MARKDOWN
    from rich.console import Console

    from qguard.console.progress import progress
    from qguard.errors import MeasurementProblem, UsageProblem
    from qguard.faults import chosen, findings, runner
    from qguard.files import dump_json, write_atomic
    from qguard.machine.cpu import cores
    from qguard.precisions import parse_precision

    faults = chosen(args.fault)
    for name, value, least in (("--repeats", args.repeats, 0), ("--jobs", 1 if args.jobs is None else args.jobs, 1)):
        if value < least:
            raise UsageProblem(f"{name}: expected {least} or more, found {value}")
    session = session_of(args)
    session.artifact_path = args.artifact
    precision = parse_precision(args.precision or session.config.precisions[0], session.config.own_precisions)
    session.fleet = fleet_of(args)
    with progress("selftest", runner.steps(session, faults, args.repeats)) as advance:
        report = runner.selftest(session, precision, faults, args.repeats, args.jobs or cores(), advance)
    terminal = sys.stdout.isatty()
    out = Console(highlight=False, width=None if terminal else 320)
    for title, table in findings.tables(report, None if terminal else MARKDOWN):
        if table.row_count:
            out.print(f"\n{title}\n", markup=False)
            out.print(table)
    out.print("")
    for line in findings.lines(report):
        out.print(line, markup=False, soft_wrap=True)
    if args.json:
        try:
            write_atomic(args.json, dump_json(findings.to_json(report) | fleet_facts(session)))
        except OSError as e:
            raise MeasurementProblem(f"--json {args.json}: cannot be written ({e.strerror or e})") from e
    return findings.exit_code(report)
