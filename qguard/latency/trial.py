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
    if seconds > 0.03:
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


def _trial(
    arms: tuple[Arm, Arm], rule: Rule, tokens: int, threads: int, budget: float, seed: int, clock: Callable[[], float]
) -> Trial:
    start, pick = clock(), random.Random(seed)
    trial = Trial(Look(INCONCLUSIVE, math.nan, -math.inf, math.inf, 0, 0), ([], []))
    sessions = trial.sessions
    timed = dropped = 0
    shape, groups = (2, 3), 1

    def late() -> bool:
        waits = sum(map(len, sessions)) < rule.fewest_pairs and dropped <= DROPPED * timed + _BAD_LUCK
        return clock() - start > (LONGEST * budget if waits else budget)

    for number in range(rule.sessions[1]):
        for arm in arms if pick.random() < 0.5 else arms[::-1]:
            arm.open()
        session: list[float] = []
        sessions.append(session)
        if number == 0:
            seconds = _first(arms)
            shape = plan(max(seconds), tokens)
            pair = sum(shape) * sum(seconds)
            if pair * min(rule.clear_pairs) > LONGEST * budget:
                return _too_long(trial, seconds, clock() - start, min(rule.clear_pairs), budget)
            # pairs come two at a time (ABBA or BAAB)
            groups = max(1, min(rule.pairs, int(budget / rule.sessions[1] / max(pair, 1e-9))) // 2)
        early = None
        for group in range(groups if number else max(groups, math.ceil(max(rule.clear_pairs) / 2))):
            if early or (group and late()):
                break
            order = (0, 1, 1, 0) if pick.random() < 0.5 else (1, 0, 0, 1)
            found: list[tuple[int, float | None]] = []
            for side in order:
                timings = arms[side].block(*shape)
                value, lost = block_time(timings, threads)
                timed, dropped = timed + len(timings), dropped + lost
                found.append((side, value))
                if side == 1:
                    trial.runs += [wall / 1e9 for wall, _ in timings]
            for left, right in (found[:2], found[2:]):
                a, b = (dict((left, right))[side] for side in (0, 1))
                if a is not None and b is not None:
                    trial.times[0].append(a)
                    trial.times[1].append(b)
                    session.append(math.log(b / a))
                    early = early or (None if number else clear(trial.times, rule))
        for arm in arms:
            arm.close()
        trial.seconds, trial.dropped = clock() - start, dropped / max(1, timed)
        over = late()
        if early and trial.dropped <= DROPPED:
            trial.look = early
            return trial
        if any(sessions) and (over or number + 1 >= rule.sessions[0]):
            trial.look = look(sessions, rule)
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


def _first(arms: tuple[Arm, Arm]) -> list[float]:
    """About how long a run of each arm takes, seconds. Long runs run once: the first run of a session costs them little."""
    found = [arm.block(0, 1) for arm in arms]
    if max(wall for (wall, _), *_ in found) <= LONG * 1e9:
        found = [arm.block(1, 2) for arm in arms]
    return [min(wall for wall, _ in timings) / 1e9 for timings in found]


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
