"""The load engine on simulated time, and the statistics of absolute bounds: no server, no clock."""

from __future__ import annotations

import math
from statistics import mean

import numpy as np
import pytest
from scipy.stats import binom

from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.latency.decision import FAIL, INCONCLUSIVE, PASS, Rule, fewest_for, look_at_quantile, order_bound, quantile
from qguard.latency.load import CLOSED, CONNECTIONS, CONSTANT, OPEN, Load, Plan, run_load
from tests.simulated_time import SimulatedClock, SimulatedServer

REFUSED, SLOW = EndpointProblem("status 503", 503), EndpointProblem("no whole answer within 2 seconds", timed_out=True)


def sent(plan: Plan, service=0.005, clock=None, **server) -> tuple[Load, SimulatedServer]:
    clock = clock or SimulatedClock()
    made = SimulatedServer(clock, service if callable(service) else lambda _: service, **server)
    return run_load(made, plan, clock), made


def ms(load: Load) -> list[float]:
    """p50, p95, p99 and the longest latency."""
    return [round(quantile(load.latencies, q) * 1000, 3) for q in (0.5, 0.95, 0.99, 1)]


def test_a_closed_loop_keeps_its_clients_busy():
    load, server = sent(Plan(CLOSED, 2, clients=4), service=0.01)
    assert ms(load) == [40, 40, 40, 40]  # one worker: each request waits for three others
    assert load.throughput == pytest.approx(100, rel=0.01)
    assert (load.failed, server.most) == (0, 4)


def test_an_open_loop_sends_at_its_rate_whatever_the_server_does():
    load, _ = sent(Plan(OPEN, 4, rate=50, arrivals=CONSTANT), service=0.01)
    assert ms(load) == [10, 10, 10, 10]
    assert len(load.latencies) == 200
    assert load.throughput == pytest.approx(50, rel=0.01)


def test_an_open_loop_shows_a_stall_that_a_closed_loop_hides():
    """Coordinated omission: a server stalls once for 300 ms. A client that waits with it sees one slow request."""
    stall = {"service": 0.005, "stalls": [(2.0, 2.3)]}
    closed, _ = sent(Plan(CLOSED, 5, clients=1), **stall)
    opened, _ = sent(Plan(OPEN, 5, rate=100, arrivals=CONSTANT), **stall)
    assert ms(closed)[:3] == [5, 5, 5]
    assert sum(v > 0.006 for v in closed.latencies) == 1
    assert ms(opened)[0] == 5
    assert ms(opened)[1] > 150  # 30 requests arrive in the stall, and 30 more while the server makes up for it
    assert ms(opened)[2] > 250
    assert sum(v > 0.006 for v in opened.latencies) == pytest.approx(60, abs=2)
    assert ms(opened)[3] == pytest.approx(305, abs=6)


def test_a_request_that_could_not_leave_counts_its_wait():
    """A server with half of the capacity: latencies grow for as long as requests come, as they do for users."""
    load, server = sent(Plan(OPEN, 20, rate=10, arrivals=CONSTANT), service=0.2)
    assert server.most == CONNECTIONS
    assert load.waited > 50
    assert load.latencies[-1] == pytest.approx(20, rel=0.05)  # 200 requests at 5/s end 20 s after the last one was meant
    assert load.throughput == pytest.approx(5, rel=0.01)
    assert load.unmeasured == ""  # it was the server that was late


def test_a_request_that_could_not_leave_in_time_is_a_timeout():
    load, _ = sent(Plan(OPEN, 40, rate=10, arrivals=CONSTANT, timeout=5), service=0.2)
    assert load.timeouts == load.failed == load.failures["could not leave within 5 seconds"] > 40
    assert load.failed + len(load.latencies) == 400


@pytest.mark.parametrize("plan", [Plan(CLOSED, 2), Plan(OPEN, 2, rate=50, arrivals=CONSTANT)])
def test_the_first_request_stands_apart(plan):
    load, _ = sent(plan, service=lambda number: 0.5 if number < 0 else 0.01)
    assert load.cold == 0.5
    assert ms(load)[3] == 10


def test_failures_stand_apart_from_latencies():
    def fails(number):
        return {0: REFUSED, 5: SLOW}.get(number % 10)

    load, _ = sent(Plan(OPEN, 10, rate=20, arrivals=CONSTANT), fails=lambda n: fails(n) if n else None)
    assert load.failures == {"no whole answer in time": 20, "status 503": 19}
    assert (load.timeouts, load.failed, load.failed_share) == (20, 39, 39 / 200)
    assert len(load.latencies) == 161
    assert load.to_json()["failures"] == load.failures


@pytest.mark.parametrize("plan", [Plan(CLOSED, 60, clients=8), Plan(OPEN, 60, rate=100)])
def test_a_server_that_answers_nothing_is_soon_left_alone(plan):
    with pytest.raises(EndpointProblem, match="503"):
        sent(plan, fails=lambda _: REFUSED)
    clock = SimulatedClock()
    server = SimulatedServer(clock, lambda _: 0.001, fails=lambda _: REFUSED if server.asked > 1 else None)
    with pytest.raises(MeasurementProblem, match=r"none of \d+ requests was answered: status 503"):
        run_load(server, plan, clock)
    assert server.asked < 120
    assert clock.now() < 2


