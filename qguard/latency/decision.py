"""The statistics of a latency trial: pure functions of the logarithms of paired time ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

PASS, FAIL, INCONCLUSIVE, UNFIT = "pass", "fail", "inconclusive", "runner unfit"
UNTIMED = "speed: not measured"  # what leads a text on a latency of which nothing is known
UNDECIDED = (INCONCLUSIVE, UNFIT)
BUSY = "machine too busy"  # in a note: said only where interrupted runs, or a file slower than itself, prove it


@dataclass(frozen=True)
class Rule:
    """When a trial is decided.

    Attributes:
        limit: Bound on d = log(candidate time / baseline time); above it is a failure.
        alpha: One-sided probability of a false FAIL over all looks of one trial.
        beta: One-sided probability of a false PASS over all looks.
        looks: How often the data may be looked at; both probabilities are divided by it (Bonferroni).
        session_bias: Standard deviation, as a log ratio, by which one pair of sessions is luckier than another.
        pairs: Pairs of blocks in one pair of sessions, at most.
        sessions: Pairs of sessions: fewest before the first look, and most.
        redrawn: Whether a new session draws its luck anew. Servers that are timed from outside keep theirs, however often a
            client connects again, so that the bias does not shrink with their number.
    """

    limit: float
    alpha: float = 0.005
    beta: float = 0.01
    looks: int = 7
    session_bias: float = 0.01
    pairs: int = 16
    sessions: tuple[int, int] = (2, 8)
    redrawn: bool = True

    def divided(self, gates: int) -> Rule:
        """This rule for one of ``gates`` latency gates of a run, so that all of them together keep ``alpha``."""
        return replace(self, alpha=self.alpha / max(1, gates))

    @property
    def fewest_pairs(self) -> int:
        """Pairs below which no sample, however clear, can pass."""
        return math.ceil(math.log2(self.looks / self.beta))


@dataclass(frozen=True)
class Look:
    """What the data say at one moment.

    Attributes:
        outcome: ``pass``, ``fail`` or ``inconclusive``.
        estimate: Median of d.
        low: Lower bound of the median at ``alpha / looks``, widened by the sessions' bias; ``-inf`` with few pairs.
        high: Upper bound at ``beta / looks``, widened likewise.
    """

    outcome: str
    estimate: float
    low: float
    high: float
    pairs: int
    sessions: int


def order_bound(values: Sequence[float], alpha: float, q: float = 0.5, independent: int | None = None) -> float:
    """Lower confidence bound of a quantile: the largest order statistic that a binomial test at level ``alpha`` allows.

    P(x_(k) > quantile) = P(Bin(n, q) < k), so the bound is x_(k) for the largest k with that sum <= ``alpha``. For the median
    this is the sign test. It assumes independent values with a common quantile and nothing of their shape (Conover, Practical
    Nonparametric Statistics, 3.2).

    Args:
        values: At least one.
        alpha: Probability that the quantile is below the bound.
        q: Which quantile, between 0 and 1.
        independent: How many independent values these are worth; all of them by default.

    Returns:
        The bound, or ``-inf`` when there are too few values for ``alpha``.
    """
    n, k, total = independent or len(values), 0, 0.0
    while k < n:
        total += math.exp(
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(q) + (n - k) * math.log1p(-q)
        )
        if total > alpha:
            break
        k += 1
    rank = k * len(values) // n
    return sorted(values)[rank - 1] if rank else -math.inf


def look(sessions: Sequence[Sequence[float]], rule: Rule) -> Look:
    """Judge the differences so far.

    Args:
        sessions: For each pair of sessions the differences d of its pairs of blocks; at least one difference in all.
        rule: The rule.
    """
    values = [d for session in sessions for d in session]
    used = sum(1 for session in sessions if session)
    # 2.58: 0.5 % in each tail of a normal distribution
    wider = 2.58 * rule.session_bias / math.sqrt(used if rule.redrawn else 1)
    low = order_bound(values, rule.alpha / rule.looks) - wider
    high = -order_bound([-d for d in values], rule.beta / rule.looks) + wider
    return Look(_outcome(low, high, rule.limit), median(values), low, high, len(values), used)


def _outcome(low: float, high: float, limit: float) -> str:
    return FAIL if low > limit else PASS if high <= limit else INCONCLUSIVE


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of the values does not exceed.

    Args:
        values: At least one.
        q: Which quantile, above 0 and at most 1.
    """
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def look_at_quantile(values: Sequence[float], q: float, limit: float, rule: Rule) -> Look:
    """Judge one quantile of a series against an absolute limit, once.

    Slow requests come together: a stall makes a whole row of them slow. So the values count as fewer independent ones, by the
    autocorrelation of being above the quantile.

    Args:
        values: In the order of time, at least one.
        q: Which quantile, between 0 and 1.
        limit: What the quantile may be at most.
        rule: Its probabilities of a false FAIL and a false PASS.

    Returns:
        Estimate and bounds as the values are; ``pairs`` is the number of values.
    """
    at = quantile(values, q)
    worth = max(1, int(len(values) / _clustering([v > at for v in values])))
    low = order_bound(values, rule.alpha, q, worth)
    high = -order_bound([-v for v in values], rule.beta, 1 - q, worth)
    return Look(_outcome(low, high, limit), at, low, high, len(values), 1)


def fewest_for(q: float, rule: Rule) -> int:
    """Independent values below which no sample, however fast, passes a limit on this quantile."""
    return math.ceil(math.log(rule.beta) / math.log(q))


def _clustering(above: Sequence[bool]) -> float:
    """How many values in turn are worth one independent value, at least 1.

    This is the integrated autocorrelation, summed for as long as its pairs of lags are positive and do not grow (Geyer, Practical
    Markov Chain Monte Carlo, 1992).
    """
    import numpy as np

    off = np.asarray(above, np.float64) - sum(above) / len(above)
    spectrum = np.fft.rfft(off, 2 * len(off))
    sums = np.fft.irfft(spectrum * spectrum.conj())[1 : len(off)]
    spread = float(off @ off)
    if not spread:
        return 1.0
    total, before = 1.0, math.inf
    for pair in (sums[: len(sums) // 2 * 2].reshape(-1, 2).sum(1) / spread).tolist():
        if pair <= 0:
            break
        total, before = total + 2 * min(pair, before), min(pair, before)
    return total


def block_time(timings: Sequence[tuple[int, int]], threads: int, slack: float = 1.03) -> tuple[float | None, int]:
    """One time for a block of runs, and how many runs were dropped.

    With one thread, a run whose wall time exceeds ``slack`` × its CPU time was interrupted and is dropped; the block's time
    is the median of the others. With several threads CPU time says nothing about waiting, so it is the minimum.

    Args:
        timings: (wall, CPU of the calling thread) of each run, ns.
        threads: Threads that a run uses.
        slack: Largest ratio of wall to CPU time of an undisturbed run.

    Returns:
        Seconds, or ``None`` when every run was dropped; runs dropped.
    """
    if threads > 1:
        return min(wall for wall, _ in timings) / 1e9, 0
    kept = [wall for wall, cpu in timings if wall <= slack * cpu]
    return (median(kept) / 1e9 if kept else None), len(timings) - len(kept)
