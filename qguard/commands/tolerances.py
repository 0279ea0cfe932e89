"""``qguard tolerances``: gates from the data."""

from __future__ import annotations

import argparse
import sys

from qguard.commands import add_precision, add_selection, session_of
from qguard.console.visible import say, visible


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, default="all", several=True)
    parser.add_argument("--write", action="store_true", help="write the proposed gates into the configuration file")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why gates become looser, for reviewers")
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Propose gates, and write them where asked to."""
    from rich.console import Console

    from qguard import tolerances
    from qguard.precisions import parse_precisions
    from qguard.tolerances.toml import header, line, write_table

    session = session_of(args)
    config = session.config
    file = args.config / "pyproject.toml" if args.config.is_dir() else args.config
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for precision in parse_precisions(args.precision, config.precisions, config.own_precisions):
        name = tolerances.name_of(precision)
        found = tolerances.proposals_for(session, precision, lambda done: say(done, sys.stderr))
        out.print(f"{precision}: margins from repeated runs and from a bootstrap over items", markup=False)
        out.print(tolerances.table(found))
        for idle in (p.idle for p in found if p.idle):
            out.print(visible(idle), markup=False)
        lines = tolerances.lines_for(found, args.reason)
        text = "\n".join([header(("tool", "qguard", "gates", name)), *(line(k, *v) for k, v in lines.items())])
        out.print(visible(text) if lines else "every gate is as the data would have it", markup=False, soft_wrap=True)
        if args.write and lines:
            tolerances.refuse_unexplained(found, args.reason)
            write_table(file, name, lines)
            out.print(f"{file.name}: {len(lines)} gates of {name} written", markup=False)
    return 0
