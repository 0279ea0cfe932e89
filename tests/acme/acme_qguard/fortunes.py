"""A suite format: texts of one or more lines, parted by lines of one percent sign, as in fortune's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qguard import SuiteFormat


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text: list[str] = []
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), "%"], 1):
        if line != "%":
            text.append(line)
        elif text:
            yield number - len(text), {"text": " ".join(text)}
            text = []


FORMAT = SuiteFormat("fortunes", __name__, suffixes=(".fortunes",))