def test_an_error_of_ones_own_ends_the_load():
    def breaks(number):
        if number == 30:
            raise ZeroDivisionError
        return 0.01

    clock = SimulatedClock()
    with pytest.raises(ZeroDivisionError):
        sent(Plan(CLOSED, 600, clients=3), breaks, clock)
    assert clock.now() < 1


def test_an_engine_that_is_late_by_itself_gives_no_result():
    plan = Plan(OPEN, 3, rate=20, arrivals=CONSTANT)
    assert sent(plan, clock=SimulatedClock(late=0.001))[0].unmeasured == ""
    late = sent(plan, clock=SimulatedClock(late=0.004))[0]
    assert late.unmeasured.startswith("the load generator itself was late: 95% of its requests left within 4.0 ms of their time")
    assert "give a lower rate" in late.unmeasured
    assert sent(plan, 0.045, clock=SimulatedClock(late=0.004))[0].unmeasured == ""  # a tenth of what is measured
    slow_to_read = sent(Plan(CLOSED, 1, clients=2), checking=0.006)[0]
    assert "expected 2.0 ms; give fewer clients" in slow_to_read.unmeasured


def test_an_engine_that_is_busy_by_itself_gives_no_result():
    assert sent(Plan(CLOSED, 1, clients=2), clock=SimulatedClock(work=0.3))[0].unmeasured == ""
    busy = sent(Plan(CLOSED, 1, clients=2), clock=SimulatedClock(work=0.45))[0]
    assert busy.unmeasured.startswith("the load generator itself was busy for 90% of the time, expected at most 80%")


def test_random_arrivals_are_a_poisson_process_and_the_same_for_the_same_seed():
    plan = Plan(OPEN, 2000, rate=20, seed=3)
    starts = plan.starts()
    assert starts == plan.starts()
    assert starts != Plan(OPEN, 2000, rate=20, seed=4).starts()
    gaps = np.diff(starts)
    assert len(starts) == pytest.approx(40_000, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)  # as of an exponential distribution
    per_second = np.bincount(np.asarray(starts, int))
    assert per_second.var() == pytest.approx(per_second.mean(), rel=0.1)  # as of a Poisson distribution
    assert Plan(OPEN, 0.01, rate=1).starts().tolist() == [0]
    assert Plan(OPEN, 1, rate=4, arrivals=CONSTANT).starts().tolist() == [0, 0.25, 0.5, 0.75]


def test_random_arrivals_wait_as_theory_says():
    """M/D/1 at half of the capacity: the mean wait in the queue is a half of the service (Pollaczek and Khinchine)."""
    load, _ = sent(Plan(OPEN, 40, rate=50, seed=1), service=0.01)
    assert mean(load.latencies) == pytest.approx(0.015, rel=0.1)


@pytest.mark.parametrize("n", [20, 90, 459, 3000])
@pytest.mark.parametrize("q", [0.01, 0.05, 0.5, 0.95, 0.99])
def test_the_order_bound_of_a_quantile_is_the_binomial_tests(n, q):
    values = list(np.random.default_rng(n).normal(size=n))
    for alpha in (0.01, 0.0007):
        k = next(k for k in range(n + 1) if binom.cdf(k, n, q) > alpha)
        assert order_bound(values, alpha, q) == (sorted(values)[k - 1] if k else -math.inf)


def test_few_requests_pass_no_bound_on_a_tail():
    rule = Rule(0)
    for q, fewest in ((0.5, 7), (0.95, 90), (0.99, 459)):
        assert fewest_for(q, rule) == fewest
        assert look_at_quantile([0.001] * (fewest - 1), q, 0.05, rule).outcome == INCONCLUSIVE
        assert look_at_quantile([0.001] * fewest, q, 0.05, rule).outcome == PASS


def queued(rng, n: int, load: float) -> list[float]:
    """Latencies of n requests of an open loop in front of one worker (M/M/1): slow ones come in rows."""
    gaps, service = rng.exponential(1 / load, n + 500), rng.exponential(1, n + 500)
    walk = np.concatenate([[0], np.cumsum(service[:-1] - gaps[1:])])
    return list((walk - np.minimum.accumulate(walk) + service)[500:])


@pytest.mark.parametrize(("load", "q"), [(0.3, 0.5), (0.3, 0.95), (0.7, 0.5), (0.7, 0.95)])
def test_slow_requests_in_rows_are_no_false_alarm(load, q):
    """1,000 loads of 600 requests each, of which the quantile is known. As if requests were independent, every tenth fails."""
    rng, rule = np.random.default_rng(5), Rule(0)
    true = -math.log(1 - q) / (1 - load)  # of M/M/1 the time in the system is exponential with rate 1 - load
    loads = [queued(rng, 600, load) for _ in range(1000)]
    fails = [look_at_quantile(v, q, 1.05 * true, rule).outcome == FAIL for v in loads]
    assert sum(fails) <= 25
    assert not any(map(all, zip(fails[::2], fails[1::2], strict=True)))  # a failure is repeated
    assert [look_at_quantile(v, q, true / 1.5, rule).outcome for v in loads].count(PASS) <= 10


def test_a_clear_tail_is_told():
    rng, rule = np.random.default_rng(6), Rule(0)
    values = queued(rng, 2000, 0.3)
    p95 = quantile(values, 0.95)
    assert look_at_quantile(values, 0.95, 1.5 * p95, rule).outcome == PASS
    assert look_at_quantile(values, 0.95, p95 / 1.5, rule).outcome == FAIL
    assert look_at_quantile(values, 0.95, p95, rule).outcome == INCONCLUSIVE
