"""Which steps changed a line: surely, where equal things gave equal values before; else by one test over a whole history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from qguard.accepted.latency import MOVED
from qguard.accepted.scores import ROUNDING
from qguard.metrics.bootstrap import Z
from qguard.trend.series import PROVEN, Line, Point, better, judges, least
from qguard.trend.shapes import SIDE, Found, Rows, count, probability, surest

ALPHA = 0.001  # probability that a history without a change has one reported, over all of its series
FEWEST = 2 * SIDE  # points of a line that the test can judge
MOST = 1000  # of a longer line the newest are judged
SURE, STEP, SLOW = "sure", "step", "slow"
_MOST_OF_IT = 0.6  # a change of which one step is a larger share is that step
_PLAUSIBLE = 3.84  # chi-square of one degree of freedom at 95 %


@dataclass(frozen=True)
class Change:
    """A change of the level of a line.

    Attributes:
        line: The line.
        first: Index, among the line's points, of the first one that is not on the old level.
        last: Index of the first one that is on the new level; the same for a change in one step.
        kind: ``sure``: equal things gave equal values, until something else was judged. ``step``: the test found it. ``slow``:
            the test found it, and it took many steps.
        before: The old level, as the report has it.
        after: The new level.
        error: Standard error of the size, from the values themselves; 0 of a sure one.
        noise: The largest size that other texts like these could give, as accepted scores have it; of ratios a tenth. ``None`` if
            the reports do not say it.
        p: Probability of such a change, anywhere in the history, if there is none; 0 of a sure one.
        earliest: The first point at which it may have begun.
        latest: The last one.
        largest: The largest fall or rise within it from one point to the next.
    """

    line: Line
    first: int
    last: int
    kind: str
    before: float
    after: float
    error: float
    noise: float | None
    p: float
    earliest: int
    latest: int
    largest: float

    @property
    def size(self) -> float:
        """The difference; of ratios that of their logarithms."""
        return scaled(self.line, self.after) - scaled(self.line, self.before)

    @property
    def worse(self) -> bool | None:
        """Whether the value got worse; ``None`` of a metric whose direction is not known."""
        up = better(self.line)
        return None if up is None else (self.size < 0) == up

    @property
    def beyond(self) -> bool:
        """Whether it is more than what other texts like these would make of it."""
        return self.noise is not None and abs(self.size) > self.noise


@dataclass(frozen=True)
class Judged:
    """A line and what was found on it.

    Attributes:
        changes: In order.
        long_enough: Whether anything could have been found.
    """

    line: Line
    changes: tuple[Change, ...]
    long_enough: bool

    @property
    def lasting(self) -> list[Change]:
        """The changes for the worse that are beyond noise and that the newest level has not made good."""
        if not judges(self.line.name.metric):
            return []
        found = []
        for change in self.changes:
            now = scaled(self.line, self.changes[-1].after)
            fall = now - scaled(self.line, change.before)
            up = better(self.line)
            still = change.noise is not None and abs(fall) > change.noise and up is not None and (fall < 0) == up
            if change.worse and change.beyond and still:
                found.append(change)
        return found


def scaled(line: Line, value: float) -> float:
    """A value as it is compared: ratios by their logarithm."""
    return math.log(value) if line.relative else value


def judge(lines: Sequence[Line]) -> list[Judged]:
    """Every line with its changes.

    The test's level is shared by all shapes on all lines that vary at all. On one that does not, it could find nothing, and such
    a test need not be counted (Tarone, Biometrics 1990).
    """
    values = [np.asarray([scaled(line, p.value) for p in line.points[-MOST:]], np.float64) for line in lines]
    floors = [rounding(line) / 2 for line in lines]
    varied = [i for i, v in enumerate(values) if len(v) >= FEWEST and float(np.ptp(v)) > 2 * floors[i]]
    tests = sum(count(len(values[i])) for i in varied)
    found: dict[int, list[tuple[int, int, Found]]] = {i: [] for i in varied}
    pieces = [(i, 0, len(values[i])) for i in varied]
    while pieces:
        pieces = _split(pieces, values, floors, tests, found)
    return [
        _judged(line, v, f, found.get(i, []), tests) for i, (line, v, f) in enumerate(zip(lines, values, floors, strict=True))
    ]


def _split(
    pieces: Sequence[tuple[int, int, int]],
    values: Sequence[Rows],
    floors: Sequence[float],
    tests: int,
    found: dict[int, list[tuple[int, int, Found]]],
) -> list[tuple[int, int, int]]:
    """Test all pieces; what is left on both sides of a change is to be tested next."""
    left = []
    for length in {end - start for _, start, end in pieces}:
        mine = [p for p in pieces if p[2] - p[1] == length]
        rows = np.stack([values[i][start:end] for i, start, end in mine])
        for (i, start, end), best in zip(mine, surest(rows, np.asarray([floors[p[0]] for p in mine])), strict=True):
            if best is None or probability(best.z) * tests > ALPHA or abs(best.size) <= 2 * floors[i]:
                continue
            first, last = start + best.at, start + best.at + best.steps - 1
            found[i].append((first, last, best))
            left += [(i, a, b) for a, b in ((start, first), (last, end)) if FEWEST <= b - a < length]
    return left


def rounding(line: Line) -> float:
    """The largest difference on a line that is taken for rounding; see :func:`qguard.trend.series.least`."""
    return ROUNDING if line.relative else least([p.value for p in line.points], line.points[0].items)


def _judged(line: Line, values: Rows, floor: float, found: Sequence[tuple[int, int, Found]], tests: int) -> Judged:
    skipped = len(line.points) - len(values)
    places = _placed(values, floor, found)
    steps = _sure(line, values, floor, skipped)
    sure = [k for k in steps if not any(p.first - 1 <= k <= p.last for p in places if p.kind == SLOW)]
    places = [p for p in places if p.kind == SLOW or p.first not in sure]
    # where the test found what is known for sure, but not to the step
    places = [p for p in places if p.kind == SLOW or not any(p.earliest <= k <= p.latest for k in sure)]
    places = sorted([*places, *(_Place(k, k, SURE, 0.0, 0.0, k, k) for k in sure)], key=lambda p: p.first)
    changes, points = [], line.points[skipped:]
    for n, place in enumerate(places):
        start = places[n - 1].last if n else 0
        end = places[n + 1].first if n + 1 < len(places) else len(values)
        old, new = values[start : place.first], values[place.last : end]
        one_by_one = np.abs(np.diff(values[max(0, place.first - 1) : place.last + 1]))
        changes.append(
            Change(
                line, place.first + skipped, place.last + skipped, place.kind, _unscaled(line, old), _unscaled(line, new),
                place.error, _noise(line, points[start : place.first], points[place.last : end]), min(1.0, place.p * tests),
                place.earliest + skipped, place.latest + skipped, float(one_by_one.max(initial=0.0)),
            )
        )  # fmt: skip
    shortest = PROVEN + 1 if line.steady else FEWEST
    return Judged(line, tuple(changes), len(line.points) >= shortest)


def _unscaled(line: Line, values: Rows) -> float:
    level = float(values.mean())
    return math.exp(level) if line.relative else level


def _noise(line: Line, *levels: Sequence[Point]) -> float | None:
    """See :func:`qguard.accepted.scores.noise`; of ratios see :data:`qguard.accepted.latency.MOVED`.

    Of both levels the larger error counts: at a level at which no item lost anything, it is 0, and says nothing of other items.
    """
    if line.relative:
        return math.log(1 + MOVED)
    errors = [median(mine) for level in levels if (mine := [p.error for p in level if p.error])]
    return max(math.sqrt(2) * Z * max(errors), ROUNDING) if errors else None


def _sure(line: Line, values: Rows, floor: float, skipped: int) -> list[int]:
    """Where values that were equal became others, and with them what they were computed with."""
    if not line.steady:
        return []
    found, start = [], 0
    for k in range(1, len(values)):
        if abs(values[k] - values[k - 1]) <= 2 * floor and abs(values[k] - values[start]) <= 2 * floor:
            continue
        old, new = (line.made.get(line.points[skipped + i].step, "") for i in (k - 1, k))
        if k - start >= PROVEN and old and new and old != new:
            found.append(k)
        start = k
    return found


@dataclass(frozen=True)
class _Place:
    """Where a change is, its standard error, and the probability of its statistic at one place."""

    first: int
    last: int
    kind: str
    error: float
    p: float
    earliest: int
    latest: int


def _placed(values: Rows, floor: float, found: Sequence[tuple[int, int, Found]]) -> list[_Place]:
    """Each change that the test found, where it fits best between its neighbors."""
    out: list[_Place] = []
    ordered = sorted(found, key=lambda f: f[:2])
    for n, (_, _, best) in enumerate(ordered):
        start = out[-1].last if out else 0
        end = ordered[n + 1][0] if n + 1 < len(ordered) else len(values)
        if end - start < 2:
            continue
        piece, p = values[start:end], probability(best.z)
        errors = {k: _left(piece, k, k, floor) for k in range(1, len(piece))}
        at = min(errors, key=errors.__getitem__)
        # three times: what a step of noise is worth less where it is autocorrelated
        near = [k for k, e in errors.items() if len(piece) * math.log(e / errors[at]) <= 3 * _PLAUSIBLE]
        ramp = _ramp(piece, errors[at], floor)
        if ramp is None:
            out.append(_Place(start + at, start + at, STEP, best.error, p, start + min(near), start + max(near)))
        else:
            out.append(_Place(start + ramp[0], start + ramp[1], SLOW, best.error, p, start + ramp[0], start + ramp[0]))
    return out


def _ramp(piece: Rows, step: float, floor: float) -> tuple[int, int] | None:
    """First and last point of the ramp that fits much better than one step, whose largest step is not most of it."""
    best, place = math.inf, (0, 0)
    for first in range(1, len(piece)):
        for last in range(first + 2, len(piece)):
            if (left := _left(piece, first, last, floor)) < best:
                best, place = left, (first, last)
    if not place[1] or len(piece) * math.log(step / best) < 2 * math.log(len(piece)):
        return None
    inside = np.diff(piece[place[0] - 1 : place[1] + 1])
    return place if np.abs(inside).max() < _MOST_OF_IT * abs(inside.sum()) else None


def _left(piece: Rows, first: int, last: int, floor: float) -> float:
    """Squares left by a rise that begins before ``first`` and is over at ``last``; rounding alone leaves no less."""
    z = np.clip((np.arange(len(piece)) - first + 1) / (last - first + 1), 0, 1)
    z -= z.mean()
    y = piece - piece.mean()
    return max(float(y @ y - (y @ z) ** 2 / (z @ z)), len(piece) * floor * floor)
