"""How a level can change in a series, and how sure it is that one did: steps and ramps, told from autocorrelated noise.

Each shape is a regressor z on an interval of the series: a step (0 before, 1 after) or a ramp (0, then rising evenly, then 1).
Its coefficient by least squares has the t statistic of a linear regression. The maximum of such statistics over all places is
the likelihood-ratio test of one change at an unknown place (Worsley, JASA 1979; that of a step is the CUSUM of Page, Biometrika
1954). The intervals are those of seeded binary segmentation (Kovacs, Buhlmann, Li and Munk, Biometrika 2023). Without them a bump
in the middle of a series would hide itself, because its own size would be taken for noise.

Autocorrelated noise makes steps and ramps of its own. So the standard error is that of a process of the first order. Its
autocorrelation is that of the residuals, corrected for its bias (Kendall, Biometrika 1954) and moved up by one standard error; it
is never taken for less than one half, because a short series does not show it. The degrees of freedom are those of a variance
of such a process (Bartlett, JRSS Supplement 1946). benchmarks/history_simulated.py measures the error rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]

SIDE = 5  # fewest values on each side of a step: a few bad runs in a row are no change
RAMPS = (10, 20, 40, 80, 160)  # steps that a ramp takes
_LEAST = 0.5  # autocorrelation that is always reckoned with
_MOST = 0.95  # autocorrelation beyond which a series says next to nothing


@dataclass(frozen=True)
class Shapes:
    """The shapes on one interval of a series.

    Attributes:
        start: Where the interval begins.
        rows: (shapes, length) float64: centered, of unit length.
        scale: (shapes,) change of the level for a coefficient of 1.
        at: (shapes,) index in the series of the first value that is not on the old level.
        steps: (shapes,) how many steps the change takes: 1 for a step.
    """

    start: int
    rows: Rows
    scale: Rows
    at: NDArray[np.intp]
    steps: NDArray[np.intp]


@dataclass(frozen=True)
class Found:
    """The shape that is the surest change of one series.

    Attributes:
        at: Index of the first value that is not on the old level.
        steps: How many steps the change takes.
        size: By how much the level changed.
        error: Standard error of the size, with the autocorrelation in it.
        z: The t statistic as a normal deviate with the same tail.
    """

    at: int
    steps: int
    size: float
    error: float
    z: float


@lru_cache(maxsize=64)
def shapes(length: int) -> tuple[Shapes, ...]:
    """All shapes on the seeded intervals of a series; none of a series shorter than two sides."""
    found = []
    for start, end in _intervals(length):
        size = end - start
        rows, at, steps = [], [], []
        for first in range(SIDE, size - SIDE + 1):
            rows.append((np.arange(size) >= first).astype(np.float64))
            at.append(start + first)
            steps.append(1)
        for ramp in sorted({*(r for r in RAMPS if r < size - 1), size - 1}):
            if ramp < RAMPS[0] or size < 3 * SIDE:
                continue
            for first in range(0, size - ramp, max(1, ramp // 4)):
                rows.append(np.clip((np.arange(size) - first) / ramp, 0, 1))
                at.append(start + first + 1)
                steps.append(ramp)
        z = np.asarray(rows) - np.mean(rows, 1, keepdims=True)
        norm = np.sqrt((z * z).sum(1, keepdims=True))
        found.append(Shapes(start, z / norm, 1 / norm[:, 0], np.asarray(at), np.asarray(steps)))
    return tuple(found)


def count(length: int) -> int:
    """How many shapes are tried on a series."""
    return sum(len(s.rows) for s in shapes(length))


def _intervals(length: int) -> list[tuple[int, int]]:
    found, size, layer = [], float(length), 0
    while round(size) >= 4 * SIDE or (layer == 0 and length >= 2 * SIDE):
        wide, many = round(size), 2 * math.ceil(math.sqrt(2) ** layer) - 1
        starts = {0} if many == 1 else {round(i * (length - wide) / (many - 1)) for i in range(many)}
        found += [(s, s + wide) for s in sorted(starts)]
        size, layer = size / math.sqrt(2), layer + 1
    return list(dict.fromkeys(found))


def surest(values: Rows, floor: Rows) -> list[Found | None]:
    """The surest change of each of several series of one length; ``None`` where there is none to speak of.

    Args:
        values: (series, length) float64, in order of time.
        floor: (series,) standard deviation below which differences are rounding, above 0.
    """
    series, length = values.shape
    best: list[Found | None] = [None] * series
    highest = np.zeros(series)
    for part in shapes(length):
        size = part.rows.shape[1]
        y = values[:, part.start : part.start + size]
        y = y - y.mean(1, keepdims=True)
        c = y @ part.rows.T
        left = np.maximum((y * y).sum(1)[:, None] - c * c, 0)
        cross = y[:, 1:] @ part.rows[:, :-1].T + y[:, :-1] @ part.rows[:, 1:].T
        lagged = (y[:, 1:] * y[:, :-1]).sum(1)[:, None] - c * cross + c * c * (part.rows[:, 1:] * part.rows[:, :-1]).sum(1)
        variance = left / (size - 2)
        rounding = variance <= floor[:, None] ** 2
        variance = np.maximum(variance, floor[:, None] ** 2)
        phi = np.where(rounding, 0, lagged / np.maximum(left, 1e-300))
        phi = careful(phi, size)
        error = np.sqrt(variance * (1 + phi) / (1 - phi))
        freedom = np.maximum((size - 2) * (1 - phi * phi) / (1 + phi * phi), 1)
        z = normal(np.abs(c) / error, freedom)
        top = z.argmax(1)
        for i in np.flatnonzero(z[np.arange(series), top] > highest).tolist():
            k = int(top[i])
            highest[i] = z[i, k]
            scale = float(part.scale[k])
            best[i] = Found(
                int(part.at[k]), int(part.steps[k]), float(c[i, k]) * scale, float(error[i, k]) * scale, float(z[i, k])
            )
    return best


def careful(phi: Rows, length: int) -> Rows:
    """An autocorrelation of residuals, corrected for its bias and moved up by a standard error, in [.5, .95]."""
    phi = np.clip(phi, -1, 1)
    raised = phi + (1 + 4 * np.maximum(phi, 0)) / length + np.sqrt((1 - phi * phi) / length)
    return np.clip(raised, _LEAST, _MOST)


def normal(t: Rows, freedom: Rows) -> Rows:
    """Student's t as a normal deviate with nearly the same tail (Wallace, Annals of Mathematical Statistics 1959)."""
    return np.asarray(np.sqrt(freedom * np.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3), np.float64)


def probability(z: float) -> float:
    """Both tails of the normal distribution beyond ``z``."""
    return math.erfc(z / math.sqrt(2))
