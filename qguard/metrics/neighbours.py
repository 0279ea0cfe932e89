"""What the queries of a large suite find in its whole corpus, in fp32 and with the candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qguard.console.progress import progress
from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.suites import Suite
from qguard.vectors.quantized import unit
from qguard.vectors.search import VectorFile, top_k
from qguard.vectors.shards import sharded
from qguard.vectors.similarity import COSINE, DOT, Similarity

if TYPE_CHECKING:
    from qguard.fleet import Fleet

DEPTH = 100  # rows that are kept of each query
SCORED_AGAIN = 10  # of which the candidate's own score is wanted
_PART = 1024  # queries whose documents are scored again at once
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """The best rows of the corpus for each query, best first; ties by the order of the rows.

    Attributes:
        golden: Rows (queries, k) that fp32 finds.
        golden_scores: Their scores (queries, k) in fp32.
        candidate: Rows (queries, k) that the candidate finds.
        rescored: The candidate's scores (queries, 10) of the first rows in ``golden``.
    """

    golden: NDArray[np.int64]
    golden_scores: Rows
    candidate: NDArray[np.int64]
    rescored: Rows

    @classmethod
    def of(
        cls,
        suite: Suite,
        golden: tuple[NDArray[np.int64], Rows],
        queries: Floats,
        documents: VectorFile,
        similarity: Similarity = COSINE,
        fleet: Fleet | None = None,
    ) -> Neighbours:
        """Search the candidate's documents.

        Args:
            suite: A large suite.
            golden: What :func:`search` found in fp32.
            queries: The candidate's float32 vectors (queries, dim).
            documents: The candidate's vectors of all rows, of unit length where they are ranked by cosine.
            similarity: What the model ranks by.
            fleet: Who searches; by default this process.
        """
        rows, scores = golden
        if rows.shape != (len(suite.queries), min(DEPTH, documents.rows)):
            raise MeasurementProblem(f"golden of {suite.name!r} holds neighbors {rows.shape} of {len(suite.queries)} queries")
        found, _ = search(suite, queries, documents, similarity, fleet)
        first = rows[:, :SCORED_AGAIN]
        searched, ranked = _prepared(queries, similarity)
        wide, rescored = searched.astype(np.float64), np.empty(first.shape)
        for start in range(0, len(rows), _PART):
            part = slice(start, start + _PART)
            wanted, place = np.unique(first[part], return_inverse=True)
            vectors = documents.take(wanted).astype(np.float64)
            for query, at in enumerate(place.reshape(first[part].shape), start):
                rescored[query] = ranked.scores(wide[query : query + 1], vectors[at])[0]
        return cls(rows, scores, found, rescored)

    def ranked(self, suite: Suite, side: int, judged: list[int]) -> dict[int, list[int]]:
        """Each judged query's first documents, best first; ``side`` 0 is fp32."""
        assert suite.corpus is not None
        found = (self.golden, self.candidate)[side]
        return {q: suite.corpus.documents_of(found[q])[:DEPTH].tolist() for q in judged}


def _prepared(queries: Floats, similarity: Similarity) -> tuple[Floats, Similarity]:
    """Queries, and what ranks documents as they are kept: of unit length, cosine is their inner product."""
    return (unit(queries), DOT) if similarity is COSINE else (queries, similarity)


def search(
    suite: Suite, queries: Floats, documents: VectorFile, similarity: Similarity = COSINE, fleet: Fleet | None = None
) -> tuple[NDArray[np.int64], Rows]:
    """The best :data:`DEPTH` rows for each query, in float64.

    Args:
        suite: A large suite.
        queries: float32 (queries, dim).
        documents: Vectors of all rows, of unit length where they are ranked by cosine.
        similarity: What the model ranks by.
        fleet: Who searches; by default this process. The result is the same.

    Returns:
        Rows (queries, k) and scores (queries, k).
    """
    with progress(f"searching {documents.rows} documents of {suite.name}", documents.rows, after=2.0) as advance:
        searched, ranked = _prepared(queries, similarity)
        if fleet is not None:
            return sharded(fleet, searched, documents, min(DEPTH, documents.rows), advance, ranked)
        return top_k(searched, documents, min(DEPTH, documents.rows), advance=advance, similarity=ranked)
