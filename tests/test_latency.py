"""The statistics of the latency trial on simulated timings, and the trial on simulated arms: no model, no clock."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from qguard.errors import MeasurementProblem
from qguard.gates import Gate
from qguard.latency import memory
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, PlannedTrial, UntimedProblem, compare
from qguard.latency.confirm import confirm
from qguard.latency.decision import FAIL, INCONCLUSIVE, PASS, UNFIT, Rule, block_time, clear, look, order_bound, ranks
from qguard.latency.trial import LONGEST, plan, run_trial
from qguard.metrics.bounds import Bound

LIMIT = math.log(1.05)


@pytest.mark.parametrize("n", [5, 11, 32, 100, 128])
@pytest.mark.parametrize("alpha", [0.05, 0.005, 0.005 / 7])
def test_the_order_bound_is_the_sign_tests(n, alpha):
    values = list(np.random.default_rng(n).normal(size=n))
    k = int(binom.ppf(alpha, n, 0.5))
    while k > 0 and binom.cdf(k - 1, n, 0.5) > alpha:
        k -= 1
    while binom.cdf(k, n, 0.5) <= alpha:
        k += 1
    assert order_bound(values, alpha) == (sorted(values)[k - 1] if k else -math.inf)


def test_few_pairs_decide_nothing():
    rule = Rule(0.0)
    assert look([[-1.0] * 4, [-1.0] * 4], rule).outcome == INCONCLUSIVE
    assert look([[-1.0] * 8, [-1.0] * 8], rule).outcome == PASS
    assert look([[1.0] * 8, [1.0] * 8], rule).outcome == FAIL
    assert rule.fewest_pairs == 12
    assert look([[-1.0] * 6, [-1.0] * 6], rule).outcome == PASS  # 2^-12 is a seventh of what is left of 1 %
    assert rule.clear_pairs == (4, 6)
    assert rule.divided(6).clear_pairs == (4, 7)


@pytest.mark.parametrize("level", [0.004, 0.002, 1e-4])
@pytest.mark.parametrize("counts", [(32, 48, 64, 80, 96, 112, 128), (12, 14, 16, 18, 20, 22, 24), (31, 31, 40), (100,)])
def test_all_looks_together_spend_what_they_may(counts, level):
    """The exact probability that a walk of coins passes any of the bounds, by another way than the rule's: all paths, as sums."""
    found = ranks(counts, level, 7)
    paths = {0: 1.0}
    for n, k, before in zip(counts, found, (0, *counts[:-1]), strict=True):
        coins = [binom.pmf(x, n - before, 0.5) for x in range(n - before + 1)]
        moved: dict[int, float] = {}
        for below, share in paths.items():
            for more, p in enumerate(coins):
                moved[below + more] = moved.get(below + more, 0.0) + share * p
        paths = {below: share for below, share in moved.items() if below >= k}
    assert 1 - sum(paths.values()) <= level + 1e-12
    single = tuple(next(k for k in range(n + 1) if binom.cdf(k, n, 0.5) > level / 7) for n in counts)
    assert all(a >= b for a, b in zip(found, single, strict=True))  # no look is worse off than by Bonferroni
    assert len(counts) < 7 or found != single


@pytest.mark.parametrize("n", [2, 4, 6])
def test_arms_seldom_lie_apart_by_chance(n):
    """Of two equal arms in the noise that is worst for it the early look is wrong less often than the rule says."""
    rng, wrong, count = np.random.default_rng(n), 0, 40_000
    level = 2 / 4**n
    rule = Rule(0.0, alpha=1e-9, beta=level / 0.8)
    assert rule.clear_pairs[0] == n
    for _ in range(count):
        a, b = np.exp(rng.integers(0, 2, (2, n)))
        wrong += clear((a, b), rule) is not None
    assert wrong <= level * count
    assert n > 4 or wrong > 0.3 * level * count  # it is that close


def test_arms_are_clear_where_the_gap_is_wide_beside_the_noise():
    rule, fast = Rule(0.0), [1.0, 1.02, 0.99, 1.01]
    found = clear(([2.0, 2.1, 2.05, 2.0], fast), rule)
    assert (found.outcome, found.pairs, found.sessions) == (PASS, 4, 1)
    assert math.exp(found.low) < 0.48 < math.exp(found.estimate) < 0.51 < math.exp(found.high) < 0.6
    assert clear(([2.0, 2.1, 2.05, 3.0], fast), rule) is None  # as wide as the gap
    assert clear(([1.08, 1.081, 1.082, 1.083], [1.0, 1.001, 1.0, 1.0]), rule) is None  # a session's luck
    assert clear((fast, [2.0, 2.1, 2.05, 2.0]), rule) is None  # to fail takes two pairs more
    six = clear((fast + fast[:2], [2.0, 2.1, 2.05, 2.0, 2.0, 2.0]), rule)
    assert (six.outcome, six.pairs) == (FAIL, 6)
    assert clear((fast + fast[:1], [0.5] * 5), rule) is None  # it is looked at once


