"""A reason not to deploy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qguard.console.visible import visible

_SHOWN = 5


@dataclass(frozen=True)
class Refusal:
    """What of a verdict does not hold, and the command that mends it; it prints without the latter, which several share."""

    part: str
    expected: str
    found: str
    mend: str

    def __str__(self) -> str:
        return visible(f"{self.part}: expected {self.expected}, found {self.found}", "")


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
