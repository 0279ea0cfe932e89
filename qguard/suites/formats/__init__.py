"""Formats of suites: how files become tables of rows.

A format's function maps a file to its rows; that of a folder maps it to tables, each of one kind of rows. Another package adds a
format through the entry-point group ``qguard.suite_formats``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from qguard.errors import DataProblem
from qguard.registry import Registry
from qguard.suites.source import Source

# Number of the line or row, from 1, and its values by column
Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Rows of one kind, read as they are asked for.

    Attributes:
        name: Of the file, for messages.
        rows: Each once.
        kind: ``texts pairs corpus queries candidates qrels``; ``""`` where the columns tell.
        chosen: The file itself is the wanted split: its rows need not say so.
    """

    name: str
    rows: Iterator[Row]
    kind: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class SuiteFormat:
    """How one kind of file, or folder, is read.

    Attributes:
        name: As the configuration's ``format`` has it.
        module: The module that reads it, imported when it is needed; it has ``rows(path)`` for a file, ``holds(path)`` and
            ``tables(path, split)`` for a folder.
        suffixes: Of the files that are in this format, such as ``.csv``; none for a folder.
        settings: What ``rows`` gets beside the path.
        folder: It reads a folder. A folder is read as the first format that holds what it looks for.
    """

    name: str
    module: str = ""
    suffixes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    folder: bool = False

    def lacks(self) -> Iterator[str]:
        """See :class:`qguard.registry.Record`."""
        if not self.name:
            yield "it has no name"
        if any(not s.startswith(".") or s != s.lower() for s in self.suffixes):
            yield f"suffixes: expected lower case with a dot, such as '.csv', found {', '.join(self.suffixes)}"
        for function in ("holds", "tables") if self.folder else ("rows",):
            if not callable(getattr(self.code, function, None)) if self.module else True:
                yield f"its module {self.module!r} has no function {function}"

    @property
    def code(self) -> Any:
        """The module, imported now."""
        return import_module(self.module)


def _own() -> Iterator[SuiteFormat]:
    here = __name__
    yield SuiteFormat("jsonl", f"{here}.jsonl", (".jsonl", ".ndjson"))
    yield SuiteFormat("csv", f"{here}.table", (".csv",), {"delimiter": ","})
    yield SuiteFormat("tsv", f"{here}.table", (".tsv",), {"delimiter": "\t"})
    yield SuiteFormat("tsv-unquoted", f"{here}.table", (), {"delimiter": "\t", "quoted": False})
    yield SuiteFormat("txt", f"{here}.lines", (".txt",))
    yield SuiteFormat("parquet", f"{here}.parquet", (".parquet",))
    yield SuiteFormat("arrow", f"{here}.parquet", (".arrow",), {"stream": True})
    yield SuiteFormat("beir", f"{here}.beir", folder=True)
    yield SuiteFormat("datasets", f"{here}.datasets", folder=True)


FORMATS: Registry[SuiteFormat] = Registry("format of a suite", "qguard.suite_formats", SuiteFormat, _own)


def suffixes() -> dict[str, SuiteFormat]:
    """Each known suffix with its format, qguard's own first."""
    found: dict[str, SuiteFormat] = {}
    for f in FORMATS.values():
        for suffix in f.suffixes:
            found.setdefault(suffix, f)
    return found


def rows_of(path: Path, format: SuiteFormat | None = None) -> Iterator[Row]:
    """The rows of a file, as its suffix or ``format`` says.

    Raises:
        DataProblem: for a suffix that no format has, and while reading.
    """
    chosen = format or suffixes().get(path.suffix.lower())
    if chosen is None:
        raise DataProblem(
            f"{path.name}: no format has the suffix {path.suffix!r}; known: {' '.join(suffixes())}, or state one: "
            'format = "jsonl" under [tool.qguard.suite.NAME]'
        )
    return chosen.code.rows(path, **chosen.settings)  # type: ignore[no-any-return]


def tables_of(suite: str, source: Source) -> list[Table]:
    """The tables of a suite's file or folder.

    Raises:
        UsageProblem: for an unknown format.
        DataProblem: when nothing is there, or nothing that a format knows.
    """
    chosen = FORMATS.find(source.format) if source.format else None
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
            f"those names (corpus.jsonl, qrels/test.tsv), or data files; known suffixes: {' '.join(suffixes())}"
        )
    return chosen.code.tables(path, source.split)  # type: ignore[no-any-return]
