"""Plain text: one text a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qguard.suites.formats import Row
from qguard.suites.formats.files import text_lines


def rows(path: Path) -> Iterator[Row]:
    """Each line as a text, without its end; blank lines are passed over."""
    for number, line in text_lines(path):
        if text := line.rstrip("\r\n"):
            yield number, {"text": text}
