"""Exact search of the vectors that an index holds: what its answers are held against.

Equal scores are a set, not an order: each store orders them its own way. A hit is right if its exact score reaches that of the
k-th exact neighbor. Where no scores are equal, recall so counted is the share of the exact neighbors' ids that were found, as
VectorDBBench and ann-benchmarks count it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.indexes.settings import HAMMING
from qguard.indexes.stored import StoredFile
from qguard.metrics.ranking import best_first
from qguard.vectors.quantized import unit
from qguard.vectors.search import VectorFile, top_k
from qguard.vectors.similarity import COSINE, DOT, SIMILARITIES, Similarity

EQUAL = 1e-12  # relative: scores of equal vectors, computed at other places of memory
_FEW = 4096  # rows that are scored all
_SPARE = 16  # neighbors beyond k, of which float32's rounding of unit vectors may hide one
_PART = 64  # queries whose scores are held at once
Found = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The exact neighbors of each query, best first.

    Attributes:
        rows: (q, k); -1 beyond the rows that there are.
        scores: (q, k), in float64; -inf there.
    """

    rows: Found
    scores: Scores

    @property
    def wanted(self) -> NDArray[np.int64]:
        """Hits that each query can have, (q,): k, or fewer where a filter leaves fewer rows."""
        return np.asarray((self.rows >= 0).sum(1), np.int64)

    @property
    def last(self) -> Scores:
        """The score that a right hit reaches, (q,)."""
        return np.asarray(self.scores[np.arange(len(self.scores)), np.maximum(self.wanted - 1, 0)])

    def right(self, rows: Found, scores: Scores) -> NDArray[np.bool_]:
        """Of hits (q, k), with their exact scores, whether each is one of the nearest and no repetition; see the module."""
        reach = self.last - EQUAL * np.maximum(1.0, np.abs(self.last))
        good = (rows >= 0) & (scores >= reach[:, None]) & (self.wanted > 0)[:, None]
        order = np.argsort(rows, axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, 1)
        again = np.zeros_like(good)
        np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
        return np.asarray(good & ~again)

    def recall(self, rows: Found, scores: Scores) -> Scores:
        """The share of the hits that each query can have that were found, (q,) in [0, 1]; 1 where it can have none."""
        found = np.minimum(self.right(rows, scores).sum(1), self.wanted)
        return np.asarray(np.where(self.wanted > 0, found / np.maximum(self.wanted, 1), 1.0), np.float64)


@dataclass(frozen=True, eq=False)
class Exact:
    """An exact search.

    Attributes:
        queries: float32 (q, dim): the numbers that scores are made of, as of :func:`qguard.indexes.stored.values`.
        documents: The same of all rows (n, dim), or a file of them.
        metric: One of :data:`qguard.indexes.settings.METRICS`. The rows of a file that are ranked by cosine have unit length.
        own: The row that is the query itself and is no hit, (q,); -1 for none.
    """

    queries: Floats
    documents: Floats | VectorFile
    metric: str
    own: Found

    def __len__(self) -> int:
        return self.documents.rows if isinstance(self.documents, VectorFile) else len(self.documents)

    @property
    def similarity(self) -> Similarity:
        """What scores; of bits the inner product of 1 and -1, which falls by 2 with each bit that differs."""
        return DOT if self.metric == HAMMING else SIMILARITIES[self.metric]

    def neighbours(self, k: int, allowed: Found | None = None) -> Truth:
        """The ``k`` nearest rows.

        Args:
            k: At least 1.
            allowed: Only these rows, ascending; ``None`` for all.
        """
        count = len(self) if allowed is None else len(allowed)
        if count <= max(_FEW, k + _SPARE + 1):
            return self._all(k, np.arange(count) if allowed is None else allowed)
        documents = self.documents if allowed is None else self._taken(allowed)
        own = self.own if allowed is None else _places(allowed, self.own)
        searched, similarity = self.queries, self.similarity
        if similarity is COSINE:  # whose search wants vectors of unit length
            searched, similarity = unit(searched), DOT
            if isinstance(documents, StoredFile):
                documents = replace(documents, of_unit_length=True)
            documents = documents if isinstance(documents, VectorFile) else unit(documents)
        near, _ = top_k(searched, documents, k + _SPARE, own, similarity=similarity)
        rows = near if allowed is None else allowed[near]
        scores = self.scores(rows)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return Truth(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))

    def _all(self, k: int, allowed: Found) -> Truth:
        rows = np.full((len(self.queries), k), -1, np.int64)
        scores = np.full((len(self.queries), k), -np.inf)
        if len(allowed):
            documents = self.similarity.prepared(self._taken(allowed))
            for start in range(0, len(rows), _PART):
                part = slice(start, start + _PART)
                found = self.similarity.scores(self.similarity.prepared(self.queries[part]), documents)
                found[allowed[None, :] == self.own[part, None]] = -np.inf
                best = best_first(found, k)
                reached = np.take_along_axis(found, best, 1)
                width = best.shape[1]
                rows[part, :width] = np.where(np.isfinite(reached), allowed[best], -1)
                scores[part, :width] = reached
        # scored pair by pair, as hits are
        return Truth(rows, np.where(rows >= 0, self.scores(rows), -np.inf))

    def _taken(self, rows: Found) -> Floats:
        if isinstance(self.documents, VectorFile):
            return self.documents.take(rows)
        return self.documents if len(rows) == len(self.documents) else self.documents[rows]

    def scores(self, rows: Found) -> Scores:
        """The exact scores of hits (q, k) in float64; -inf where there is no such row."""
        known = (rows >= 0) & (rows < len(self))
        out = np.full(rows.shape, -np.inf)
        for start in range(0, len(rows), _PART):
            query, place = np.nonzero(known[start : start + _PART])
            if not len(query):
                continue
            wanted, at = np.unique(rows[start + query, place], return_inverse=True)
            documents = self.similarity.prepared(self._taken(wanted))
            searched = self.similarity.prepared(self.queries[start : start + _PART])
            out[start + query, place] = self.similarity.pairs(searched[query], documents[at])
        return out


def without_own(rows: Found, own: Found, k: int, *more: Any) -> list[Any]:
    """Hits (q, n) without each query's own row, the first ``k`` of them; ``more`` are arrays of the same shape."""
    itself = (rows == own[:, None]) & (own >= 0)[:, None]
    order = np.argsort(itself, axis=1, kind="stable")  # the own row last
    some = np.take_along_axis(np.where(itself, -1, rows), order, 1)[:, :k]
    return [some, *(np.take_along_axis(a, order, 1)[:, :k] for a in more)]


def _places(allowed: Found, rows: Found) -> Found:
    """Where rows stand among the allowed ones, ascending; -1 where they do not."""
    at = np.searchsorted(allowed, rows)
    here = (at < len(allowed)) & (allowed[np.minimum(at, len(allowed) - 1)] == rows)
    return np.where(here, at, -1)


@cache
def probes(dim: int, count: int = 256) -> Floats:
    """Seeded random directions, float32 (count, dim) of unit length: they are nobody's neighbors, so that an index that looks at
    few rows misses the nearest one of many of them, where it finds those of real queries.
    """
    return unit(np.random.default_rng(0).standard_normal((count, dim)))
