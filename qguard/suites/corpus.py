"""The collection of a large retrieval suite: more documents than are held in memory, so they are read in order, in blocks.

What is held of a document is some 40 bytes and its id. The suite itself gets the queries, the judged documents and a sample of
the others, on which everything is measured that needs no search; see :data:`SAMPLE`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qguard.errors import DataProblem

LARGE = 50_000  # a suite with more documents is large
SAMPLE = 2_000  # documents among its texts: those with the smallest hashes, so that most stay when a corpus grows
JUDGED = 2_000  # relevant documents that are among its texts besides


class Document(NamedTuple):
    """One document and where it stands."""

    id: str
    text: str
    slice: str | None
    where: str


Reader = Callable[[], Iterator[Document]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """The documents of a large suite, in their order, by number from 0.

    Documents of the same text share one row: it is encoded once, and a search finds it once.

    Attributes:
        name: The suite's.
        sha256: Over ids, texts and slices, in their order.
        row_of: int32 (documents,): the row of each document; rows are numbered as their texts first occur.
        rows: How many distinct texts there are.
        places: Number of each judged document, by id.
        qrels: Place among the suite's queries → number of a document → grade, a whole number (> 0 is relevant).
        read: Reads all documents anew.
    """

    name: str
    sha256: str
    row_of: NDArray[np.int32]
    rows: int
    places: Mapping[str, int]
    read: Reader
    ids: bytes
    ends: NDArray[np.int64]
    qrels: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.row_of)

    def id(self, document: int) -> str:
        """The id of a document."""
        return self.ids[self.ends[document] : self.ends[document + 1]].decode()

    def documents_of(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """The documents of the given rows, in the order of ``rows``, those of one row by number."""
        if self.rows == self.documents:
            return rows.astype(np.int64)
        order, starts = self._by_row
        return np.concatenate([order[starts[r] : starts[r + 1]] for r in rows.tolist()])

    @property
    def _by_row(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if "by row" not in self._kept:
            order = np.argsort(self.row_of, kind="stable")
            self._kept["by row"] = order, np.searchsorted(self.row_of[order], np.arange(self.rows + 1))
        return self._kept["by row"]  # type: ignore[no-any-return]

    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def blocks(self, size: int, start: int = 0) -> Iterator[list[Document]]:
        """The documents that are the first of their row, ``size`` at a time.

        Args:
            size: Rows of a block; the last may have fewer.
            start: The first row.

        Raises:
            DataProblem: when the documents are no longer those that were counted; the last block is then not given.
        """
        total, row, block = hashlib.sha256(), 0, list[Document]()
        changed = DataProblem(f"the documents of suite {self.name!r} changed while they were read; run again")
        for number, document in enumerate(self.read()):
            if number >= self.documents:
                raise changed
            total.update(_entry(document))
            if self.row_of[number] != row:
                continue
            if len(block) == size:
                yield block
                block = []
            row += 1
            if row > start:
                block.append(document)
        if total.hexdigest() != self.sha256:
            raise changed
        if block:
            yield block


def scan(name: str, read: Reader, judged: Collection[str], relevant: Collection[str]) -> tuple[Corpus, list[Document]]:
    """Count the documents of a corpus, and draw its sample.

    Args:
        name: The suite's name.
        read: Reads all documents anew.
        judged: Ids whose place is wanted.
        relevant: Ids of documents that belong to the sample whatever it is.

    Returns:
        The corpus, and the sample in the order of the documents.

    Raises:
        DataProblem: for an id that is there twice.
    """
    total, ids, ends = hashlib.sha256(), bytearray(), array("q", [0])
    names, texts = bytearray(), bytearray()
    places: dict[str, int] = {}
    kept: dict[int, Document] = {}
    drawn: list[tuple[int, int, Document]] = []  # a heap whose first has the greatest hash
    hashes: set[int] = set()
    for number, document in enumerate(read()):
        total.update(_entry(document))
        ids += document.id.encode()
        ends.append(len(ids))
        names += _digest(document.id)
        digest = _digest(document.text)
        texts += digest
        if document.id in judged:
            places[document.id] = number
        if document.id in relevant:
            kept[number] = document
        value = int.from_bytes(digest, "big")
        if value not in hashes and (len(drawn) < SAMPLE or value < -drawn[0][0]):
            hashes.add(value)
            heapq.heappush(drawn, (-value, number, document))
            if len(drawn) > SAMPLE:
                hashes.discard(-heapq.heappop(drawn)[0])
    row_of, rows = _numbered(texts)
    _, distinct = _numbered(names)
    if distinct < len(row_of):
        _refuse_twice(read)
    kept |= {number: document for _, number, document in drawn}
    corpus = Corpus(name, total.hexdigest(), row_of, rows, places, read, bytes(ids), np.asarray(ends, np.int64))
    return corpus, [kept[number] for number in sorted(kept)]


def _entry(document: Document) -> bytes:
    return json.dumps(document[:3], ensure_ascii=False).encode() + b"\n"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _numbered(keys: bytearray) -> tuple[NDArray[np.int32], int]:
    """Equal keys of 16 bytes get equal numbers, in the order in which keys first occur; and how many are distinct."""
    _, first, inverse = np.unique(np.frombuffer(bytes(keys), "S16"), return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int32)
    number[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return number[inverse], len(first)


def _refuse_twice(read: Reader) -> None:
    seen: set[str] = set()
    for document in read():
        if document.id in seen:
            raise DataProblem(f"{document.where}: the id {document.id!r} is there twice")
        seen.add(document.id)
