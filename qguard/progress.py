"""A progress bar on stderr where a person watches; nothing in pipes and logs, and in tests only where asked for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def progress(text: str, total: int, after: float = 0.0, in_tests: bool = False) -> Iterator[Callable[..., None]]:
    """A bar; the function that it gives advances it by one of ``total`` steps, or by as many as it is told.

    Args:
        text: What is being done.
        total: Steps.
        after: Seconds before the bar appears: what ends sooner needs none.
        in_tests: Also within a test, for what may take hours; pytest must not capture meanwhile.
    """
    within = "PYTEST_CURRENT_TEST" in os.environ
    if not sys.stderr.isatty() or (within and not in_tests):
        yield lambda steps=1: None
        return
    with ExitStack() as stack:
        if within:
            sys.stderr.write("\n")  # pytest's own line is not overwritten
        start, done = time.monotonic(), 0
        show: Callable[[int], None] | None = None

        def advance(steps: int = 1) -> None:
            nonlocal done, show
            done += steps
            if show is not None:
                show(done)
            elif time.monotonic() - start >= after:
                show = _bar(stack, text, total)
                show(done)

        if not after:
            advance(0)
        yield advance


def _bar(stack: ExitStack, text: str, total: int) -> Callable[[int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # steps may take minutes: what is left is estimated from those of the last hour, not of rich's 30 seconds
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600))
    task = bar.add_task(text, total=total)
    return lambda done: bar.update(task, completed=done)
