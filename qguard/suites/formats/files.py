"""Lines of a file as bytes, with progress where reading takes long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qguard.console.progress import progress
from qguard.errors import DataProblem

PATIENCE = 2.0  # seconds before a bar appears


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number from 1 and bytes of each line, split at newlines alone: texts may hold U+2028 and other characters that
    ``str.splitlines`` breaks at.

    Raises:
        DataProblem: when the file cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, progress(f"reading {path.name}", size, PATIENCE) as advance:
            for number, line in enumerate(file, 1):
                advance(len(line))
                yield number, line
    except OSError as e:
        raise DataProblem(f"cannot read {path}: {e.strerror or e}") from e


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The same as text.

    Raises:
        DataProblem: also for bytes that are not UTF-8.
    """
    for number, raw in numbered(path):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise DataProblem(f"{path.name}:{number}: not UTF-8 (byte {raw[e.start]:#04x} at column {e.start + 1})") from e
