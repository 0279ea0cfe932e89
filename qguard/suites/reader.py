"""Read suites: tables of any format become texts, pairs, queries, documents and judgments, or an error with its line."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from qguard.errors import DataProblem
from qguard.suites import Pair, Suite, corpus
from qguard.suites.columns import Columns
from qguard.suites.corpus import Corpus, Document
from qguard.suites.formats import Row, Table, tables_of
from qguard.suites.paired import Candidate
from qguard.suites.source import Source

# Judgments first: queries that nobody judged are not encoded. The rest in the order in which texts are counted.
_ORDER = ("qrels", "texts", "pairs", "corpus", "queries", "candidates")


def read_suite(name: str, source: Path | Source) -> Suite:
    """Read a suite from a file or a folder in any of :data:`qguard.suites.formats.FORMATS`.

    Args:
        name: The configuration's name for it.
        source: Where it is; a path alone is read by its suffix and by the names of its columns.

    Raises:
        DataProblem: naming file and line, for malformed, duplicate, empty, dangling or out-of-range entries.
    """
    source = source if isinstance(source, Source) else Source(str(source))
    suite = _Builder(name, source).read(tables_of(name, source))
    if not suite.texts:
        raise DataProblem(f"suite {name!r}: {source.name} holds no text; an empty suite would pass without a measurement")
    return suite


class _Builder:
    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, source
        self.index: dict[tuple[str, bool], int] = {}
        self.slices: list[str | None] = []
        self.pairs: list[Pair] = []
        self.documents: dict[str, int] = {}  # id → text
        self.queries: dict[str, int] = {}
        self.grades: dict[str, dict[str, tuple[float, str]]] = {}  # query id → document id → grade and where it stands
        self.seen: dict[Any, str] = {}
        self.labels: dict[str, set[float]] = {}  # column called a label → its values, or the first of them
        self.large: Corpus | None = None
        self.unjudged: set[str] = set()  # queries that are left out
        self.candidates: dict[str, tuple[Candidate, ...]] = {}  # by query id

    def read(self, tables: list[Table]) -> Suite:
        opened = sorted((open_table(t, self.source) for t in tables), key=lambda o: _ORDER.index(o[0].kind))
        for kind in _ORDER:
            some = [o for o in opened if o[0].kind == kind]
            if kind == "corpus":
                self._corpus(some)
                continue
            add = {
                "qrels": self._qrels, "texts": self._texts, "pairs": self._pairs, "queries": self._queries,
                "candidates": self._candidates,
            }[kind]  # fmt: skip
            for table, columns in some:
                for number, row in wanted(table, columns, self.source.split):
                    add(row, columns, f"{table.name}:{number}")
        self._check_labels()
        if self.large is not None:
            self.large = replace(self.large, qrels=self._positions(self.large.places))
        qrels = self._positions({key: i for i, key in enumerate(self.documents)}, sampled=self.large is not None)
        return Suite(
            self.name, tuple(text for text, _ in self.index), tuple(self.slices), tuple(self.pairs),
            tuple(self.queries.values()), tuple(self.documents.values()), qrels,
            tuple(self.queries), tuple(self.documents), self.large,
            {place: self.candidates[key] for place, key in enumerate(self.queries) if key in self.candidates},
        )  # fmt: skip

    @cached_property
    def texts(self) -> list[str]:
        """The distinct texts, when all are read."""
        return [text for text, _ in self.index]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each document stands, when all are read."""
        return {key: i for i, key in enumerate(self.documents)}

    def _add(self, text: str, part: str | None, query: bool = False) -> int:
        # a query stays apart from an equal document: a model may declare a prompt for each
        if (text, query) not in self.index:
            self.index[text, query] = len(self.slices)
            self.slices.append(part)
        return self.index[text, query]

    def _once(self, key: Any, where: str) -> None:
        if self.source.duplicates == "keep":
            return
        if key in self.seen:
            file, _, line = self.seen[key].rpartition(":")
            of = "" if where.startswith(f"{file}:") else f" of {file}"
            raise DataProblem(
                f"{where}: duplicate of line {line}{of}; remove it, or say that every row counts: "
                f'duplicates = "keep" under [tool.qguard.suite.{self.name}]'
            )
        self.seen[key] = where

    def _texts(self, row: dict[str, Any], columns: Columns, where: str) -> None:
        self._once(self._add(columns.text("text", row, where), columns.slice(row, where)), where)

    def _pairs(self, row: dict[str, Any], columns: Columns, where: str) -> None:
        part = columns.slice(row, where)
        a, b = (self._add(columns.text(side, row, where), part) for side in ("text_a", "text_b"))
        self._once((a, b), where)
        role = "label" if columns.states("label") or not columns.of("score", row) else "score"
        score = columns.number(role, row, where)
        if score is not None:
            if role == "label" and len(values := self.labels.setdefault(str(columns.of(role, row)), set())) < 3:
                values.add(score)
            low, high = self.source.scores or (score, score)
            if not low <= score <= high:
                raise DataProblem(f"{where}: score {score:g} lies outside of {low:g} to {high:g} (scores of this suite)")
        self.pairs.append(Pair(a, b, score, part))

    def _corpus(self, tables: list[tuple[Table, Columns]]) -> None:
        """The documents, or a sample of them where there are too many to hold."""
        documents = _documents(tables)
        first = list(islice(documents, corpus.LARGE + 1))
        if len(first) > corpus.LARGE:
            documents.close()
            judged = [(d, grade) for grades in self.grades.values() for d, (grade, _) in grades.items()]
            relevant = islice(dict.fromkeys(d for d, grade in judged if grade > 0), corpus.JUDGED)
            self.large, first = corpus.scan(self.name, self._documents_anew, {d for d, _ in judged}, set(relevant))
        for key, text, part, where in first:
            self._new(key, self.documents, where)
            self.documents[key] = self._add(text, part)

    def _documents_anew(self) -> Iterator[Document]:
        tables = [open_table(t, self.source) for t in tables_of(self.name, self.source) if t.kind == "corpus"]
        return _documents(tables)

    def _queries(self, row: dict[str, Any], columns: Columns, where: str) -> None:
        key, text = columns.identity("id", row, where), columns.text("text", row, where)
        if self.grades and key not in self.grades:
            self.unjudged.add(key)
            return
        if not text.strip():
            raise DataProblem(f"{where}: query {key!r} is empty")
        self._new(key, self.queries, where)
        self.queries[key] = self._add(text, columns.slice(row, where), query=True)

    def _candidates(self, row: dict[str, Any], columns: Columns, where: str) -> None:
        """The candidates of one query: documents by id, or texts of their own, with a grade where somebody gave one."""
        query, listed = row.get("query"), row.get("candidates")
        if isinstance(query, bool) or not isinstance(query, str | int) or not isinstance(listed, list | tuple) or not listed:
            raise DataProblem(
                f'{where}: expected {{"query": ID, "candidates": [{{"document": ID, "score": 1}}, {{"text": "…"}}]}}, found keys '
                f"{sorted(map(str, row))}"
            )
        if str(query) in self.unjudged:
            return
        if str(query) not in self.queries:
            raise DataProblem(f"{where}: candidates of query {query!r}, which the suite does not hold")
        self._new(str(query), self.candidates, where)
        found = tuple(self._candidate(entry, f"{where}, candidate {n}") for n, entry in enumerate(listed, 1))
        texts = [c.text for c in found]
        if len(set(texts)) < len(texts):
            twice = next(t for i, t in enumerate(texts) if t in texts[:i])
            raise DataProblem(f"{where}: the candidate {twice[:60]!r} is there twice")
        self.candidates[str(query)] = found

    def _candidate(self, entry: Any, where: str) -> Candidate:
        known = {k: v for k, v in entry.items() if v is not None} if isinstance(entry, dict) else {}
        if len({"document", "text"} & known.keys()) != 1 or known.keys() - {"document", "text", "score"}:
            raise DataProblem(
                f"{where}: expected a document's id or a text, and a score where there is one; found {entry!r:.200}"
            )
        grade = known.get("score")
        if isinstance(grade, bool) or not (grade is None or (isinstance(grade, int | float) and grade == int(grade))):
            raise DataProblem(f"{where}: a score must be a whole number, found {grade!r}")
        score = None if grade is None else float(grade)
        if "text" in known:
            return Candidate(Columns({}).text("text", known, where), score)
        key = str(known["document"])
        if key not in self.documents:
            sampled = "; of a large suite only documents that are judged are held" if self.large else ""
            raise DataProblem(f"{where}: the suite does not hold document {key!r}{sampled}")
        return Candidate(self.texts[self.documents[key]], score, self.places[key])

    def _new(self, key: str, ids: Collection[str], where: str) -> None:
        if key in ids:
            raise DataProblem(f"{where}: the id {key!r} is there twice")

    def _qrels(self, row: dict[str, Any], columns: Columns, where: str) -> None:
        query, document = (columns.identity(role, row, where) for role in ("query_id", "document_id"))
        grade = columns.number("grade", row, where)
        if grade is None or grade != int(grade):  # trec_eval knows no others
            raise DataProblem(f"{where}: a grade must be a whole number, found {grade}")
        known = self.grades.setdefault(query, {})
        if document in known and not (self.source.duplicates == "keep" and known[document][0] == grade):
            raise DataProblem(f"{where}: duplicate judgment of {query} and {document}")
        known[document] = grade, where

    def _positions(self, documents: Mapping[str, int], sampled: bool = False) -> dict[int, dict[int, float]]:
        """Judgments by the places of query and document; where documents are sampled, those of the sample."""
        queries = {key: i for i, key in enumerate(self.queries)}
        out: dict[int, dict[int, float]] = {}
        for query, judged in self.grades.items():
            for document, (grade, where) in judged.items():
                if query in queries and document in documents:
                    out.setdefault(queries[query], {})[documents[document]] = grade
                elif not sampled:
                    what = f"query {query!r}" if query not in queries else f"document {document!r}"
                    raise DataProblem(f"{where}: {what} is judged, and the suite does not hold it")
        return out

    def _check_labels(self) -> None:
        stated = bool(dict(self.source.columns).get("label"))
        for column, values in self.labels.items():
            if len(values) > 2 and (stated or all(v == int(v) for v in values)):
                raise DataProblem(
                    f"suite {self.name!r}: a label has two values, and {column} has more. If it grades similarity: columns = "
                    f'{{score = "{column}"}}; if it names classes: columns = {{label = ""}}'
                )


