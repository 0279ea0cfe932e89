"""The ``qguard`` command: the same functions as the pytest plugin, without pytest."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys

from qguard import parts
from qguard.boundary import shown, step
from qguard.commands import add_commands
from qguard.commands.completion import SHELLS, PrintCompletion
from qguard.console.visible import say
from qguard.errors import QguardError, UsageProblem
from qguard.version import __version__


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 holds, 1 regression, 2 usage or configuration, 3 could not be measured. As in a shell, 130 after Ctrl-C and 141 where
        nobody reads the output to its end.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a code page of Windows lacks most of what may be printed
    try:
        with step("qguard"):
            parts.check()
            _refuse_empty(sys.argv[1:] if argv is None else argv)
            args = parser().parse_args(argv)
        with step(f"qguard {args.command}"):
            code = int(args.run(args))
        sys.stdout.flush()
        return code
    except QguardError as e:
        say(f"{shown(e)}qguard: {e}", sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of: qguard models | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141


def _refuse_empty(argv: list[str]) -> None:
    """An empty value, of a variable that is not set, must not stand for this folder or for a default."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not word.strip() or re.fullmatch(r"--[a-z-]+=\s*", word):
            name = word.strip().rstrip("=") or before or "an argument"
            raise UsageProblem(
                f"{name}: expected a value, found an empty one; set the variable that it comes from, or leave it out"
            )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("qguard", description="Regression gates for quantized sentence-embedding models.")
    made.add_argument("--version", action="version", version=f"qguard {__version__}")
    made.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print a completion script for this shell"
    )
    add_commands(made.add_subparsers(required=True, metavar="COMMAND"))
    return made


if __name__ == "__main__":
    sys.exit(main())
