"""Exact nearest neighbours of a collection that need not fit in memory.

Scores are inner products in float64 with ties broken by document order. They are not computed for every document: single
precision, in blocks, leaves those that could still be among the best, and only these are scored again. Nothing is
approximated: a document is dropped only where the error bound of single precision rules it out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats, cores
from qguard.errors import MeasurementProblem

BLOCK = 1024  # documents; with 1,000 queries their scores are 4 MB, near a core's cache
QUERIES = 1024  # at most so many side by side


@dataclass(frozen=True)
class VectorFile:
    """Rows of float32 in a plain file, without a header: written block by block, read block by block.

    Attributes:
        path: The file.
        rows: How many.
        dim: Values of each.
    """

    path: Path
    rows: int
    dim: int

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
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Exact top ``k`` by inner product, in float64, ties by document order.

    Args:
        queries: float32 (q, dim). documents: float32 (d, dim), or a file of them. k: At most ``d``, or ``d - 1`` with ``own``.
        own: Per query the document that is itself and is left out, -1 for none.
        advance: Called with the documents of each finished block.

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
        found = _Best(np.ascontiguousarray(queries[part], np.float32), documents, k, None if own is None else own[part])
        found.search(advance)
        indices[part], scores[part] = found.exact()
    return indices, scores


class _Best:
    """The documents that can still be among the best ``k`` of each query."""

    def __init__(self, queries: Floats, documents: Floats | VectorFile, k: int, own: NDArray[np.int64] | None) -> None:
        self.queries, self.documents, self.k, self.own = queries, documents, k, own
        self.rows, self.dim = (documents.rows, documents.dim) if isinstance(documents, VectorFile) else documents.shape
        self.lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        self.longest = 0.0  # of the documents that were seen
        self.floor = np.full(len(queries), -np.inf, np.float32)  # a score below it cannot be among the best
        self.kept: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = []
        self.fresh = 0
        self.lock = threading.Lock()

    def blocks(self) -> Iterator[range]:
        """Few documents first: they set the floor that most others stay below."""
        start, size = 0, min(64, BLOCK)
        while start < self.rows:
            yield range(start, min(start + size, self.rows))
            start, size = start + size, min(2 * size, BLOCK)

    def search(self, advance: Callable[[int], None] | None) -> None:
        """Score every block in single precision, one block a thread."""
        from threadpoolctl import threadpool_limits

        blocks, own = self.blocks(), self.own
        transposed = np.ascontiguousarray(self.queries.T)  # the layout whose product is fastest in OpenBLAS
        next_block = threading.Lock()

        def work() -> None:
            product = np.empty((BLOCK, len(self.queries)), np.float32)
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
                longest = float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max()))
                if not np.isfinite(longest):
                    raise MeasurementProblem(f"documents {block.start} to {block.stop} hold vectors that are NaN or infinite")
                scores = np.matmul(vectors, transposed, out=product[: len(block)])
                if own is not None:
                    mine = np.flatnonzero((own >= block.start) & (own < block.stop))
                    scores[own[mine] - block.start, mine] = -np.inf
                self.add(scores, block.start, longest)
                if advance is not None:
                    advance(len(block))

        threads = cores()
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()

    def add(self, scores: Floats, start: int, longest: float) -> None:
        """Keep hits of a block's scores (documents, queries); once they are many, raise the floor and drop what fell below it."""
        floor = self.floor
        some = np.flatnonzero(scores.max(0) >= floor)  # of most queries no document of a block is a hit
        chosen = scores[:, some]
        # what is itself scores -inf, which is no lower than a floor that was never raised
        document, column = np.nonzero((chosen >= floor[some]) & (chosen > -np.inf))
        query, values = some[column], chosen[document, column]
        with self.lock:
            self.longest = max(self.longest, longest)
            self.kept.append((query, document + start, values))
            self.fresh += len(query)
            if self.fresh >= 2 * len(self.queries):
                self.compact()

    def compact(self) -> None:
        """Keep the best ``k`` of each query and all within the error of single precision below the last of them."""
        query, document, score = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        order = np.lexsort((-score, query))
        query, document, score = query[order], document[order], score[order]
        first = np.searchsorted(query, np.arange(len(self.queries)))
        count = np.diff([*first, len(query)])
        full = np.flatnonzero(count >= self.k)
        # |fl(x·y) - x·y| <= n u / (1 - n u) |x||y| (Higham 2002, 3.5), u = 2^-24; both scores of a comparison may be off
        slack = 2.01 * self.dim * 2.0**-24 * self.lengths * self.longest
        floor = self.floor.copy()
        floor[full] = np.maximum(floor[full], score[first[full] + self.k - 1] - slack[full])
        self.floor = np.nextafter(floor, np.float32(-np.inf))
        keep = score >= self.floor[query]
        self.kept, self.fresh = [(query[keep], document[keep], score[keep])], 0

    def exact(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Score what is left in float64."""
        self.compact()
        ((query, document, _),) = self.kept
        wanted, place = np.unique(document, return_inverse=True)
        vectors = self.documents.take(wanted) if isinstance(self.documents, VectorFile) else self.documents[wanted]
        exact = np.empty(len(query))
        for start in range(0, len(query), BLOCK):
            part = slice(start, start + BLOCK)
            a, b = self.queries[query[part]].astype(np.float64), vectors[place[part]].astype(np.float64)
            exact[part] = np.einsum("ij,ij->i", a, b)
        order = np.lexsort((document, -exact, query))
        query, document, exact = query[order], document[order], exact[order]
        at = np.searchsorted(query, np.arange(len(self.queries)))[:, None] + np.arange(self.k)
        return document[at], exact[at]
