"""Shell completion: a script that the user's shell reads once, written by shtab from the very parser of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem

SHELLS = ("bash", "zsh", "fish")


class PrintCompletion(argparse.Action):
    """``--print-completion SHELL``: print the script, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print it."""
        try:
            print(script(parser, values))
        except UsageProblem as e:
            parser.exit(e.exit_code, f"qguard: {e}\n")
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of a shell; it changes what the parser takes, so nothing is parsed with it any more.

    Raises:
        UsageProblem: without shtab.
    """
    try:
        import shtab
    except ImportError:
        raise UsageProblem("completion needs shtab: pip install 'qguard[completion]'") from None
    words = known_words()
    for action in _actions(parser):
        if action.dest in words and not action.choices:
            several = action.dest == "precision" and str(action.metavar).endswith("…")
            action.choices = [*words[action.dest], *(["all"] if several else [])]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path or action.metavar == "SUITE|PATH":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def known_words() -> dict[str, list[str]]:
    """The words that an option takes, by the name of its value. Those of a project (models, suites) no script can know."""
    from qguard.faults import FAULTS
    from qguard.goldens.review import PARTS
    from qguard.precisions import known
    from qguard.vectors.quantized import FLOAT, KINDS

    return {"precision": known(), "fault": list(FAULTS), "accept_change": list(PARTS), "vectors": [FLOAT, *KINDS]}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
