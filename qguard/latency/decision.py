"""The statistics of a latency trial: pure functions of the logarithms of paired time ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from statistics import median

PASS, FAIL, INCONCLUSIVE, UNFIT = "pass", "fail", "inconclusive", "runner unfit"
UNTIMED = "speed: not measured"  # what leads a text on a latency of which nothing is known
UNDECIDED = (INCONCLUSIVE, UNFIT)
BUSY = "machine too busy"  # in a note: said only where interrupted runs, or a file slower than itself, prove it

CLEAR = 2.0  # spreads of the blocks of an arm that lie between clearly separated arms, at least
LUCKY = 10  # deviations of a session's luck that lie between them as well, since one session must do
# of the probabilities of a false PASS and of a false FAIL, what the early look may spend; most candidates pass, and clearly
PASS_SHARE, FAIL_SHARE = 0.8, 0.2


@dataclass(frozen=True)
class Rule:
    """When a trial is decided.

    Attributes:
        limit: Bound on d = log(candidate time / baseline time); above it is a failure.
        alpha: One-sided probability of a false FAIL over all looks of one trial.
        beta: One-sided probability of a false PASS over all looks.
        looks: How often the data may be looked at after the early look.
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
        """Pairs below which no sample passes that is not clearly separated."""
        return math.ceil(math.log2(self.looks / self.later[0]))

    @property
    def clear_pairs(self) -> tuple[int, int]:
        """Pairs after which clearly separated arms pass, and after which they fail; see :func:`clear`."""
        to_pass, to_fail = (math.ceil(math.log(2 / level, 4)) for level in (PASS_SHARE * self.beta, FAIL_SHARE * self.alpha))
        return to_pass, to_fail

    @property
    def later(self) -> tuple[float, float]:
        """Probabilities of a false PASS and of a false FAIL that are left for all looks but the early one."""
        return (1 - PASS_SHARE) * self.beta, (1 - FAIL_SHARE) * self.alpha


@dataclass(frozen=True)
class Look:
    """What the data say at one moment.

    Attributes:
        outcome: ``pass``, ``fail`` or ``inconclusive``.
        estimate: Median of d.
        low: Lower bound of the median, widened by the sessions' bias; ``-inf`` with few pairs.
        high: Upper bound, likewise.
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


@cache
def ranks(counts: tuple[int, ...], level: float, looks: int) -> tuple[int, ...]:
    """Ranks of the order statistics that bound the median from below, at each of several looks at growing data.

    Each look may spend ``level / looks``, and what those before it left (Lan and DeMets, Biometrika 1983). What it spends is
    computed, not bounded: the number of values below the median is a sum of coins, so that the probability of passing a bound at
    this look and at none before follows from the distribution of those sums that passed none.

    Args:
        counts: Values at each look, not falling.
        level: Probability that at any look the median is below its bound.
        looks: The most looks there can be.

    Returns:
        For each look the rank, from 1; 0 where no value is a bound.
    """
    alive, spent, n, found = [1.0], 0.0, 0, []
    for number, count in enumerate(counts, 1):
        for _ in range(count - n):
            alive = [(a + b) / 2 for a, b in zip([*alive, 0.0], [0.0, *alive], strict=True)]
        n, k = count, 0
        while k < n and spent + alive[k] <= level * number / looks:
            spent, alive[k], k = spent + alive[k], 0.0, k + 1
        found.append(k)
    return tuple(found)


def look(sessions: Sequence[Sequence[float]], rule: Rule) -> Look:
    """Judge the differences so far, of which the first look is after ``rule.sessions[0]`` sessions.

    Args:
        sessions: For each pair of sessions the differences d of its pairs of blocks; at least one difference in all.
        rule: The rule.
    """
    values = sorted(d for session in sessions for d in session)
    used = sum(1 for session in sessions if session)
    # 2.58: 0.5 % in each tail of a normal distribution
    wider = 2.58 * rule.session_bias / math.sqrt(used if rule.redrawn else 1)
    counts = tuple(accumulate(map(len, sessions)))[rule.sessions[0] - 1 :] or (len(values),)
    to_pass, to_fail = (ranks(counts, level, rule.looks)[-1] for level in rule.later)
    low = values[to_fail - 1] - wider if to_fail else -math.inf
    high = values[-to_pass] + wider if to_pass else math.inf
    return Look(_outcome(low, high, rule.limit), median(values), low, high, len(values), used)


def clear(times: tuple[Sequence[float], Sequence[float]], rule: Rule) -> Look | None:
    """Judge, once, a few blocks of arms so far apart that no more are needed.

    The early look. It passes or fails when all blocks of one arm, moved by the limit, are faster than all of the other, and the
    gap between them is wider than :data:`CLEAR` spreads (largest minus smallest logarithm) of either arm.

    Where the medians differ by just the limit, the moved blocks of both arms, independent of each other, have one distribution F.
    Take a block x of one arm and y of the other, at a distance D. All others of x's arm lie within D / CLEAR of it, and all
    others of y's arm within D / CLEAR of y. These two surroundings do not meet, so their probabilities p and q sum to 1 at most,
    and (pq)^(n-1) is at most 4^-(n-1). That x is the greater one has a probability of one half: 2 / 4^n in all, whatever F is. A
    sign test of n pairs has 1 / 2^n.

    Args:
        times: Block times of baseline and candidate in seconds, as many of each: those of the first pairs, of one session.
        rule: The rule; of its :attr:`Rule.clear_pairs` one is the number of blocks.

    Returns:
        The look; the same argument for other limits gives its bounds, each with an error of 2 / 4^n. ``None`` where the arms are
        not clearly separated.
    """
    a, b = ([math.log(t) for t in arm] for arm in times)
    n, (to_pass, to_fail) = len(a), rule.clear_pairs
    apart = max(CLEAR * max(max(a) - min(a), max(b) - min(b)), LUCKY * rule.session_bias)
    low, high = min(b) - max(a) - apart, max(b) - min(a) + apart  # from the least and the greatest ratio of any two blocks
    estimate = median(y - x for x, y in zip(a, b, strict=True))
    if n == to_pass and high < rule.limit:
        return Look(PASS, estimate, low, high, n, 1)
    if n == to_fail and low > rule.limit:
        return Look(FAIL, estimate, low, high, n, 1)
    return None


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