def test_dividing_alpha_widens_only_the_way_to_fail():
    values = [[math.log(1.07)] * 16] * 2
    assert look(values, Rule(math.log(1.05), session_bias=0)).outcome == FAIL
    hard = Rule(math.log(1.05), session_bias=0).divided(10**9)
    assert look(values, hard).low == -math.inf
    assert look(values, hard).high == look(values, Rule(math.log(1.05), session_bias=0)).high


def simulate(rng, effect, sessions, drift=0.0, rho=0.0, noise=0.06, bias=0.01, pairs=16):
    """Differences of blocks: luck of each session, autocorrelated noise that ABBA order halves, and a drift."""
    out = []
    for s in range(sessions):
        e = rng.normal(size=2 * pairs) * noise
        if rho:
            for i in range(1, 2 * pairs):
                e[i] = rho * e[i - 1] + math.sqrt(1 - rho**2) * e[i]
        e += drift * (s * 2 * pairs + np.arange(2 * pairs))
        base, cand = e[0::4], e[1::4]
        d = np.concatenate([cand - base, e[2::4] - e[3::4]])  # ABBA
        out.append(list(effect + rng.normal() * bias + d))
    return out


def sequential(sessions, rule):
    for n in range(rule.sessions[0], len(sessions) + 1):
        found = look(sessions[:n], rule)
        if found.outcome != INCONCLUSIVE:
            return found.outcome
    return INCONCLUSIVE


@pytest.mark.parametrize(("rho", "drift"), [(0.0, 0.0), (0.5, 0.0), (0.0, 2e-4), (0.3, 1e-4)])
def test_false_alarms_stay_below_alpha(rho, drift):
    """3,000 null trials each, 12,000 in all: autocorrelated and drifting noise, sessions of different luck."""
    rng, rule, alarms = np.random.default_rng(1), Rule(math.log(1.05)), 0
    for _ in range(3000):
        alarms += sequential(simulate(rng, 0.0, 8, drift, rho), rule) == FAIL
    assert alarms <= 3  # nominal 0.5 % at the limit itself; the truth here is 5 % below it


def test_at_the_limit_itself_alpha_holds():
    rng, rule = np.random.default_rng(2), Rule(math.log(1.05))
    alarms = sum(sequential(simulate(rng, math.log(1.05), 8), rule) == FAIL for _ in range(4000))
    assert alarms <= 0.005 * 4000 + 3 * math.sqrt(0.005 * 4000)


def test_power_grows_with_the_effect_and_ten_percent_is_found():
    rng, rule, found = np.random.default_rng(3), Rule(math.log(1.05)), []
    for slower in (1.0, 1.05, 1.08, 1.10, 1.15):
        found.append(sum(sequential(simulate(rng, math.log(slower), 8, noise=0.03), rule) == FAIL for _ in range(300)) / 300)
    assert found == sorted(found)
    assert found[3] >= 0.99
    assert found[4] == 1


def test_interrupted_runs_are_dropped_with_one_thread_only():
    timings = [(1000, 1000), (1020, 1000), (9000, 1000)]
    assert block_time(timings, 1) == (1010 / 1e9, 1)
    assert block_time([(9000, 1000)], 1) == (None, 1)
    assert block_time(timings, 2) == (1000 / 1e9, 0)


class Simulated:
    """An arm of known speed on a simulated clock; ``busy`` is the share of runs that something interrupts."""

    def __init__(self, world, seconds, rng, busy=0.0):
        self.world, self.seconds, self.rng, self.busy, self.sessions = world, seconds, rng, busy, 0

    def open(self):
        self.sessions += 1
        self.luck = self.rng.gauss(1, 0.005)

    def close(self):
        self.luck = math.nan

    def block(self, discard, timed):
        out = []
        for i in range(discard + timed):
            cpu = int(self.seconds * self.luck * abs(self.rng.gauss(1, 0.03)) * 1e9)
            wall = cpu * 2 if self.rng.random() < self.busy else cpu
            self.world["now"] += wall / 1e9
            if i >= discard:
                out.append((wall, cpu))
        return out


