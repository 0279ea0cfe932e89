"""Formats of suites: how files become tables of rows. A new format is one file here and one line in ``FORMATS``.

A format's function maps a file to its rows; that of a folder maps it to tables, each of one kind of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from qguard.errors import DataProblem, unknown
from qguard.suites.source import Source

# Number of the line or row, from 1, and its values by column
Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Rows of one kind, read as they are asked for.

    Attributes:
        name: Of the file, for messages.
        rows: Each once.
        kind: ``texts pairs corpus queries qrels``; ``""`` where the columns tell.
        chosen: The file itself is the wanted split: its rows need not say so.
    """

    name: str
    rows: Iterator[Row]
    kind: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Format:
    """How one kind of file, or folder, is read.

    Attributes:
        module: In this package; has ``rows(path)`` for a file, ``holds(path)`` and ``tables(path, split)`` for a folder.
        suffixes: Of the files that are in this format; none for a folder.
        settings: What ``rows`` gets beside the path.
    """

    module: str
    suffixes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    folder: bool = False

    @property
    def code(self) -> Any:
        """The module, imported now."""
        return import_module(f"{__name__}.{self.module}")


# A folder is read as the first that holds what it looks for.
FORMATS = {
    "jsonl": Format("jsonl", (".jsonl", ".ndjson")),
    "csv": Format("table", (".csv",), {"delimiter": ","}),
    "tsv": Format("table", (".tsv",), {"delimiter": "\t"}),
    "tsv-unquoted": Format("table", (), {"delimiter": "\t", "quoted": False}),
    "txt": Format("lines", (".txt",)),
    "parquet": Format("parquet", (".parquet",)),
    "arrow": Format("parquet", (".arrow",), {"stream": True}),
    "beir": Format("beir", folder=True),
    "datasets": Format("datasets", folder=True),
}
SUFFIXES = {suffix: f for f in FORMATS.values() for suffix in f.suffixes}


def rows_of(path: Path, format: Format | None = None) -> Iterator[Row]:
    """The rows of a file, as its suffix or ``format`` says.

    Raises:
        DataProblem: for a suffix that no format has, and while reading.
    """
    chosen = format or SUFFIXES.get(path.suffix.lower())
    if chosen is None:
        raise DataProblem(
            f"{path.name}: no format has the suffix {path.suffix!r}; known: {' '.join(SUFFIXES)}, or state one: "
            'format = "jsonl" under [tool.qguard.suite.NAME]'
        )
    return chosen.code.rows(path, **chosen.settings)  # type: ignore[no-any-return]


def tables_of(suite: str, source: Source) -> list[Table]:
    """The tables of a suite's file or folder.

    Raises:
        UsageProblem: for an unknown format.
        DataProblem: when nothing is there, or nothing that a format knows.
    """
    if source.format and source.format not in FORMATS:
        raise unknown("format of a suite", source.format, FORMATS)
    chosen = FORMATS[source.format] if source.format else None
    if source.hub:
        from qguard.suites.formats.hub import fetch

        path = fetch(suite, source.path)
    else:
        path = Path(source.path)
    if path.is_file():
        if chosen is not None and chosen.folder:
            raise DataProblem(f"suite {suite!r}: {source.format} is a folder, and {path.name} is a file")
        return [Table(path.name, rows_of(path, chosen))]
    if not path.is_dir():
        raise DataProblem(f"suite {suite!r}: no file or folder at {path}")
    if chosen is None or not chosen.folder:
        chosen = next((f for f in FORMATS.values() if f.folder and f.code.holds(path)), None)
    if chosen is None:
        raise DataProblem(
            f"suite {suite!r}: {source.name} holds nothing to read; expected texts, pairs, corpus, queries and qrels in files of "
            f"those names (corpus.jsonl, qrels/test.tsv), or data files; known suffixes: {' '.join(SUFFIXES)}"
        )
    return chosen.code.tables(path, source.split)  # type: ignore[no-any-return]
