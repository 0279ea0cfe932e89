"""What a sample is drawn from: rows of texts, pairs, queries and documents, streamed from anything that a suite is read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from qguard.errors import DataProblem
from qguard.suites.columns import Columns
from qguard.suites.formats import Table, tables_of
from qguard.suites.reader import open_table, wanted
from qguard.suites.source import Source

TEXTS, PAIRS, QUERIES, DOCUMENTS = "texts", "pairs", "queries", "documents"
KINDS = (DOCUMENTS, TEXTS, PAIRS, QUERIES)  # in the order in which they are read
_TABLES = {"corpus": DOCUMENTS, "texts": TEXTS, "pairs": PAIRS, "queries": QUERIES}
_ROLES = {QUERIES: "query", DOCUMENTS: "document"}


class Unit(NamedTuple):
    """One row.

    Attributes:
        kind: One of :data:`KINDS`.
        texts: One text, or the two of a pair.
        where: File and line.
        row: What a sample writes of it.
    """

    kind: str
    texts: tuple[str, ...]
    where: str
    row: dict[str, Any]

    @property
    def text(self) -> str:
        """Its texts as one."""
        return "\n".join(self.texts)

    @property
    def said(self) -> str:
        """Everything that a sample would write of it, but for numbers."""
        known = (self.row.get("source_slice", ""), self.id if "@" in self.id else "")  # other ids look like numbers of cards
        return "\n".join((*self.texts, *filter(None, known)))

    @property
    def role(self) -> str | None:
        """Of its text: models may declare a prompt for each."""
        return _ROLES.get(self.kind)

    @property
    def id(self) -> str:
        """Of a query or document; empty for others."""
        return str(self.row.get("_id", ""))


@dataclass(frozen=True)
class Production:
    """A source that is read more than once.

    Attributes:
        name: Of the suite, for messages.
        source: Where it is.
    """

    name: str
    source: Source

    @cached_property
    def judgments(self) -> Mapping[str, Mapping[str, int]]:
        """Query → document → grade, by id."""
        found: dict[str, dict[str, int]] = {}
        for where, row, columns in self._rows("qrels"):
            query, document = (columns.identity(role, row, where) for role in ("query_id", "document_id"))
            grade = columns.number("grade", row, where)
            if grade is None or grade != int(grade):
                raise DataProblem(f"{where}: a grade must be a whole number, found {grade}")
            found.setdefault(query, {})[document] = int(grade)
        return found

    @cached_property
    def ordered(self) -> frozenset[str]:
        """The documents that are candidates of any query, by id."""
        listed = [row.get("candidates") for _, row in self.candidates()]
        entries = [entry for of in listed if isinstance(of, list) for entry in of if isinstance(entry, dict)]
        return frozenset(str(entry["document"]) for entry in entries if entry.get("document") is not None)

    def candidates(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows of what a cross-encoder orders, with the id of the query."""
        for _, row, _ in self._rows("candidates"):
            yield str(row.get("query")), row

    def units(self) -> Iterator[Unit]:
        """All rows, in the order of :data:`KINDS`; of queries with judgments those that are judged, as a suite reads them.

        Raises:
            DataProblem: for a row that no suite could hold.
        """
        opened = [open_table(t, self.source) for t in self._tables()]
        for kind in KINDS:
            for table, columns in opened:
                if _TABLES.get(table.kind) == kind:
                    for number, row in wanted(table, columns, self.source.split):
                        unit = _unit(kind, row, columns, f"{table.name}:{number}")
                        if kind != QUERIES or not self.judgments or unit.id in self.judgments:
                            yield unit

    def _tables(self) -> list[Table]:
        return tables_of(self.name, self.source)

    def _rows(self, kind: str) -> Iterator[tuple[str, dict[str, Any], Columns]]:
        for table, columns in (open_table(t, self.source) for t in self._tables() if t.kind == kind):
            for number, row in wanted(table, columns, self.source.split):
                yield f"{table.name}:{number}", row, columns


def _unit(kind: str, row: dict[str, Any], columns: Columns, where: str) -> Unit:
    part = columns.slice(row, where)
    own = {} if part is None else {"source_slice": part}
    if kind == PAIRS:
        a, b = (columns.text(side, row, where) for side in ("text_a", "text_b"))
        role = "label" if columns.states("label") or not columns.of("score", row) else "score"
        grade = columns.number(role, row, where)
        return Unit(kind, (a, b), where, {"text_a": a, "text_b": b, **({} if grade is None else {role: grade}), **own})
    text = columns.text("text", row, where)
    if kind == TEXTS:
        return Unit(kind, (text,), where, {"text": text, **own})
    if kind == QUERIES and not text.strip():
        raise DataProblem(f"{where}: the query is empty")
    written: dict[str, Any] = {"_id": columns.identity("id", row, where)}
    if kind == DOCUMENTS and "title" in row:  # as the reader joins them
        written["title"] = row["title"] or ""
        return Unit(kind, (f"{written['title']} {text}".strip(),), where, {**written, "text": text, **own})
    return Unit(kind, (text,), where, {**written, "text": text, **own})
