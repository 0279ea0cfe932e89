"""Statistics of rows, in the form that a bootstrap needs: thousands of resamples reduced at once, by counts where it can be.

A metric's ``reduce`` may be any function that reduces axis -2. One of these classes says more: a mean, a ratio and a rank
correlation are computed from how often each row was drawn, without the drawn rows; and of a quantile the bootstrap must know
that it is one, since its interval comes from order statistics, and that of a minimum or maximum does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Values = int | Callable[[Rows], Rows]  # a column, or rows (..., n, columns) to a value of each (..., n)


@runtime_checkable
class Statistic(Protocol):
    """Rows (..., n, columns) to (...), and the same from counts."""

    def __call__(self, rows: Rows) -> Rows:
        """The statistic of each sample."""
        ...

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """The statistic of samples in which row ``i`` of ``rows`` (n, columns) occurs ``counts[i, b]`` times: (b,)."""
        ...


def values_of(rows: Rows, of: Values) -> Rows:
    """One value a row (..., n)."""
    return rows[..., of] if isinstance(of, int) else of(rows)


@dataclass(frozen=True)
class Mean:
    """The mean of a value a row.

    Attributes:
        of: The value.
        best: For values in [0, 1] the one that nothing was lost at; ``None`` for values without such bounds.
    """

    of: Values
    best: float | None = None

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        return np.asarray(values_of(rows, self.of).mean(-1), np.float64)

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`Statistic`."""
        return np.asarray(values_of(rows, self.of) @ counts / counts.sum(0), np.float64)


@dataclass(frozen=True)
class Share:
    """The share of rows whose value is 1, of values that are 0 or 1."""

    of: Values

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        return np.asarray(values_of(rows, self.of).mean(-1), np.float64)

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`Statistic`."""
        return Mean(self.of).weighted(rows, counts)


@dataclass(frozen=True)
class Ratio:
    """One statistic over another: a share of what can differ, or a candidate's score over fp32's (retention).

    Attributes:
        empty: The value where ``bottom`` is 0.
    """

    top: Statistic
    bottom: Statistic
    empty: float = float("nan")

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        return self._over(self.top(rows), self.bottom(rows))

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`Statistic`."""
        return self._over(self.top.weighted(rows, counts), self.bottom.weighted(rows, counts))

    def _over(self, top: Rows, bottom: Rows) -> Rows:
        empty = np.full_like(np.asarray(bottom, np.float64), self.empty)
        return np.asarray(np.divide(top, bottom, out=empty, where=bottom != 0), np.float64)


@dataclass(frozen=True)
class Absolute:
    """The size of a statistic whose sign does not matter."""

    of: Statistic

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        return np.abs(self.of(rows))

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`Statistic`."""
        return np.abs(self.of.weighted(rows, counts))


@dataclass(frozen=True)
class Quantile:
    """NumPy's linear quantile of a value a row; 0 is the minimum, 1 the maximum."""

    of: Values
    q: float

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        values = values_of(rows, self.of)
        if self.q in (0, 1):
            return np.asarray(values.max(-1) if self.q else values.min(-1), np.float64)
        return np.asarray(np.quantile(values, self.q, axis=-1), np.float64)


@dataclass(frozen=True)
class Spearman:
    """Spearman's rho of two values a row, with mean ranks for ties, equal to ``scipy.stats.spearmanr``; NaN of constants.

    Importing ``scipy.stats`` takes as long as encoding hundreds of texts.
    """

    a: Values
    b: Values

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`Statistic`."""
        x, y = (_centred(_ranks(values_of(rows, v))) for v in (self.a, self.b))
        return _correlation((x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1))

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`Statistic`."""
        middle = (counts.sum(0) + 1) / 2  # the mean of all ranks
        x, y = (_weighted_ranks(values_of(rows, v), counts) - middle for v in (self.a, self.b))
        wx = counts * x
        y_squared = np.einsum("nb,nb,nb->b", counts, y, y)
        return _correlation(np.einsum("nb,nb->b", wx, y), np.einsum("nb,nb->b", wx, x), y_squared)


def _correlation(xy: Rows, xx: Rows, yy: Rows) -> Rows:
    norm = np.sqrt(xx * yy)
    return np.asarray(np.divide(xy, norm, out=np.full_like(norm, np.nan), where=norm > 0), np.float64)


def _centred(values: Rows) -> Rows:
    return np.asarray(values - values.mean(-1, keepdims=True), np.float64)


def _runs(ordered: Rows) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of sorted values (..., n): where the run of equal values begins that each belongs to, and where it ends."""
    size = ordered.shape[-1]
    at = np.broadcast_to(np.arange(size), ordered.shape)
    starts = np.ones(ordered.shape, bool)
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=starts[..., 1:])
    ends = np.ones(ordered.shape, bool)
    ends[..., :-1] = starts[..., 1:]
    first = np.maximum.accumulate(np.where(starts, at, 0), -1)
    last = np.minimum.accumulate(np.where(ends, at, size)[..., ::-1], -1)[..., ::-1]
    return first, last


def _ranks(values: Rows) -> Rows:
    """Ranks from 1 along the last axis; equal values share the mean of theirs."""
    order = values.argsort(-1)
    first, last = _runs(np.take_along_axis(values, order, -1))
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return ranks


def _weighted_ranks(values: Rows, counts: Rows) -> Rows:
    """Ranks (n, b) of ``values`` (n,) in samples in which each occurs ``counts`` (n, b) times."""
    order = values.argsort()
    first, last = _runs(values[order])
    upto = np.zeros((len(values) + 1, counts.shape[1]))
    np.cumsum(counts[order], axis=0, out=upto[1:])
    ranks = np.empty_like(upto[1:])
    ranks[order] = (upto[first] + upto[last + 1] + 1) / 2
    return ranks
