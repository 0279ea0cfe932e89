"""A progress bar on stderr where a person watches; nothing in pipes, logs and under pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar; the function that it gives advances it by one of ``total`` steps."""
    if not sys.stderr.isatty() or "PYTEST_CURRENT_TEST" in os.environ:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
