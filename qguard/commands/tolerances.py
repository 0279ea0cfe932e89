"""``qguard tolerances``: gates from the data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.commands import add_precision, add_selection, session_of
from qguard.console.visible import say, visible

if TYPE_CHECKING:
    from qguard.judging.session import Session


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_precision(parser, default="all", several=True)
    parser.add_argument("--write", action="store_true", help="write the proposed gates into the configuration file")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why gates become looser, for reviewers")
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    """Propose gates, and write them where asked to."""
    session = session_of(args)
    file = args.config if args.config and args.config.is_file() else session.config.folder / "pyproject.toml"
    derive(session, args.precision, args.reason, file if args.write else None)
    return 0


def derive(session: Session, asked: str, reason: str, file: Path | None, name: str = "") -> None:
    """Print the proposed gates of each precision, and write them.

    Args:
        session: Models and suites as selected.
        asked: The precisions, as on the command line.
        reason: Why gates become looser.
        file: The configuration file to write to; ``None`` to write nothing.
        name: What to call that file.
    """
    from rich.console import Console

    from qguard import tolerances
    from qguard.precisions import parse_precisions
    from qguard.tolerances.toml import header, line, write_table

    config = session.config
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for precision in parse_precisions(asked, config.precisions, config.own_precisions):
        table = tolerances.name_of(precision, config.gates)
        found = tolerances.proposals_for(session, precision, lambda done: say(done, sys.stderr))
        out.print(f"{precision}: margins from repeated runs and from a bootstrap over items", markup=False)
        out.print(tolerances.table(found))
        for idle in (p.idle for p in found if p.idle):
            out.print(visible(idle), markup=False)
        lines = tolerances.lines_for(found, reason)
        text = "\n".join([header(("tool", "qguard", "gates", table)), *(line(k, *v) for k, v in lines.items())])
        out.print(visible(text) if lines else "every gate is as the data would have it", markup=False, soft_wrap=True)
        if file is not None and lines:
            tolerances.refuse_unexplained(found, reason)
            write_table(file, table, lines)
            out.print(f"{name or file.name}: {len(lines)} gates of {table} written", markup=False)