def trial(ratio, seconds=0.004, busy=0.0, seed=0, limit=LIMIT, **options):
    world, rng = {"now": 0.0}, random.Random(seed)
    arms = Simulated(world, seconds, rng, busy), Simulated(world, seconds * ratio, rng, busy)
    return run_trial(*arms, Rule(limit), tokens=64, seed=seed, clock=lambda: world["now"], **options), arms


def test_a_clear_difference_stops_early():
    slower, arms = trial(1.3)
    assert (slower.look.outcome, slower.look.sessions, arms[0].sessions) == (FAIL, 1, 1)
    assert slower.seconds < 0.5
    faster = trial(0.5, limit=0.0)[0]
    assert (faster.look.outcome, faster.look.pairs) == (PASS, 4)
    near = trial(1.12)[0]
    assert (near.look.outcome, near.look.sessions) == (FAIL, 2)


def test_a_trial_whose_runs_are_too_long_says_so_at_once():
    """A verdict would have taken 20 minutes where the budget was 20 s."""
    found, _ = trial(0.5, seconds=60.0, budget=20.0)
    assert found.look.outcome == INCONCLUSIVE
    assert found.seconds < LONGEST * 20
    assert math.exp(found.look.estimate) == pytest.approx(0.5, rel=0.1)
    assert re.fullmatch(
        r"one run of each takes \d\d s, and a verdict 4 of them: set budget = \d\d in \[tool.qguard.latency\], or shorter tokens "
        r"and batches \(it is 20\)",
        found.note,
    )
    budget = float(re.search(r"budget = (\d+)", found.note)[1])
    assert trial(0.5, seconds=60.0, budget=budget * 1.1, limit=0.0)[0].look.outcome == PASS


def test_the_medians_and_the_ratio_are_what_was_put_in():
    found, _ = trial(1.3)
    assert found.medians == pytest.approx((0.004, 0.0052), rel=0.02)
    assert math.exp(found.look.estimate) == pytest.approx(1.3, rel=0.02)
    assert math.exp(found.look.low) < 1.3 < math.exp(found.look.high)


def test_a_difference_at_the_limit_ends_inconclusive_within_the_budget():
    found, _ = trial(1.05)
    assert found.look.outcome == INCONCLUSIVE
    assert found.seconds < 12
    assert "could not tell" in found.note


def test_a_busy_runner_is_inconclusive_and_says_why():
    found, _ = trial(1.3, busy=0.5)
    assert found.look.outcome == INCONCLUSIVE
    assert re.fullmatch(r"machine too busy: \d+% of the runs were interrupted by other work", found.note)


@pytest.mark.parametrize(("seconds", "busy"), [(0.004, 1.0), (0.004, 0.6), (0.2, 1.0), (0.6, 0.9), (1.6, 1.0)])
def test_a_busy_runner_does_not_take_more_than_the_budget(seconds, busy):
    """One trial of 10 s ran for 103 s and had no pair: eight sessions were opened whatever time had passed."""
    for seed in range(5):
        found, _ = trial(1.0, seconds=seconds, busy=busy, seed=seed)
        assert found.look.outcome == INCONCLUSIVE
        assert "machine too busy" in found.note
        assert found.seconds <= 10 + 4 * sum(plan(2 * seconds, 64)) * 2.2 * seconds  # a group


def test_a_trial_without_a_pair_says_that_speed_was_not_measured(monkeypatch):
    found = trial(1.0, busy=1.0)[0]
    monkeypatch.setattr("qguard.latency.check.run_trial", lambda *_, **__: found)
    spec = ArmSpec("onnx", "none.onnx", "int8")
    gate = Gate("latency.speedup", None, Bound(">=", 1))
    with pytest.raises(UntimedProblem, match=r"^speed: not measured, machine too busy\n    latency.speedup\[64x1\]: no pair in"):
        compare(PlannedTrial("latency.speedup", gate, spec, spec), Bucket(64, 1), None, "own", gates=1, threads=1, budget=10)


def test_a_little_interruption_changes_nothing():
    assert trial(1.3, busy=0.15)[0].look.outcome == FAIL
    assert trial(1.0, busy=0.15)[0].look.outcome == PASS


def test_long_runs_go_on_until_they_can_decide():
    """0.6 s a run: a budget of 10 s holds too few pairs for any verdict, so the trial takes the fewest that can decide."""
    found, _ = trial(0.5, seconds=0.6, limit=0.0)
    assert (found.look.outcome, found.look.pairs) == (PASS, 4)
    assert found.seconds < 6
    near, _ = trial(0.85, seconds=0.6, limit=0.0)
    assert near.look.outcome == PASS
    assert 12 <= near.look.pairs <= 24
    assert near.seconds < 40


