"""Where a suite's data is, and what the project says about how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HUB = "hf:"


@dataclass(frozen=True, order=True)
class Source:
    """A file, a folder or a data set of the hub.

    Attributes:
        path: A local path, or ``hf:ORG/NAME[/CONFIG][@REVISION]``.
        format: A name in :data:`qguard.suites.formats.FORMATS`; ``""``: told by suffix or by what a folder holds.
        columns: (role, column) of columns that are not told by their names; see :data:`qguard.suites.columns.NAMES`. A column
            ``""`` says that there is none.
        scores: Lowest and highest score that a pair may have; empty for any finite number.
        split: The only part to read, told by names of files or by a column; ``""``: ``test`` where files are split, else all.
        duplicates: ``"keep"`` counts every row, as published benchmarks do.
    """

    path: str
    format: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    scores: tuple[float, ...] = ()
    split: str = ""
    duplicates: Literal["error", "keep"] = "error"

    @property
    def hub(self) -> bool:
        """Whether it has to be fetched."""
        return self.path.startswith(HUB)

    @property
    def name(self) -> str:
        """Short, for messages."""
        return self.path if self.hub else Path(self.path).name

    def exists(self) -> bool:
        """Whether it can be read without asking anybody; a hub's data set is taken to exist."""
        return self.hub or Path(self.path).exists()
