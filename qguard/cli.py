"""The ``qguard`` command: the same functions as the pytest plugin, without pytest."""

from __future__ import annotations

import argparse
import os
import sys

from qguard import parts
from qguard.commands import add_commands
from qguard.commands.completion import SHELLS, PrintCompletion
from qguard.console.visible import say
from qguard.errors import QguardError
from qguard.version import __version__


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 holds, 1 regression, 2 usage or configuration, 3 could not be measured. As in a shell, 130 after Ctrl-C and 141 where
        nobody reads the output to its end.
    """
    try:
        parts.check()
        args = parser().parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except QguardError as e:
        say(f"qguard: {e}", sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of: qguard models | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("qguard", description="Regression gates for quantized sentence-embedding models.")
    made.add_argument("--version", action="version", version=f"qguard {__version__}")
    made.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print a completion script for this shell"
    )
    add_commands(made.add_subparsers(required=True, metavar="COMMAND"))
    return made
