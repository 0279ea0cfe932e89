"""The search for the first bad one in an ordered list: pure functions of a side for each place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

GOOD, BAD, PASSED_OVER = "good", "bad", "passed over"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        good: The last good place before ``bad``.
        bad: The first bad place.
        sides: What was judged, by place: ``good``, ``bad`` or ``passed over``.
    """

    good: int
    bad: int
    sides: dict[int, str]

    @property
    def between(self) -> list[int]:
        """Places between both, none of which could be judged: the first bad one is one of them, or ``bad``."""
        return list(range(self.good + 1, self.bad))

    @property
    def turns(self) -> list[tuple[int, int]]:
        """Neighbors among the judged places where a bad one is followed by a good one: the change was taken back there."""
        judged = [i for i in sorted(self.sides) if self.sides[i] != PASSED_OVER]
        return [(i, j) for i, j in pairwise(judged) if (self.sides[i], self.sides[j]) == (BAD, GOOD)]


def first_bad(places: int, side: Callable[[int], str], every: bool = False) -> Found:
    """The first bad place, where the first place is good and the last one is bad.

    Halves the open places. One that cannot be judged is passed over, and the nearest to the middle of the others is judged.

    Args:
        places: How many there are, at least two.
        side: The side of a place; asked once for each at most.
        every: Judge all places. The first change to bad is then the answer, whatever comes after it.
    """
    sides = {0: GOOD, places - 1: BAD}
    low, high = 0, places - 1
    if every:
        sides |= {i: side(i) for i in range(1, places - 1)}
        high = min(i for i, found in sides.items() if found == BAD)
        low = max(i for i, found in sides.items() if found == GOOD and i < high)
    while open_ := [i for i in range(low + 1, high) if i not in sides]:
        at = min(open_, key=lambda i: (abs(2 * i - low - high), i))
        sides[at] = side(at)
        if sides[at] == GOOD:
            low = at
        elif sides[at] == BAD:
            high = at
    return Found(low, high, dict(sorted(sides.items())))


def least_set(names: list[str], bad: Callable[[frozenset[str]], str], told: Found | None = None) -> tuple[list[str], bool]:
    """Which of several changes together make it bad, where all of them do and none of them does not.

    The changes are made one after the other. The one that turns the result is needed; then the search goes on with it made first,
    until what is needed is bad by itself. (Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002, call
    such a set a minimal one.)

    Args:
        names: The changes, in the order in which they are made.
        bad: The side of a set of changes.
        told: A first search, if it was made already.

    Returns:
        The changes that are needed, and whether exactly they were judged and are bad. It is false where some combination could
        not be judged; the set may then hold more than is needed.
    """
    needed: list[str] = []
    others = list(names)
    while True:
        if needed and bad(frozenset(needed)) == BAD:
            return needed, True
        if not others:
            return needed, False
        steps = [frozenset([*needed, *others[:k]]) for k in range(len(others) + 1)]
        found = told or first_bad(len(steps), lambda k, steps=steps: bad(steps[k]))  # type: ignore[misc]
        told = None
        taken = others[found.good : found.bad]
        needed += taken
        others = others[: found.good]
