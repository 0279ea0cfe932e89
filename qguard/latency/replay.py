"""Hands recorded timings to pytest-benchmark through its public interface: a timer that the replayed runs move on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ReplayTimer:
    """A timer for ``@pytest.mark.benchmark(timer=…)``; it stands still but for :meth:`advance`."""

    __name__ = "qguard"

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let recorded time pass."""
        self._now += seconds


TIMER = ReplayTimer()


def hand_over(benchmark: Any, runs: Sequence[float], group: str, extra: dict[str, Any]) -> None:
    """Fill a ``benchmark`` fixture whose test is marked with :data:`TIMER`.

    Args:
        benchmark: The fixture, enabled.
        runs: Seconds of each recorded run, at least one.
        group: Rows of one group are compared in the table.
        extra: JSON values for ``extra_info``.
    """
    benchmark.group = group
    benchmark.extra_info.update(extra)
    left = iter(runs)
    benchmark.pedantic(lambda: TIMER.advance(next(left, 0.0)), rounds=len(runs), iterations=1)
