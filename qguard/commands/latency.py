"""``qguard latency import``: what a load tool states, in a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from qguard.commands import add_command, add_config, config_of
from qguard.console.visible import say


def add(parser: argparse.ArgumentParser) -> None:
    """Its action and options."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    text = "add what vllm bench serve or GuideLLM states of a server to a report; qguard did not measure it, and says so"
    sub = add_command(actions, "import", text)
    sub.add_argument("file", type=Path, metavar="FILE", help="JSON result of vllm bench serve --save-result, or of GuideLLM")
    sub.add_argument(
        "--report", type=Path, required=True, metavar="REPORT.json", help="report of a server, written by --qguard-report"
    )
    sub.add_argument("--out", type=Path, metavar="FILE", help="write the report here (default: over REPORT.json)")
    sub.add_argument("--precision", metavar="NAME", help="the endpoint that the result is of (default: the only one)")
    add_config(sub)
    sub.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> int:
    """Add it; 1 where a bound of [tool.qguard.endpoint.NAME.load.stated] does not hold."""
    from qguard.errors import UsageProblem
    from qguard.latency.stated import read
    from qguard.report import check_format, write
    from qguard.report.loads import words
    from qguard.report.shape import read_report
    from qguard.report.stated import add_loads

    out = args.out or args.report
    check_format(out)
    loads, report = read(args.file), read_report(args.report)
    checks = add_loads(report, loads, args.precision, config_of(args))
    try:
        write(report, out)
    except OSError as e:
        raise UsageProblem(f"{out}: cannot be written ({e.strerror or e})") from e
    for load in loads:
        say(words(load))
    for check in checks:
        say(f"{check.label} {check.value:.4g}, gate {check.bound}: {check.outcome.upper()}")
    if not checks:
        say("no bound of the project names these figures: they are shown, and judge nothing")
    return 1 if any(check.outcome == "fail" for check in checks) else 0
