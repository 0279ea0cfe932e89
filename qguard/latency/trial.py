"""The trial: blocks of runs of two arms in turn, sessions created anew, a look after each, an early stop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

from qguard.latency.decision import BUSY, INCONCLUSIVE, Look, Rule, block_time, clear, look

Timing = tuple[int, int]
LONGEST = 6  # budgets that a trial of long runs may take: at 2 s a pair three hold too few, if a single one is interrupted
LONG = 0.2  # seconds of a run that does not notice what the other arm left in the caches
SHORT = 0.03  # seconds of a run whose first time in a session says little
_BAD_LUCK = 2  # interrupted runs that say nothing about the runner yet
DROPPED = 0.3  # share of interrupted runs above which the runner, not the model, was measured


class Arm(Protocol):
    """One side of a trial."""

    def open(self) -> None:
        """Create the session anew."""

    def close(self) -> None:
        """Let the session go."""

    def block(self, discard: int, timed: int) -> list[Timing]:
        """``discard`` runs that bring the weights back into the cache, then ``timed`` runs: (wall, CPU) of each, ns."""
        ...


@dataclass
class Trial:
    """What a trial found.

    Attributes:
        look: The last look; its outcome is the trial's.
        times: Block times of (baseline, candidate), seconds.
        runs: Single timed runs of the candidate, seconds.
        sessions: Log ratios (candidate / baseline) of the pairs of each pair of sessions.
        dropped: Share of interrupted runs.
        seconds: How long it took.
        note: Why it is inconclusive, when it is.
    """

    look: Look
    times: tuple[list[float], list[float]]
    runs: list[float] = field(default_factory=list)
    sessions: list[list[float]] = field(default_factory=list)
    dropped: float = 0.0
    seconds: float = 0.0
    note: str = ""

    @property
    def medians(self) -> tuple[float, float]:
        """Median block time of baseline and candidate, seconds."""
        return median(self.times[0]), median(self.times[1])


def plan(seconds: float, tokens: int) -> tuple[int, int]:
    """Runs to discard and to time in a block.

    After a switch the other arm's weights fill the cache: short runs need several runs to recover, long ones do not notice.

    Args:
        seconds: Duration of one run of the slower arm.
        tokens: Tokens of each text.
    """
    if seconds > LONG:
        return 0, 1
    if seconds > SHORT:
        return 1, 2 if seconds < 0.1 else 1
    return (4 if tokens < 32 else 2), 3


def run_trial(
    baseline: Arm,
    candidate: Arm,
    rule: Rule,
    *,
    tokens: int,
    threads: int = 1,
    budget: float = 10.0,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Compare two arms until the rule decides or the budget is spent.

    Args:
        baseline: What the candidate is compared with.
        candidate: The arm under judgment.
        rule: When it is decided.
        tokens: Tokens of each text; short texts need longer blocks.
        threads: Threads of each arm.
        budget: Seconds. Long runs go on up to :data:`LONGEST` times that, until the fewest pairs that can decide are there; not
            where other work interrupts them, which more time would not mend.
        seed: Of the random order of arms.
        clock: Monotonic seconds.
    """
    try:
        return _trial((baseline, candidate), rule, tokens, threads, budget, seed, clock)
    finally:  # an arm that raised leaves no process and no connection behind
        baseline.close()
        candidate.close()


@dataclass
class _Course:
    """What a trial has seen so far.

    Attributes:
        arms: Both sides.
        threads: Of each.
        trial: What is filled.
        timed, dropped: Runs, and those of them that something interrupted.
        ahead: Times of first runs, for the early look alone: they are cold.
    """

    arms: tuple[Arm, Arm]
    threads: int
    trial: Trial
    timed: int = 0
    dropped: int = 0
    ahead: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    @property
    def busy(self) -> bool:
        """Whether other work interrupted more runs than bad luck explains."""
        return self.dropped > DROPPED * self.timed + _BAD_LUCK

    def pair(self, sides: tuple[int, int], shape: tuple[int, int]) -> None:
        """A block of each arm; of one whose runs were all interrupted nothing is kept."""
        found: list[float | None] = [None, None]
        for side in sides:
            timings = self.arms[side].block(*shape)
            found[side], lost = block_time(timings, self.threads)
            self.timed, self.dropped = self.timed + len(timings), self.dropped + lost
            if side == 1:
                self.trial.runs += [wall / 1e9 for wall, _ in timings]
        a, b = found
        if a is not None and b is not None:
            self.trial.times[0].append(a)
            self.trial.times[1].append(b)
            self.trial.sessions[-1].append(math.log(b / a))

    def clearly(self, rule: Rule) -> Look | None:
        """The early look."""
        baseline, candidate = (ahead + times for ahead, times in zip(self.ahead, self.trial.times, strict=True))
        return clear((baseline, candidate), rule) if baseline else None


