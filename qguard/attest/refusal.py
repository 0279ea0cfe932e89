"""A reason not to deploy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 5


@dataclass(frozen=True)
class Refusal:
    """What of a verdict does not hold, and the command that mends it; it prints without the latter, which several share."""

    part: str
    expected: str
    found: str
    mend: str

    def __str__(self) -> str:
        return printable(f"{self.part}: expected {self.expected}, found {self.found}")


def printable(text: str) -> str:
    """Text on one line: a file's name, or a statement, may hold what a terminal or a CI's log would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
