"""Simulated time for tests of the load engine: threads take turns, and time moves on when all of them sleep."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from typing import Any

from qguard.errors import EndpointProblem
from qguard.latency.load import Clock


class SimulatedClock(Clock):
    """A clock on which only sleeping takes time. One thread runs at a time, so that every run is the same.

    Args:
        late: Seconds that each sleep of :meth:`sleep` takes longer.
        work: CPU seconds that a thread says it spent, as a share of the time that passed.
    """

    def __init__(self, late: float = 0.0, work: float = 0.0) -> None:
        self._now, self._late, self._work = 0.0, late, work
        self._sleepers: list[tuple[float, int, threading.Event]] = []
        self._order = 0

    def now(self) -> float:
        return self._now

    def spent(self) -> float:
        return self._now * self._work

    def sleep(self, seconds: float) -> None:
        self.take(seconds + self._late)

    def take(self, seconds: float) -> None:
        """Let exactly this time pass for the calling thread."""
        mine = self._waiting(seconds)
        self._next()
        mine.wait()

    def together(self, work: Sequence[Callable[[], None]], stop: Callable[[], None]) -> None:
        failures: list[BaseException] = []

        def one(task: Callable[[], None], turn: threading.Event) -> None:
            turn.wait()
            try:
                task()
            except BaseException as e:
                failures.append(e)
                stop()
            finally:
                self._next()

        threads = [threading.Thread(target=one, args=(task, self._waiting(0)), daemon=True) for task in work]
        for thread in threads:
            thread.start()
        self._next()
        for thread in threads:
            thread.join(60)
        if failures:
            raise failures[0]

    def _waiting(self, seconds: float) -> threading.Event:
        turn = threading.Event()
        self._order += 1
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), self._order, turn))
        return turn

    def _next(self) -> None:
        if self._sleepers:
            at, _, turn = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            turn.set()


class SimulatedServer:
    """Answers in the order of arrival, each request after its service.

    Args:
        clock: Its time.
        service: Number of a request → seconds that it takes.
        workers: Requests that it computes at a time.
        stalls: Pairs of begin and end, between which it does nothing.
        fails: Number of a request → the failure that answers it, or ``None``.
        checking: Seconds that the client needs to look at an answer.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        service: Callable[[int], float],
        workers: int = 1,
        stalls: Sequence[tuple[float, float]] = (),
        fails: Callable[[int], EndpointProblem | None] = lambda _: None,
        checking: float = 0.0,
    ) -> None:
        self._clock, self._service, self._stalls, self._fails, self._checking = clock, service, stalls, fails, checking
        self._free = [0.0] * workers
        self.asked = self.now = self.most = 0

    def send(self, number: int) -> Any:
        clock, first = self._clock, self.asked == 0
        self.asked, self.now = self.asked + 1, self.now + 1
        self.most = max(self.most, self.now)
        start = max(clock.now(), heapq.heappop(self._free))
        for begin, end in self._stalls:
            start = end if begin <= start < end else start
        done = start + self._service(-1 if first else number)
        heapq.heappush(self._free, done)
        clock.take(done - clock.now())
        self.now -= 1
        if (problem := self._fails(number)) is not None:
            raise problem
        return number

    def check(self, answer: Any) -> None:
        self._clock.take(self._checking)
