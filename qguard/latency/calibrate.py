"""What this machine can tell apart: its null distribution (an artifact against itself) and the smallest slowdown it finds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, pstdev

from qguard.latency.arms import ArmSpec, Batch
from qguard.latency.decision import FAIL, INCONCLUSIVE, PASS, Rule, look
from qguard.latency.trial import run_trial

EFFECTS = (1.02, 1.03, 1.05, 1.07, 1.10, 1.15, 1.20, 1.30, 1.50, 2.00)
RESAMPLES = 400


@dataclass(frozen=True)
class Calibration:
    """A machine's null distribution in one bucket.

    Attributes:
        trials: Null trials.
        false_alarms: Null trials that failed.
        spread: Standard deviation of the log ratio of one pair of blocks.
        session_bias: Standard deviation of the median log ratio of one pair of sessions.
        dropped: Median share of interrupted runs.
        seconds: Median time to a verdict.
        power: Share of resampled trials that fail at each true slowdown, for the rule's margin.
        smallest: Smallest slowdown found in 99 % of resampled trials, or ``None``.
        margin: Smallest margin, 5 % or more, of which a model at its own speed passes in 99 %.
    """

    trials: int
    false_alarms: int
    spread: float
    session_bias: float
    dropped: float
    seconds: float
    power: dict[float, float]
    smallest: float | None
    margin: float | None


def calibrate(
    spec: ArmSpec, batch: Batch, tokens: int, *, minutes: float, budget: float, margin: float, done: Callable[[float], None]
) -> Calibration:
    """Run null trials for a while, then resample their sessions with a known slowdown added.

    Args:
        spec: The artifact that is timed against itself.
        batch: The batch.
        tokens: Tokens of each text.
        minutes: How long; at least three trials run.
        budget: Seconds of each trial.
        margin: The gate's margin, for example 0.05.
        done: Called with the share of time that is over, in [0, 1].
    """
    rule, start = Rule(math.log1p(margin)), time.monotonic()
    # a limit in the middle of the noise never decides early, so that every trial yields all the sessions its budget holds
    endless = Rule(0.0, alpha=1e-12, beta=1e-12)
    sessions: list[list[float]] = []
    alarms = trials = 0
    lost, seconds = [], []
    while trials < 3 or time.monotonic() - start < minutes * 60:
        found = run_trial(
            spec.arm(batch), spec.arm(batch), endless, tokens=tokens, threads=spec.threads, budget=budget, seed=trials
        )
        own = [s for s in found.sessions if s]
        sessions += own
        outcome, used = _sequential(own, rule)
        alarms += outcome == FAIL
        seconds.append(found.seconds * used / max(1, len(own)))
        lost.append(found.dropped)
        trials += 1
        done(min(1.0, (time.monotonic() - start) / (minutes * 60)))
    values = [d for s in sessions for d in s]
    count = max(rule.sessions[0], min(rule.sessions[1], round(len(sessions) / trials)))
    pick = random.Random(0)

    def share(effect: float, wanted: str, judged: Rule) -> float:
        hits = 0
        for _ in range(RESAMPLES):
            drawn = [[d + math.log(effect) for d in pick.choice(sessions)] for _ in range(count)]
            hits += _sequential(drawn, judged)[0] == wanted
        return hits / RESAMPLES

    power = {e: share(e, FAIL, rule) for e in EFFECTS}
    smallest = next((e for e in EFFECTS if all(power[x] >= 0.99 for x in EFFECTS if x >= e)), None)
    margins = (0.05, 0.07, 0.10, 0.15, 0.20, 0.30)
    usable = next((m for m in margins if share(1.0, PASS, Rule(math.log1p(m))) >= 0.99), None)
    return Calibration(
        trials,
        alarms,
        pstdev(values),
        pstdev([median(s) for s in sessions]),
        median(lost),
        median(seconds),
        power,
        smallest,
        usable,
    )


def _sequential(sessions: list[list[float]], rule: Rule) -> tuple[str, int]:
    """Outcome of looking after each session, and how many sessions that took."""
    for n in range(rule.sessions[0], len(sessions) + 1):
        outcome = look(sessions[:n], rule).outcome
        if outcome != INCONCLUSIVE:
            return outcome, n
    return INCONCLUSIVE, len(sessions)
