"""``qguard plan``: how many queries or texts a drop of a given size needs."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.commands import add_json
from qguard.console.visible import cell, say

if TYPE_CHECKING:
    from qguard.planning.plan import Need


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("report", type=Path, metavar="REPORT.json", help="written by pytest --qguard-report=REPORT.json")
    parser.add_argument(
        "--detect", type=float, required=True, metavar="DROP", help="the drop to detect, in the metric's unit, such as 0.01"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME[SLICE]",
        help="only this metric, such as ranking.overlap@10, or of one slice, ranking.overlap@10[legal]; repeatable (default: all "
        "metrics of whole suites)",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Say what each metric needs; 3 where nothing can be said of any."""
    from qguard.errors import MeasurementProblem, UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.report.shape import read_report

    if not (math.isfinite(args.detect) and args.detect > 0):
        raise UsageProblem(f"--detect: expected a number above 0, such as 0.01, found {args.detect:g}")
    report = read_report(args.report)
    planned = [(_name(r), _needs(r, args.metric, args.detect)) for r in report["runs"]]
    _refuse_unknown(report, args.metric)
    for name, needs in planned:
        _show(name, needs, args.detect)
    if args.json:
        runs = [{"run": name, "metrics": [n.to_json() for n in needs]} for name, needs in planned]
        try:
            write_atomic(args.json, dump_json({"schema": 1, "detect": args.detect, "runs": runs}))
        except OSError as e:
            raise MeasurementProblem(f"--json {args.json}: cannot be written ({e.strerror or e})") from e
    said = [n for _, needs in planned for n in needs if n.needed is not None]
    if not said:
        raise MeasurementProblem(
            f"{args.report.name}: no metric has a standard error, so nothing can be said; measure with the option "
            "--qguard-report=REPORT.json on more texts"
        )
    _conclude(said, args.detect)
    return 0


def _name(run: dict[str, Any]) -> str:
    return f"{run['precision']} {run['model']} {run['suite']}"


def _needs(run: dict[str, Any], wanted: list[str], drop: float) -> list[Need]:
    from qguard.gates.check import Check
    from qguard.planning.plan import plan

    checks = [Check.from_json(c) for c in run["checks"]]
    asked = {w.replace(" ", "") for w in wanted}
    if asked:
        checks = [c for c in checks if c.label.replace(" ", "") in asked or (c.slice and f"{c.name}[*]" in asked)]
    else:
        checks = [c for c in checks if c.slice is None]
    return plan(checks, drop)


def _refuse_unknown(report: dict[str, Any], wanted: list[str]) -> None:
    from qguard.errors import unknown

    labels = {c["name"] + (f"[{c['slice']}]" if c.get("slice") else "") for r in report["runs"] for c in r["checks"]}
    names = {c["name"] for r in report["runs"] for c in r["checks"]}
    for name in wanted:
        if name not in labels and not (name.endswith("[*]") and name[:-3] in names):
            raise unknown("metric of the report", name, labels)


def _show(name: str, needs: list[Need], drop: float) -> None:
    from rich.console import Console
    from rich.table import Table

    say(f"{name}: items that a gate needs to detect a change for the worse of {drop:g}, 4 times of 5, with 1 false alarm in 20")
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for head in ("value", "items now", "detect now", "items needed"):
        table.add_column(head, justify="right")
    table.add_column("")
    for n in needs:
        cells = "-" if n.detectable is None else f"{n.detectable:.2g}", "-" if n.needed is None else f"{n.needed:,}"
        enough = "enough" if n.needed is not None and n.needed <= n.items else n.rule if n.rule not in ("", "root") else ""
        table.add_row(cell(n.metric), f"{n.value:.4f}", f"{n.items:,}", *cells, cell(n.why or enough))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
    say("")


def _conclude(said: list[Need], drop: float) -> None:
    from qguard.planning.plan import RULES

    for rule in dict.fromkeys(n.rule for n in said):
        say(f"{'items needed' if rule == 'root' else rule} = {RULES[rule]}")
    say(
        "This holds for further items of the same kind. Texts of another kind may vary more, and more documents lie closer "
        "together."
    )
    most = max(said, key=lambda n: n.needed or 0)
    if (most.needed or 0) > most.items:
        say(
            f"{most.metric} needs most. To draw so many from your own texts:\n"
            f"  qguard sample --from PATH --n {most.needed} --out DIR"
        )
