"""JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from qguard.errors import DataProblem
from qguard.suites.formats import Row
from qguard.suites.formats.files import text_lines


def rows(path: Path) -> Iterator[Row]:
    """The objects; blank lines are passed over."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:  # ValueError also for a number of more digits than Python reads
            raise DataProblem(f"{path.name}:{number}: not JSON ({e})") from e
        if not isinstance(value, dict):
            raise DataProblem(f"{path.name}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, value
