"""A progress bar on stderr where a person watches; nothing in pipes and logs, and in tests only where asked for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import parent_process
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_off: list[bool] = []  # one entry for each no_progress() around
_live: list[Progress] = []  # the display of this process, while there is one: bars within bars are lines of it


@contextmanager
def progress(text: str, total: float | None, after: float = 0.0, in_tests: bool = False) -> Iterator[Callable[..., None]]:
    """A bar; the function that it gives advances it by one of ``total`` steps, or by as many as it is told.

    That function also takes another ``text``, and instead of steps the sum of them, ``to``.

    Args:
        text: What is being done.
        total: Steps; ``None`` where nobody knows, and the bar only shows that something is done.
        after: Seconds before the bar appears: what ends sooner needs none.
        in_tests: Also within a test, for what may take hours; pytest must not capture meanwhile.
    """
    within = "PYTEST_CURRENT_TEST" in os.environ
    # what works for another process writes where that one draws
    if _off or not sys.stderr.isatty() or parent_process() is not None or (within and not in_tests):
        yield lambda steps=1, text="", to=0: None
        return
    with ExitStack() as stack:
        if within:
            sys.stderr.write("\n")  # pytest's own line is not overwritten
        start, done = time.monotonic(), 0.0
        show: Callable[[float, str], None] | None = None

        def advance(steps: float = 1, text: str = text, to: float | None = None) -> None:
            nonlocal done, show
            done = done + steps if to is None else to
            if show is not None:
                show(done, text)
            elif time.monotonic() - start >= after:
                show = _bar(stack, text, total)
                show(done, text)

        if not after:
            advance(0)
        yield advance


@contextmanager
def no_progress() -> Iterator[None]:
    """No bars meanwhile: a server answers several requests side by side, and nobody waits before its terminal."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


def _bar(stack: ExitStack, text: str, total: float | None) -> Callable[[float, str], None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not _live:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        # steps may take minutes: what is left is estimated from those of the last hour, not of rich's 30 seconds
        made = Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=3600)
        stack.callback(_live.clear)
        _live.append(stack.enter_context(made))
    bar = _live[0]
    task = bar.add_task(text, total=total)
    stack.callback(bar.remove_task, task)
    return lambda done, text: bar.update(task, completed=done, description=text)
