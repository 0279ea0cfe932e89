"""CSV and TSV with a line of column names, through Python's csv module."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from qguard.errors import DataProblem
from qguard.suites.formats import Row
from qguard.suites.formats.files import text_lines

LONGEST = 1 << 30  # characters of a cell; csv's own limit of 131,072 is below some documents
# qrels need no line of names: these are their columns, and how such a line may begin
QRELS = ("query-id", "corpus-id", "score")
QRELS_HEADER = ("query-id", "query_id", "qid")


def rows(path: Path, delimiter: str, quoted: bool = True) -> Iterator[Row]:
    """Rows as name → text; a number is that of the line on which the row begins.

    Args:
        path: The file.
        delimiter: What separates cells.
        quoted: Whether ``"`` at the start of a cell quotes it, as csv and pandas write; else it is a character as any.

    Raises:
        DataProblem: for stray quotes, rows of another width, and missing, empty or repeated names.
    """
    csv.field_size_limit(LONGEST)
    lines = (line for _, line in text_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
    names: list[str] = []
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = [c.strip() for c in cells]
                if len(set(names)) < len(names) or not all(names):
                    raise DataProblem(f"{path.name}:{number}: expected a line of distinct column names, found {cells}")
                continue
            if len(cells) != len(names):
                raise DataProblem(
                    f"{path.name}:{number}: expected {len(names)} cells ({', '.join(names)}), found {len(cells)}" + _hint(path)
                )
            yield number, dict(zip(names, cells, strict=True))
    except csv.Error as e:
        raise DataProblem(f"{path.name}:{start}: {e}" + _hint(path)) from e


def _hint(path: Path) -> str:
    unquoted = path.suffix.lower() == ".tsv"
    return '; if quotes are plain characters in this file: format = "tsv-unquoted"' if unquoted else ""


def qrels(path: Path) -> Iterator[Row]:
    """Judgments of a TSV, with or without a line of names: query, document and grade.

    Raises:
        DataProblem: for a line of fewer cells.
    """
    for number, line in text_lines(path):
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip() or (number == 1 and cells[0] in QRELS_HEADER):
            continue
        if len(cells) < len(QRELS):
            raise DataProblem(f"{path.name}:{number}: expected query-id, corpus-id, grade of known ids; found {line.rstrip()!r}")
        yield number, dict(zip(QRELS, cells, strict=False))