def open_table(table: Table, source: Source) -> tuple[Table, Columns]:
    """A table whose kind is told, and its columns.

    Raises:
        DataProblem: for a table without rows.
    """
    columns, rows = Columns(dict(source.columns)), iter(table.rows)
    first = next(rows, None)
    if first is None:
        raise DataProblem(f"{table.name} is empty; an empty suite would pass without a measurement")
    kind = columns.kind(first[1])
    return replace(table, rows=chain([first], rows), kind=table.kind or kind), columns


def wanted(table: Table, columns: Columns, split: str) -> Iterator[Row]:
    """The rows of a split, where the file is not of one split itself; all rows without a split.

    Raises:
        DataProblem: for a table without such rows.
    """
    found, others = False, set[str]()
    if not split or table.chosen or table.kind in ("queries", "candidates"):
        yield from table.rows
        return
    for number, row in table.rows:
        value = row.get(columns.of("split", row) or "split")
        if value == split:
            found = True
            yield number, row
        elif value is not None:
            others.add(str(value))
    if not found:
        what = f"only {', '.join(sorted(others)[:9])}" if others else "and no column that tells it; leave split out"
        raise DataProblem(f"{table.name} has no rows of split {split!r}, {what}")


def _documents(tables: list[tuple[Table, Columns]]) -> Generator[Document, None, None]:
    for table, columns in tables:
        for number, row in table.rows:
            where = f"{table.name}:{number}"
            key, text = columns.identity("id", row, where), columns.text("text", row, where)
            if "title" in row:  # as BEIR and MTEB join them
                text = f"{row['title'] or ''} {text}".strip()
            yield Document(key, text, columns.slice(row, where), where)
