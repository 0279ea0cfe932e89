"""The load engine: requests to a server as users send them, timed from the moment at which they were to leave.

In a closed loop each client sends its next request when its last one is answered. Such clients wait together with the server:
while it stalls they send nothing, so that a stall of a second is one slow request. In an open loop requests leave at a stated
rate, whatever the server does. A latency begins at the intended start: a request that had to wait counts its wait.

The engine measures itself. If it was late by itself, its latencies are not the server's, and there is no result.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.latency.decision import quantile

CLOSED, OPEN = MODES = ("closed", "open")
POISSON, CONSTANT = ARRIVALS = ("poisson", "constant")
CONNECTIONS = 64  # an open loop has no more at a time; a request that finds none free waits, and its wait counts
MOST = 1_000_000  # requests of one load, whose times take 24 bytes each
LATE = 0.002  # seconds by which the engine may be late, or
LATE_SHARE = 0.1  # so much of the median latency, whichever is longer,
LATE_AT = 0.95  # for this share of the requests
SATURATED = 0.8  # share of one core above which Python's own lock, and no server, sets the pace
_FIRST = 20  # requests that tell a server which answers nothing from one that fails now and then
_REST = 0.1  # seconds that a client waits after a failure, so that a refused connection is not asked in a circle
_TOLD = 3  # kinds of failures that are told
_KINDS = 100  # of failures that are told apart


class Sender(Protocol):
    """Sends requests; called from several threads."""

    def send(self, number: int) -> Any:
        """Send one request and return its answer when the last byte is there.

        Args:
            number: Of the request, from 0.

        Raises:
            EndpointProblem: where there is no answer.
        """

    def check(self, answer: Any) -> None:
        """Make sure that the answer is one. Nobody waits for this: it is not timed.

        Raises:
            EndpointProblem: where it is not.
        """


class Clock:
    """Time, and threads that spend it. A test has a clock of its own."""

    def now(self) -> float:
        """Monotonic seconds."""
        return time.perf_counter()

    def spent(self) -> float:
        """CPU seconds of the calling thread."""
        return time.thread_time()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def together(self, work: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
        """Do all of it at the same time; raises what one of them raised.

        Args:
            work: What to do, each in a thread of its own.
            stop: Makes the others end early where one raises, or somebody interrupts this.
        """
        with ThreadPoolExecutor(len(work), "load") as pool:
            try:
                for done in [pool.submit(one) for one in work]:
                    done.result()
            except BaseException:
                stop()
                raise


@dataclass(frozen=True)
class Plan:
    """What load a server gets.

    Attributes:
        mode: :data:`CLOSED` or :data:`OPEN`.
        seconds: How long requests are sent.
        clients: Of a closed loop.
        rate: Of an open loop, requests per second.
        arrivals: Of an open loop: at random and independent (:data:`POISSON`), or at equal distances (:data:`CONSTANT`).
        seed: Of random arrivals.
        timeout: Seconds after its intended start at which a request that could not leave has failed.
    """

    mode: str
    seconds: float
    clients: int = 1
    rate: float = 0.0
    arrivals: str = POISSON
    seed: int = 0
    timeout: float = 60.0

    def __str__(self) -> str:
        if self.mode == CLOSED:
            return f"{self.clients} client{'s' if self.clients > 1 else ''}"
        return f"{self.rate:g}/s, {self.arrivals}"

    def starts(self) -> array[float]:
        """Seconds at which the requests of an open loop are to leave, at least one."""
        if self.arrivals == CONSTANT:
            return array("d", (i / self.rate for i in range(max(1, ceil(self.rate * self.seconds)))))
        pick, at, found = random.Random(self.seed), 0.0, array("d", [0.0])
        while (at := at + pick.expovariate(self.rate)) < self.seconds:
            found.append(at)
        return found


@dataclass(frozen=True)
class Load:
    """What a load found.

    Attributes:
        plan: What was sent.
        latencies: Of the answered requests, seconds, in the order in which they were to leave.
        failures: Words → number of the requests that failed so.
        timeouts: Those among them that were not answered in time, or could not even leave.
        lags: By how much the engine itself was late, seconds, one for each request that left.
        waited: Requests that found no connection free.
        seconds: From the first request to the last answer.
        busy: CPU seconds of the engine's threads per second.
        cold: Seconds of the first request, on a new connection; it is not among the latencies.
    """

    plan: Plan
    latencies: Sequence[float]
    failures: dict[str, int] = field(default_factory=dict)
    timeouts: int = 0
    lags: Sequence[float] = ()
    waited: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    cold: float = 0.0

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(self.failures.values())

    @property
    def failed_share(self) -> float:
        """Their share of all requests."""
        return self.failed / max(1, self.failed + len(self.latencies))

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds if self.seconds > 0 else 0.0

    @property
    def lag(self) -> float:
        """By how much the engine was late for :data:`LATE_AT` of the requests, at most; seconds."""
        return quantile(self.lags, LATE_AT) if self.lags else 0.0

    @property
    def unmeasured(self) -> str:
        """Why these latencies are not the server's; empty where they are."""
        mend = "give a lower rate" if self.plan.mode == OPEN else "give fewer clients"
        allowed = max(LATE, LATE_SHARE * quantile(self.latencies, 0.5))
        if self.lag > allowed:
            return (
                f"the load generator itself was late: {LATE_AT:.0%} of its requests left within {self.lag * 1000:.1f} ms of "
                f"their time, expected {allowed * 1000:.1f} ms; {mend}, or a machine with less other work"
            )
        if self.busy > SATURATED:
            return (
                f"the load generator itself was busy for {self.busy:.0%} of the time, expected at most {SATURATED:.0%}, so "
                f"that it set the pace; {mend}, or fewer texts in a request"
            )
        return ""

    def to_json(self) -> dict[str, Any]:
        """The figures as a report has them."""
        p50, p95, p99 = (quantile(self.latencies, q) * 1000 for q in (0.5, 0.95, 0.99))
        plan, closed = self.plan, self.plan.mode == CLOSED
        return {
            "mode": plan.mode, "clients": plan.clients if closed else None, "rate": None if closed else plan.rate,
            "arrivals": None if closed else plan.arrivals, "seed": None if closed else plan.seed,
            "seconds": round(self.seconds, 3), "requests": len(self.latencies), "failed": self.failed,
            "timeouts": self.timeouts, "failures": dict(list(self.failures.items())[:_TOLD]), "p50_ms": p50, "p95_ms": p95,
            "p99_ms": p99, "throughput": self.throughput, "cold_ms": self.cold * 1000, "lag_ms": self.lag * 1000,
            "waited": self.waited,
        }  # fmt: skip