def _trial(
    arms: tuple[Arm, Arm], rule: Rule, tokens: int, threads: int, budget: float, seed: int, clock: Callable[[], float]
) -> Trial:
    start, pick = clock(), random.Random(seed)
    trial = Trial(Look(INCONCLUSIVE, math.nan, -math.inf, math.inf, 0, 0), ([], []))
    course = _Course(arms, threads, trial)
    shape, groups = (2, 3), 1

    def late() -> bool:
        waits = sum(map(len, trial.sessions)) < rule.fewest_pairs and not course.busy
        return clock() - start > (LONGEST * budget if waits else budget)

    for number in range(rule.sessions[1]):
        for arm in arms if pick.random() < 0.5 else arms[::-1]:
            arm.open()
        trial.sessions.append([])
        if number == 0:
            first = _first(arms, pick)
            seconds = [min(wall for wall, _ in timings) / 1e9 for timings in first]
            shape = plan(max(seconds), tokens)
            pair = sum(shape) * sum(seconds)
            if pair * min(rule.clear_pairs) > LONGEST * budget:
                return _too_long(trial, seconds, clock() - start, min(rule.clear_pairs), budget)
            # pairs come two at a time (ABBA or BAAB)
            groups = max(1, min(rule.pairs, int(budget / rule.sessions[1] / max(pair, 1e-9))) // 2)
            cold = [block_time(timings, threads)[0] for timings in first]
            if max(seconds) > LONG and cold[0] is not None and cold[1] is not None:
                course.ahead = [cold[0]], [cold[1]]  # one run less of each; that it is cold can but widen the spread
        early = None
        for group in range(groups if number else max(groups, math.ceil(max(rule.clear_pairs) / 2))):
            if early or (group and late()):
                break
            order = (0, 1) if pick.random() < 0.5 else (1, 0)
            for sides in (order, order[::-1]):
                if early is None:
                    course.pair(sides, shape)
                    early = None if number else course.clearly(rule)
        for arm in arms:
            arm.close()
        trial.seconds, trial.dropped = clock() - start, course.dropped / max(1, course.timed)
        over = late()
        if early and trial.dropped <= DROPPED:
            trial.look = early
            return trial
        if any(trial.sessions) and (over or number + 1 >= rule.sessions[0]):
            trial.look = look(trial.sessions, rule)
            decides = number + 1 >= rule.sessions[0] and trial.dropped <= DROPPED
            if decides and trial.look.outcome != INCONCLUSIVE:
                return trial
        if over:
            break
    trial.look = _undecided(trial.look)
    if trial.dropped > DROPPED:
        trial.note = f"{BUSY}: {trial.dropped:.0%} of the runs were interrupted by other work"
    else:
        trial.note = f"{trial.look.pairs} pairs in {trial.seconds:.1f} s could not tell"
    return trial


def _first(arms: tuple[Arm, Arm], pick: random.Random) -> list[list[Timing]]:
    """First runs of each arm, which tell about how long a run takes; of short runs the first one of all tells little."""
    order = (0, 1) if pick.random() < 0.5 else (1, 0)
    found = {side: arms[side].block(0, 1) for side in order}
    if max(wall for timings in found.values() for wall, _ in timings) <= SHORT * 1e9:
        found = {side: arms[side].block(1, 2) for side in order}
    return [found[0], found[1]]


def _too_long(trial: Trial, seconds: list[float], spent: float, pairs: int, budget: float) -> Trial:
    """One run of each arm is all that the budget has room for: it says a ratio, and no verdict."""
    d = math.log(seconds[1] / seconds[0])
    trial.look = Look(INCONCLUSIVE, d, -math.inf, math.inf, 1, 1)
    trial.times, trial.runs, trial.seconds = ([seconds[0]], [seconds[1]]), [seconds[1]], spent
    trial.sessions[0].append(d)
    needed = math.ceil(pairs * sum(seconds) / LONGEST)
    trial.note = (
        f"one run of each takes {sum(seconds):.0f} s, and a verdict {pairs} of them: set budget = {needed} in "
        f"[tool.qguard.latency], or shorter tokens and batches (it is {budget:g})"
    )
    return trial


def _undecided(last: Look) -> Look:
    return replace(last, outcome=INCONCLUSIVE)
