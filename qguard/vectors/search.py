"""Exact nearest neighbors of a collection that need not fit in memory.

Scores are inner products in float64 with ties broken by document order; of a model that ranks by a distance, its negative.
Inner products are not computed for every document: a cheap
screen (:mod:`qguard.vectors.screens`), in blocks, leaves those that could still be among the best, and only these are scored.
Nothing is approximated: a document is dropped only where the screen's error bound rules it out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.machine.cpu import cores
from qguard.vectors.screens import Screen, open_screens
from qguard.vectors.similarity import DOT, Similarity

Indices = NDArray[np.int64]

BLOCK = 1024  # documents; with 1,000 queries their scores are 4 MB, near a core's cache
QUERIES = 1024  # at most so many side by side
PAIRS = 512  # scored at once; their vectors in float64 are 3 MB


@dataclass(frozen=True)
class VectorFile:
    """Rows of float32 in a plain file, without a header: written block by block, read block by block.

    Attributes:
        path: The file.
        rows: How many.
        dim: Values of each.
        blocks: Rows and SHA-256 of each block, in their order, where they are known.
    """

    path: Path
    rows: int
    dim: int
    blocks: tuple[tuple[int, str], ...] = field(default=(), kw_only=True)

    def read(self, start: int, out: Floats) -> Floats:
        """Rows ``start`` to ``start + len(out)``, fewer at the end, into ``out`` (n, dim); returns the filled part.

        Raises:
            MeasurementProblem: when the file is shorter than it should be.
        """
        count = min(len(out), self.rows - start)
        view = memoryview(out[:count]).cast("B")  # type: ignore[arg-type]
        with self.path.open("rb", buffering=0) as f:
            f.seek(start * self.dim * 4)
            if _fill(f, view) != len(view):
                raise self._short()
        return out[:count]

    def take(self, rows: NDArray[np.int64]) -> Floats:
        """Chosen rows (n, dim), in their order.

        Raises:
            MeasurementProblem: when the file is shorter than it should be.
        """
        out = np.empty((len(rows), self.dim), np.float32)
        # read, not mapped: pages around each mapped row would stay in memory, in the end the whole file
        with self.path.open("rb", buffering=0) as f:
            for row, vector in zip(rows.tolist(), out, strict=True):
                f.seek(row * self.dim * 4)
                if _fill(f, memoryview(vector).cast("B")) != self.dim * 4:  # type: ignore[arg-type]
                    raise self._short()
        return out

    def _short(self) -> MeasurementProblem:
        return MeasurementProblem(f"{self.path.name} is shorter than {self.rows} rows of {self.dim} values; encode again")


def _fill(file: BinaryIO, view: memoryview) -> int:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def top_k(
    queries: Floats,
    documents: Floats | VectorFile,
    k: int,
    own: NDArray[np.int64] | None = None,
    advance: Callable[[int], None] | None = None,
    similarity: Similarity = DOT,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Exact top ``k``, in float64, ties by document order.

    Args:
        queries: float32 (q, dim). documents: float32 (d, dim), or a file of them. k: At most ``d``, or ``d - 1`` with ``own``.
        own: Per query the document that is itself and is left out, -1 for none.
        advance: Called with the documents of each finished block.
        similarity: What ranks; vectors are searched as they are.

    Returns:
        Document indices (q, k) and scores (q, k), best first.

    Raises:
        MeasurementProblem: for too few documents, or vectors that are not finite.
    """
    rows, dim = (documents.rows, documents.dim) if isinstance(documents, VectorFile) else documents.shape
    if k < 1 or k > rows - (own is not None) or queries.shape[1] != dim:
        raise MeasurementProblem(f"top {k} of {rows} documents with {dim} values, for queries {queries.shape}: no such search")
    if not np.isfinite(queries).all():
        raise MeasurementProblem("the queries hold vectors that are NaN or infinite")
    indices, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        found = _Best(
            np.ascontiguousarray(queries[part], np.float32), documents, k, None if own is None else own[part], similarity
        )
        found.search(advance)
        indices[part], scores[part] = found.result()
    return indices, scores


