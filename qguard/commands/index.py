"""``qguard index sweep``: which index holds a recall at which cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qguard.commands import add_command, add_json, add_precision, add_selection, session_of
from qguard.console.visible import say, visible


def add(parser: argparse.ArgumentParser) -> None:
    """Its actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "search indexes of many types and parameters, and show what each gives for its time and bytes"
    action = add_command(actions, "sweep", text)
    action.add_argument("--index", required=True, metavar="NAME,…", help="indexes of the configuration to start from")
    action.add_argument("--type", default="", metavar="TYPE,…", help="types to try in place of the configured one")
    for name, what in (("param", "of the build"), ("search", "of each search")):
        words = f"values of a parameter {what} to try; repeatable"
        action.add_argument(f"--{name}", action="append", default=[], metavar="NAME=VALUE,…", help=words)
    action.add_argument("--recall", type=float, default=0.95, metavar="N", help="the recall@10 to hold (default 0.95)")
    action.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the table and pictures")
    add_precision(action, default="", several=True)
    add_json(action)
    add_selection(action)


def run(args: argparse.Namespace) -> int:
    """Measure every combination, and print one row each."""
    from rich.console import Console
    from rich.table import Table

    from qguard.boundary import step
    from qguard.console.visible import cell
    from qguard.errors import UsageProblem
    from qguard.files import dump_json, write_atomic
    from qguard.judging.sweep import cheapest, indexes_of, sweep
    from qguard.precisions import parse_precisions
    from qguard.report.sweep import HEADS, cells, page

    if not 0 < args.recall <= 1:
        raise UsageProblem(f"--recall: expected a share above 0, at most 1, found {args.recall:g}")
    session = session_of(args)
    config = session.config
    precisions = parse_precisions(args.precision or config.precisions[0], config.precisions, config.own_precisions)
    chosen = [config.index_settings(name) for name in _listed(args.index)]
    indexes = indexes_of(chosen, _listed(args.type), _grid(args.param, "--param"), _grid(args.search, "--search"))
    rows = sweep(session, session.targets(precisions), indexes, lambda what: say(f"{what} …", file=sys.stderr))
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(*HEADS)
    for row in rows:
        table.add_row(*map(cell, cells(row)))
    out.print(table)
    words = ["*: no other row is as good in overlap@10, median time and bytes, and better in one."]
    held = cheapest(rows, args.recall)
    words += [f"{name} with recall@10 >= {args.recall:g}: {row.target.precision} {row.index.words}" for name, row in held.items()]
    words += [] if held else [f"no index holds recall@10 >= {args.recall:g}"]
    words += [f"{row.target.precision} {row.index.words}: {row.error}" for row in rows if row.error]
    for line in words:
        out.print(visible(line), markup=False, soft_wrap=True)
    with step("writing the results"):
        if args.json:
            write_atomic(args.json, dump_json({"recall": args.recall, "rows": [row.to_json() for row in rows]}))
        if args.html:
            write_atomic(args.html, page(rows, words))
    return 3 if any(row.error for row in rows) else 0 if held else 1


def _listed(given: str) -> list[str]:
    return [part for name in given.split(",") if (part := name.strip())]


def _grid(given: Sequence[str], option: str) -> dict[str, list[Any]]:
    """Parameter → its values, from ``NAME=VALUE,…``."""
    from qguard.errors import UsageProblem

    found: dict[str, list[Any]] = {}
    for text in given:
        name, sign, values = text.partition("=")
        if not (sign and name and _listed(values)):
            raise UsageProblem(f"{option}: expected NAME=VALUE,…, such as ef=16,64; found {text!r}")
        found.setdefault(name.strip(), []).extend(map(_value, _listed(values)))
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
