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
    """

    limit: float
    alpha: float = 0.005
    beta: float = 0.01
    looks: int = 7
    session_bias: float = 0.01
    pairs: int = 16
    sessions: tuple[int, int] = (2, 8)

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


def order_bound(values: Sequence[float], alpha: float) -> float:
    """Lower confidence bound of the median: the largest order statistic that a sign test at level ``alpha`` allows.

    P(x_(k) > median) = P(Bin(n, 1/2) < k), so the bound is x_(k) for the largest k with that sum <= ``alpha``. It assumes
    independent differences with a common median and nothing of their shape (Conover, Practical Nonparametric Statistics, 3.2).

    Returns:
        The bound, or ``-inf`` when there are too few values for ``alpha``.
    """
    n, k, total = len(values), 0, 0
    while k < n:
        total += math.comb(n, k)
        if total > alpha * 2**n:
            break
        k += 1
    return sorted(values)[k - 1] if k else -math.inf


def look(sessions: Sequence[Sequence[float]], rule: Rule) -> Look:
    """Judge the differences so far.

    Args:
        sessions: For each pair of sessions the differences d of its pairs of blocks; at least one difference in all.
        rule: The rule.
    """
    values = [d for session in sessions for d in session]
    used = sum(1 for session in sessions if session)
    wider = 2.58 * rule.session_bias / math.sqrt(used)  # 2.58: 0.5 % in each tail of a normal distribution
    low = order_bound(values, rule.alpha / rule.looks) - wider
    high = -order_bound([-d for d in values], rule.beta / rule.looks) + wider
    outcome = FAIL if low > rule.limit else PASS if high <= rule.limit else INCONCLUSIVE
    return Look(outcome, median(values), low, high, len(values), used)


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