class _Best:
    """The best ``k`` documents of each query, of those that were seen."""

    def __init__(
        self,
        queries: Floats,
        documents: Floats | VectorFile,
        k: int,
        own: NDArray[np.int64] | None,
        similarity: Similarity,
    ) -> None:
        self.queries, self.documents, self.k, self.own, self.similarity = queries, documents, k, own, similarity
        self.rows, self.dim = (documents.rows, documents.dim) if isinstance(documents, VectorFile) else documents.shape
        self.exact_queries = queries.astype(np.float64)
        self.floor = np.full(len(queries), -np.inf)  # the last of the best k: what is below it is out
        self.kept: list[tuple[Indices, Indices, NDArray[np.float64]]] = []
        self.fresh = 0
        self.lock = threading.Lock()

    def blocks(self) -> Iterator[range]:
        """Few documents first: they set the floor that most others stay below."""
        start, size = 0, min(64, BLOCK)
        while start < self.rows:
            yield range(start, min(start + size, self.rows))
            start, size = start + size, min(2 * size, BLOCK)

    def search(self, advance: Callable[[int], None] | None) -> None:
        """Screen every block and score what is left, one block a thread."""
        from threadpoolctl import threadpool_limits

        blocks, next_block = self.blocks(), threading.Lock()
        screens = open_screens(self.queries, self.rows, self.similarity)

        def work() -> None:
            buffer = np.empty((BLOCK, self.dim), np.float32)
            while True:
                with next_block:
                    block = next(blocks, None)
                if block is None:
                    return
                if isinstance(self.documents, VectorFile):
                    vectors = self.documents.read(block.start, buffer[: len(block)])
                else:
                    vectors = np.ascontiguousarray(self.documents[block.start : block.stop], np.float32)
                longest = 1.001 * float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max()))
                if not np.isfinite(longest):
                    raise MeasurementProblem(f"documents {block.start} to {block.stop} hold vectors that are NaN or infinite")
                for screen in screens:
                    document, query = self.hits(screen, vectors, longest)
                    if len(query) <= len(block) * len(self.queries) / 16:
                        break  # few are left: to score them costs less than a closer screen
                self.add(vectors, document, query, block.start)
                if advance is not None:
                    advance(len(block))

        threads = cores()
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()

    def hits(self, screen: Screen, vectors: Floats, longest: float) -> tuple[Indices, Indices]:
        """Pairs (document of the block, query) that a screen cannot rule out."""
        scores, least = screen(vectors, longest, self.floor)
        some = np.flatnonzero(scores.max(0) >= least)  # of most queries no document of a block is a hit
        document, column = np.nonzero(scores[:, some] >= least[some])
        return document, some[column]

    def add(self, vectors: Floats, document: Indices, query: Indices, start: int) -> None:
        """Score hits in float64 and keep those that reach the floor; once they are many, raise it."""
        if self.own is not None:
            other = self.own[query] != document + start
            document, query = document[other], query[other]
        exact = np.empty(len(query))
        for first in range(0, len(query), PAIRS):
            part = slice(first, first + PAIRS)
            found = self.exact_queries[query[part]], vectors[document[part]].astype(np.float64)
            exact[part] = self.similarity.pairs(*found)
        reach = exact >= self.floor[query]
        with self.lock:
            self.kept.append((query[reach], document[reach] + start, exact[reach]))
            self.fresh += int(reach.sum())
            if self.fresh >= 2 * len(self.queries):
                self.compact()

    def compact(self) -> None:
        """Keep the best ``k`` of each query, equal ones in document order."""
        query, document, score = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        order = np.lexsort((document, -score, query))
        query, document, score = query[order], document[order], score[order]
        first = np.searchsorted(query, np.arange(len(self.queries)))
        best = np.arange(len(query)) - first[query] < self.k
        full = np.flatnonzero(np.diff([*first, len(query)]) >= self.k)
        floor = self.floor.copy()  # other threads read the old one, which is only lower
        floor[full] = score[first[full] + self.k - 1]
        self.floor, self.kept, self.fresh = floor, [(query[best], document[best], score[best])], 0

    def result(self) -> tuple[Indices, NDArray[np.float64]]:
        """Documents and scores (q, k), best first."""
        self.compact()
        ((_, document, score),) = self.kept
        return document.reshape(-1, self.k), score.reshape(-1, self.k)