def test_an_interrupted_pair_of_long_runs_is_made_up_for():
    """1.6 s a run, on a slow machine: nine pairs in 30 s decided nothing, and the gate of a sound model was not measured."""
    found = [trial(0.55, seconds=1.6, busy=0.05, seed=seed, limit=0.0)[0] for seed in range(20)]
    assert sum(f.dropped > 0 for f in found) > 5
    assert {f.look.outcome for f in found} == {PASS}
    assert max(f.seconds for f in found) < 60


@pytest.mark.parametrize(
    ("seconds", "tokens", "shape"), [(0.002, 16, (4, 3)), (0.01, 64, (2, 3)), (0.05, 64, (1, 2)), (0.5, 128, (0, 1))]
)
def test_short_runs_get_longer_blocks(seconds, tokens, shape):
    assert plan(seconds, tokens) == shape


@pytest.mark.parametrize(("name", "outcome"), [("equal", PASS), ("ten percent slower", FAIL)])
def test_recorded_timings_of_a_real_model_are_told_apart(name, outcome):
    """Log ratios of blocks of int8 MiniLM at 64 tokens on two shared cores, recorded session by session."""
    sessions = json.loads(Path(__file__).with_name("data").joinpath("latency_sessions.json").read_text())[name]
    assert sequential(sessions, Rule(LIMIT)) == outcome
    assert sequential(sessions[::-1], Rule(LIMIT)) == outcome  # whatever session comes first
    assert sequential([[-d for d in s] for s in sessions], Rule(LIMIT)) == PASS  # the arms changed places


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"again": FAIL, "null": PASS}, FAIL),
        ({"again": FAIL, "null": INCONCLUSIVE}, FAIL),
        ({"again": FAIL, "null": FAIL}, UNFIT),
        ({"again": PASS, "null": PASS}, INCONCLUSIVE),
        ({"again": INCONCLUSIVE, "null": PASS}, INCONCLUSIVE),
    ],
)
def test_a_failure_stands_only_when_a_fresh_process_confirms_it(monkeypatch, answer, outcome):
    """A runner that is unfit cannot be had on demand, so the fresh process's answer is given; the gate's tests run a real one."""
    done = subprocess.CompletedProcess([], 0, stdout=json.dumps(answer), stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    spec = ArmSpec("onnx", "m.onnx", "int8")
    batch = np.ones((1, 16), np.int64), np.ones((1, 16), np.int64)
    assert confirm(trial(1.3)[0], (spec, spec), batch, Rule(LIMIT), {"tokens": 16, "threads": 1, "budget": 1.0})[0] == outcome


def test_a_fresh_process_that_dies_is_an_error_with_its_last_words():
    spec = ArmSpec("onnx", "nowhere.onnx", "int8")
    batch = np.ones((1, 16), np.int64), np.ones((1, 16), np.int64)
    with pytest.raises(MeasurementProblem, match=r"fresh process: .*nowhere\.onnx"):
        confirm(trial(1.3)[0], (spec, spec), batch, Rule(LIMIT), {"tokens": 16, "threads": 1, "budget": 1.0})


def test_the_peak_of_fp32_is_measured_once_on_a_machine(monkeypatch, tmp_path):
    """It is the same in every run, unlike a time; of another artifact, shape or machine nothing is known."""
    measured = []
    monkeypatch.setattr(memory, "peak_bytes", lambda spec, batch: measured.append(spec) or 1000 + len(measured))
    monkeypatch.setattr(memory, "cache_folder", lambda: tmp_path)
    spec, batch = ArmSpec("onnx", "a.onnx", "fp32"), (np.ones((2, 16), np.int64),) * 2
    assert memory.kept_peak(spec, batch, {"a": "1"}) == 1001
    assert memory.kept_peak(replace(spec, path="elsewhere.onnx"), batch, {"a": "1"}) == 1001
    assert memory.kept_peak(spec, batch, {"a": "2"}) == 1002
    assert memory.kept_peak(spec, tuple(b[:1] for b in batch), {"a": "1"}) == 1003
    assert memory.kept_peak(replace(spec, threads=2), batch, {"a": "1"}) == 1004
    for file in (tmp_path / "memory").iterdir():
        file.write_text('{"bytes": "many"}')
    assert memory.kept_peak(spec, batch, {"a": "1"}) == 1005
    assert memory.kept_peak(spec, batch, {"a": "1"}) == 1005
