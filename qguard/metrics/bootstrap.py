"""How far a value may be from that of other texts like these: intervals by a bootstrap over items, exact ones for quantiles.

Each row of a metric holds what fp32 and the candidate gave for one item (text, pair, query), so a resample of rows is paired
by construction. Intervals are bias-corrected and accelerated (BCa; Efron 1987, "Better Bootstrap Confidence Intervals"), near
``scipy.stats.bootstrap``'s (a test holds them to that), with two changes for few items, see :func:`_bca`. A rank correlation
has the bootstrap's standard error on Fisher's scale. Where a bootstrap is not valid there is another interval, or none and the
reason in words. benchmarks/coverage.py measures how often each holds the truth; docs/tolerances.md has its table.

Draws are deterministic: their seed is the SHA-256 of the suite's hash, the metric family and the slice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.metrics.statistics import Absolute, Mean, Quantile, Rows, Share, Spearman, values_of

LEVEL = 0.95
RESAMPLES = 1000
GROUPS = 500  # leave-one-out samples; of more rows, equal groups are left out instead
DECIDING = 3.0  # items that must decide a value, see _deciding; fewer say little of what others would do
BLOCK = 1 << 18  # cells of a block of resamples: its counts stay in the second-level cache
KEPT = 1 << 22  # cells of the counts that are kept for the other metrics of the family
_NORMAL = NormalDist()
Z = _NORMAL.inv_cdf((1 + LEVEL) / 2)
# standard errors between a value that a gate lets through 19 times of 20 and one that it stops 4 times of 5
DETECTABLE = _NORMAL.inv_cdf(0.95) + _NORMAL.inv_cdf(0.80)


@dataclass(frozen=True)
class Uncertainty:
    """A confidence interval at :data:`LEVEL`, or the reason why there is none.

    Attributes:
        low: Lower end, ``None`` where there is no interval; so ``high`` and ``error``.
        high: Upper end.
        error: Standard error: of the bootstrap, else the interval's width over that of a normal distribution.
        note: How the interval came about where it is no bootstrap, or why there is none.
        tail: There is none because the value is that of the few worst items.
    """

    low: float | None = None
    high: float | None = None
    error: float | None = None
    note: str = ""
    tail: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def detectable(self) -> float | None:
        """The smallest drop that so many items can detect, (z.95 + z.80) x standard error = 2.49 x standard error.

        A gate whose bound lies this far below a model's true value stops that model 1 time of 20 at most if the bound is moved
        up to 1.64 standard errors below it, and stops one that is worse by the whole drop 4 times of 5.
        """
        return None if self.error is None else DETECTABLE * self.error


def uncertainty(reduce: Callable[[Rows], Rows], rows: Rows, seed: int, noun: str = "items") -> Uncertainty:
    """The interval of a metric over items.

    Args:
        reduce: See :class:`qguard.metrics.Metric`; what is no class of :mod:`qguard.metrics.statistics` is taken for smooth.
        rows: (n, columns), one row an item; the items are taken as independent.
        seed: See :func:`seed_of`.
        noun: What an item is, for the reason.
    """
    n = len(rows)
    if isinstance(reduce, Quantile):
        return _of_quantile(values_of(rows, reduce.of), reduce.q, noun)
    if isinstance(reduce, Share):
        return _of_share(int(values_of(rows, reduce.of).sum()), n)
    if isinstance(reduce, Absolute):
        return _folded(float(reduce.of(rows)), uncertainty(reduce.of, rows, seed, noun))
    if isinstance(reduce, Mean) and reduce.best is not None and (values_of(rows, reduce.of) == reduce.best).all():
        return _of_nothing_lost(reduce.best, n, noun)
    left_out = _without_each(reduce, rows)
    deciding = _deciding(left_out) if np.isfinite(left_out).all() else 1.0
    if deciding < DECIDING:
        what = f"rests on {max(1, round(deciding))} of them" if deciding else "does not vary"
        return Uncertainty(note=f"no interval from {n} {noun}: the value {what}")
    samples = replicates(reduce, rows, seed)
    samples = np.sort(samples[np.isfinite(samples)])
    if len(samples) < 0.99 * RESAMPLES:
        return Uncertainty(note=f"the value does not exist in many resamples of {n} {noun}")
    value, z = float(reduce(rows)), _wider(n)
    ends = _on_fishers_scale(value, samples, z) if isinstance(reduce, Spearman) else _bca(value, samples, left_out, z)
    return Uncertainty(*ends, float(samples.std(ddof=1)))


def standard_error(reduce: Callable[[Rows], Rows], rows: Rows, seed: int) -> float:
    """Standard deviation of a metric over resampled rows (Efron 1979), at least 0, in the metric's unit; the same in every run.

    Rough where :func:`uncertainty` gives an exact interval or none (quantiles, extremes), but it exists.
    """
    samples = replicates(reduce, rows, seed)
    samples = samples[np.isfinite(samples)]
    return float(samples.std(ddof=1)) if len(samples) > 1 else 0.0


def seed_of(suite: str, family: str, part: str | None) -> int:
    """The seed of the draws.

    Args:
        suite: The suite's SHA-256.
        family: Of the metric: all metrics of a family see the same resamples.
        part: The slice, ``None`` for the whole suite.
    """
    return int.from_bytes(hashlib.sha256(f"{suite}:{family}:{part or ''}".encode()).digest()[:8], "big")


def cannot_tell(value: float, bound: float, items: int, noun: str, detectable: float | None) -> str:
    """``60 queries cannot tell 0.99 from 0.98``; empty where a bound is at least a detectable drop away from the value."""
    gap = abs(value - bound)
    if detectable is None or gap >= detectable:
        return ""
    digits = min(6, max(2, -math.floor(math.log10(gap) + 1e-9))) if gap else 4
    return f"{items} {noun} cannot tell {value:.{digits}f} from {bound:.{digits}f}: they resolve {detectable:.2g}"


def replicates(reduce: Callable[[Rows], Rows], rows: Rows, seed: int, resamples: int = RESAMPLES) -> Rows:
    """The statistic of ``resamples`` samples of n rows each, drawn with replacement: (resamples,)."""
    weighted: Callable[[Rows, Rows], Rows] | None = getattr(reduce, "weighted", None)
    if weighted is None:
        return np.concatenate([reduce(rows[draw.T]) for draw in _draws(seed, len(rows), resamples)])
    return np.concatenate([weighted(rows, c.astype(np.float64)) for c in _counts(seed, len(rows), resamples)])


def _draws(seed: int, n: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Indices (n, b) of drawn rows, in blocks."""
    rng = np.random.default_rng(seed)
    size = max(1, BLOCK // n)
    for start in range(0, resamples, size):
        yield rng.integers(0, n, (n, min(size, resamples - start)))


def _counts(seed: int, n: int, resamples: int) -> Any:
    return _kept_counts(seed, n, resamples) if n * resamples <= KEPT else _count(seed, n, resamples)


@lru_cache(maxsize=4)
def _kept_counts(seed: int, n: int, resamples: int) -> tuple[NDArray[np.uint8], ...]:
    # a row is drawn once on average and never 255 times; a sample of fewer rows has no such count
    return tuple(c.astype(np.uint8) for c in _count(seed, n, resamples))


def _count(seed: int, n: int, resamples: int) -> Iterator[NDArray[np.intp]]:
    """How often each row was drawn (n, b), in blocks; the same draws as :func:`_draws`."""
    for draw in _draws(seed, n, resamples):
        size = draw.shape[1]
        yield np.bincount((draw * size + np.arange(size)).ravel(), minlength=n * size).reshape(n, size)


def _without_each(reduce: Callable[[Rows], Rows], rows: Rows) -> Rows:
    """The statistic without each row (n,), or without each of :data:`GROUPS` groups; NaN where it has no value.

    The acceleration is a third moment over a second one to the power of 1.5, both sums, so that groups give the same.
    """
    n = len(rows)
    weighted = getattr(reduce, "weighted", None)
    groups = np.arange(n) if n <= GROUPS else np.random.default_rng(0).permutation(n) * GROUPS // n
    count = min(n, GROUPS)
    out: Rows = np.empty(count)
    size = max(1, BLOCK // n)
    for start in range(0, count, size):
        left = np.arange(start, min(start + size, count))
        if weighted is not None:
            out[left] = weighted(rows, (groups[:, None] != left).astype(np.float64))
        else:
            out[left] = [reduce(rows[groups != g]) for g in left]
    return out


def _deciding(left_out: Rows) -> float:
    """How many items decide a value: (sum d^2)^2 / sum d^4 of their influences d.

    Three equal ones among many that have none are 3, those of a normal distribution a third of all.
    """
    d = left_out - left_out.mean()
    scale = float(np.abs(d).max())
    if scale <= 1e-13 * abs(float(left_out.mean())):  # rounding
        return 0.0
    d = d / scale
    return float((d**2).sum() ** 2 / (d**4).sum())


def _wider(n: int) -> float:
    """Standard errors to each end: the t quantile, and the bootstrap's variance times n / (n - 1) (Hesterberg 2015, 3.2)."""
    v = n - 1
    t = Z + (Z**3 + Z) / (4 * v) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * v * v)  # Cornish and Fisher
    return t * math.sqrt(n / v)


def _bca(value: float, samples: Rows, left_out: Rows, z: float) -> tuple[float, float]:
    """Efron's interval from sorted samples, expanded for few items, its acceleration shrunk by how uncertain it is.

    The acceleration is a third moment, sum d^3, whose own variance is near sum d^6. Taken at face value where few items decide
    it costs more coverage than it gives; 1 - 4 variance / square, at least 0, was chosen by benchmarks/coverage.py.
    """
    rounding = 1e-9 * (samples[-1] - samples[0])  # equal values, summed in another order
    below = np.searchsorted(samples, value - rounding) + np.searchsorted(samples, value + rounding)
    z0 = _NORMAL.inv_cdf(min(max(below / (2 * len(samples)), 1 / (len(samples) + 1)), len(samples) / (len(samples) + 1)))
    d = left_out.mean() - left_out
    d = d / np.abs(d).max()
    third = float((d**3).sum())
    shrunk = max(0.0, 1 - 4 * float((d**6).sum()) / third**2) if third else 0.0
    a = shrunk * third / (6 * float((d**2).sum()) ** 1.5)
    low, high = (_NORMAL.cdf(z0 + (z0 + end) / (1 - a * (z0 + end))) for end in (-z, z))
    return float(np.quantile(samples, low)), float(np.quantile(samples, high))


def _on_fishers_scale(value: float, samples: Rows, z: float) -> tuple[float, float]:
    """A correlation's interval, symmetric in artanh: resamples hold rows twice, which tie, and biases near 1 mislead BCa."""
    most = 1 - 1e-12
    error = float(np.arctanh(np.clip(samples, -most, most)).std(ddof=1))
    at = math.atanh(max(-most, min(value, most)))
    return math.tanh(at - z * error), math.tanh(at + z * error)


def _of_quantile(values: Rows, q: float, noun: str) -> Uncertainty:
    """Exact and free of any distribution: two order statistics (Conover 1999, *Practical Nonparametric Statistics*, 3.2)."""
    if q in (0, 1):
        what = "maximum" if q else "minimum"
        return Uncertainty(note=f"a {what} has no interval: the worst of other {noun} may be far worse", tail=True)
    if q > 0.5:
        return _mirrored(_of_quantile(-values, 1 - q, noun))
    n = len(values)
    tail = (1 - LEVEL) / 2
    upto = np.cumsum(_binomial(n, q))
    low = int(np.searchsorted(upto, tail, "right"))  # the low-th lowest: fewer than low values below the quantile is this rare
    high = int(np.searchsorted(upto, 1 - tail)) + 1
    if low < 1 or high > n:
        need = math.ceil(math.log(tail) / math.log(1 - q))
        return Uncertainty(
            note=f"{n} {noun} give no interval of a quantile {q:g} from the end: expected at least {need}", tail=True
        )
    ordered = np.sort(values)
    return _exact(float(ordered[low - 1]), float(ordered[high - 1]), "order statistics")


def _of_share(count: int, n: int) -> Uncertainty:
    """Clopper and Pearson's interval with mid-P, exact on average where theirs is wider (Berry and Armitage 1995)."""
    tail = (1 - LEVEL) / 2

    def end(wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            p = (low + high) / 2
            chances = _binomial(n, p)[: count + 1]
            below = chances.sum() - (chances[-1] / 2 if len(chances) > count else 0)
            low, high = (p, high) if below > wanted else (low, p)
        return (low + high) / 2

    return _exact(0.0 if count == 0 else end(1 - tail), 1.0 if count == n else end(tail), "exact binomial, mid-P")


def _of_nothing_lost(best: float, n: int, noun: str) -> Uncertainty:
    """No item of n lost anything: fewer than 1 - tail^(1/n) of all would, and none can lose more than 1."""
    most = 1 - ((1 - LEVEL) / 2) ** (1 / n)
    note = f"exact binomial: none of {n} {noun} lost anything"
    return _exact(1 - most, 1.0, note) if best == 1 else _exact(0.0, most, note)


def _exact(low: float, high: float, note: str) -> Uncertainty:
    return Uncertainty(low, high, (high - low) / (2 * Z), note)


def _mirrored(u: Uncertainty) -> Uncertainty:
    return u if u.low is None or u.high is None else Uncertainty(-u.high, -u.low, u.error, u.note)


def _folded(value: float, u: Uncertainty) -> Uncertainty:
    """The interval of a size from that of the signed value, whose shape it keeps; it reaches 0 where the sign is open.

    To fold the ends alone would hold the truth too often: where an interval reaches 0, nothing can miss below it.
    """
    if u.low is None or u.high is None:
        return u
    size = abs(value)
    below, above = (value - u.low, u.high - value) if value >= 0 else (u.high - value, value - u.low)
    error = (u.high - u.low) / (2 * Z)
    low, high = _sizes(size / error) if error else (0.0, 0.0)
    down = size - (size / error - low) / Z * below if low else 0.0
    return Uncertainty(max(0.0, down), size + (high - size / error) / Z * above if error else size, u.error, u.note)


def _sizes(t: float) -> tuple[float, float]:
    """The sizes of a mean, in standard errors, for whose estimate's size ``t`` lies in the shortest range that holds it at LEVEL.

    The estimate's size has a folded normal distribution (Leone, Nelson and Nottingham 1961); Neyman's construction.
    """
    if t > 6:  # the fold is out of reach
        return t - Z, t + Z

    def likelier(size: float) -> float:
        """Chance of an estimate of higher density than t."""

        def density(x: float) -> float:
            return math.exp(-((x - size) ** 2) / 2) + math.exp(-((x + size) ** 2) / 2)

        def below(x: float) -> float:
            return _NORMAL.cdf(x - size) - _NORMAL.cdf(-x - size)

        peak = 0.0 if size <= 1 else _root(lambda x: x - size * math.tanh(size * x), 1e-9, size)
        if t < peak:
            return below(_root(lambda x: density(t) - density(x), peak, size + 9)) - below(t)
        return below(t) - (0.0 if density(0) >= density(t) else below(_root(lambda x: density(x) - density(t), 0.0, peak)))

    low = 0.0 if likelier(0.0) <= LEVEL else _root(lambda size: LEVEL - likelier(size), 0.0, t)
    return low, _root(lambda size: likelier(size) - LEVEL, t, t + 3)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is negative at ``low`` and positive at ``high`` changes its sign."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _binomial(n: int, p: float) -> Rows:
    """Chances of 0, 1, … successes of n, up to where they vanish."""
    last = min(n, math.ceil(n * p + 12 * math.sqrt(n * p * (1 - p)) + 40))
    k = np.arange(last)
    logs = np.concatenate(([0.0], np.cumsum(np.log((n - k) / (k + 1.0)) + math.log(p / (1 - p)))))
    return np.asarray(np.exp(n * math.log1p(-p) + logs), np.float64)