def run_load(sender: Sender, plan: Plan, clock: Clock | None = None) -> Load:
    """Send a load.

    The first request is timed apart, and every connection is opened by a request that is not counted.

    Args:
        sender: Sends the requests.
        plan: Which ones.
        clock: Of a test.

    Raises:
        MeasurementProblem: where the server answers nothing.
    """
    clock = clock or Clock()
    cold = _timed(sender, 0, clock)
    engine = _Engine(sender, plan, clock)
    engine.warm(plan.clients if plan.mode == CLOSED else min(CONNECTIONS, max(2, ceil(2 * plan.rate * cold))))
    engine.run()
    return engine.found(cold)


def _timed(sender: Sender, number: int, clock: Clock) -> float:
    start = clock.now()
    answer = sender.send(number)
    seconds = clock.now() - start
    sender.check(answer)
    return seconds


class _Engine:
    """One load while it is sent."""

    def __init__(self, sender: Sender, plan: Plan, clock: Clock) -> None:
        self._sender, self._plan, self._clock = sender, plan, clock
        self._lock = threading.Lock()
        self._starts = plan.starts() if plan.mode == OPEN else array("d")
        self._since, self._latencies, self._lags = array("d"), array("d"), array("d")
        self._failures: Counter[str] = Counter()
        self._timeouts = self._waited = self._next = 0
        self._begin = self._last = self._spent = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True

    def warm(self, connections: int) -> None:
        """Open connections, each by a request at the same time as the others'."""

        def one() -> None:
            with suppress(EndpointProblem):  # one too many for the server, which the load itself will show
                _timed(self._sender, 0, self._clock)

        self._clock.together([one] * connections, self.stop)

    def run(self) -> None:
        """Send all requests."""
        closed = self._plan.mode == CLOSED
        workers, loop = (self._plan.clients, self._closed) if closed else (min(CONNECTIONS, len(self._starts)), self._open)
        self._begin = self._last = self._clock.now()

        def work() -> None:
            before = self._clock.spent()
            loop()
            with self._lock:
                self._spent += self._clock.spent() - before

        self._clock.together([work] * workers, self.stop)

    def _closed(self) -> None:
        clock, end = self._clock, self._begin + self._plan.seconds
        start = free = clock.now()
        while start < end and (number := self._taken(MOST)) is not None:
            free = self._one(number, start, start - free)
            start = clock.now()

    def _open(self) -> None:
        clock, free = self._clock, self._begin
        while (number := self._taken(len(self._starts))) is not None:
            meant = self._begin + self._starts[number]
            if (early := meant - clock.now()) > 0:
                clock.sleep(early)
            start = clock.now()
            if start - meant > self._plan.timeout:
                self._fail(f"could not leave within {self._plan.timeout:g} seconds", timed_out=True)
                continue
            if free > meant:
                with self._lock:
                    self._waited += 1
            free = self._one(number, meant, start - max(meant, free))

    def _taken(self, most: int) -> int | None:
        """The number of the next request; ``None`` if there is none, or the server answers nothing."""
        with self._lock:
            silent = not self._latencies and self._failures.total() >= _FIRST
            if self._next >= most or silent or self._stopped:
                return None
            self._next += 1
            return self._next - 1

    def _one(self, number: int, since: float, lag: float) -> float:
        """Send a request whose latency began at ``since``.

        Returns:
            When its client was free again.
        """
        clock = self._clock
        try:
            answer = self._sender.send(number)
            end = clock.now()
            self._sender.check(answer)
        except EndpointProblem as e:
            self._fail(_kind(e), e.timed_out)
            clock.sleep(_REST)
            return clock.now()
        with self._lock:
            self._since.append(since)
            self._latencies.append(end - since)
            self._lags.append(lag)
            self._last = max(self._last, end)
        return end

    def _fail(self, words: str, timed_out: bool) -> None:
        with self._lock:
            known = words in self._failures or len(self._failures) < _KINDS
            self._failures[words if known else "other failures"] += 1
            self._timeouts += timed_out
            self._last = max(self._last, self._clock.now())

    def found(self, cold: float) -> Load:
        """What was found.

        Raises:
            MeasurementProblem: if nothing was answered.
        """
        failures = dict(self._failures.most_common())
        if not self._latencies:
            raise MeasurementProblem(f"none of {self._failures.total()} requests was answered: {next(iter(failures), '')}")
        order = sorted(range(len(self._since)), key=self._since.__getitem__)
        seconds = self._last - self._begin
        return Load(
            self._plan, array("d", (self._latencies[i] for i in order)), failures, self._timeouts, self._lags, self._waited,
            seconds, self._spent / seconds, cold,
        )  # fmt: skip


def _kind(problem: EndpointProblem) -> str:
    """What a failure has in common with others of its kind: not the text that was sent."""
    if problem.status not in (None, 200):
        return f"status {problem.status}"
    return "no whole answer in time" if problem.timed_out else str(problem)[:200]
