"""Measures of one query's ranking against judgments, equal to trec_eval's to the last bit (Buckley; tests compare them)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

CUT = 10  # documents that nDCG, recall and MRR look at
MEASURES = ("ndcg@10", "recall@10", "mrr@10", "map")


def measured(ranking: Sequence[int], judged: Mapping[int, float]) -> tuple[float, ...]:
    """The :data:`MEASURES` of a ranking, each in [0, 1].

    Args:
        ranking: Documents, best first, each at most once.
        judged: Document → grade, a whole number. A grade above 0 is relevant, and is the gain of nDCG; what is not judged is not
            relevant.

    Returns:
        nDCG (``ndcg_cut_10``), recall (``recall_10``), reciprocal rank of the first relevant document (``recip_rank``, here 0
        beyond rank 10) and average precision over the whole ranking (``map``). All are 0 where nothing is relevant.
    """
    relevant = {document: int(grade) for document, grade in judged.items() if grade > 0}
    if not relevant:
        return (0.0,) * len(MEASURES)
    hits = [(rank, relevant[document]) for rank, document in enumerate(ranking, 1) if document in relevant]
    first = [hit for hit in hits if hit[0] <= CUT]
    ideal = list(enumerate(sorted(relevant.values(), reverse=True)[:CUT], 1))
    return (
        _gain(first) / _gain(ideal),
        len(first) / len(relevant),
        1 / first[0][0] if first else 0.0,
        sum(found / rank for found, (rank, _) in enumerate(hits, 1)) / len(relevant),
    )


def _gain(hits: Sequence[tuple[int, int]]) -> float:
    """Discounted cumulative gain (Jaervelin and Kekaelaeinen 2002) of ranks and grades."""
    return sum(grade / math.log2(rank + 1) for rank, grade in hits)
