"""A mixed index: queries of one precision search documents of another.

A team quantizes the encoder of queries and does not embed its documents again, or the other way round. The vectors of both sides
are the suite's own, so no store is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.ranking import K, best_first
from qguard.metrics.statistics import Mean, Share
from qguard.vectors.quantized import FLOAT


def parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """Per text: overlap@10 and top-1 agreement of the candidate's queries in fp32's documents, and of fp32's queries in the
    candidate's documents. Nothing for quantized vectors, which are searched by codes, for other kinds than dense models, and for
    large suites, whose fp32 documents are not kept.
    """
    if c.vectors is not None or c.neighbours is not None or c.similarity.of_outputs:
        return []
    documents, scores = c.searched
    k = min(K, len(documents) - 1)
    gold = best_first(scores[0], k)
    fp32, candidate = c.prepared
    sides = [_agreement(gold, _found(c, q, d, documents, k)) for q, d in ((candidate, fp32), (fp32, candidate))]
    rows = np.stack([column for side in sides for column in side], axis=1).astype(np.float64)

    def label(i: int) -> str:
        return f"overlap {rows[i, 0]:.1f}, reversed {rows[i, 2]:.1f}  {c.suite.texts[i][:60]!r}"

    return [(Items(rows, c.suite.slices, label), METRICS)]


def _found(c: Comparison, queries: Rows, documents: Rows, places: Any, k: int) -> Any:
    """What each text finds but itself; see :func:`qguard.metrics.ranking.scored`."""
    scores = c.similarity.scores(queries, documents[places])
    scores[places, np.arange(len(places))] = -np.inf
    return best_first(scores, k)


def _agreement(gold: Any, found: Any) -> tuple[Any, Any]:
    return (found[:, :, None] == gold[:, None, :]).any(2).mean(1), found[:, 0] == gold[:, 0]


def _metric(name: str, reduce: Any, what: str) -> Metric:
    name = f"ranking.mixed_{name}"
    return Metric(
        name, reduce, higher_is_better=True, unit="share in [0, 1]", source="qguard", description=what, vectors=(FLOAT,)
    )


METRICS = (
    _metric(f"overlap@{K}", Mean(0, best=1.0), f"as ranking.overlap@{K}, of the candidate's queries in fp32's documents"),
    _metric("top1", Share(1), "as ranking.top1, of the candidate's queries in fp32's documents"),
    _metric(
        f"reversed_overlap@{K}", Mean(2, best=1.0), f"as ranking.overlap@{K}, of fp32's queries in the candidate's documents"
    ),
    _metric("reversed_top1", Share(3), "as ranking.top1, of fp32's queries in the candidate's documents"),
)
