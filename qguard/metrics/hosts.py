"""How far two hosts differ that run one artifact: their vectors, their neighbors, and a fleet of both.

In a mixed fleet a query is encoded by whichever host is free, and documents were encoded by another. So besides each host's own
neighbors, each host's queries search the documents of the other, and what they find is held against fp32.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from qguard.metrics import Items, Measured, Metric, Rows
from qguard.metrics.bootstrap import seed_of, uncertainty
from qguard.metrics.ranking import K, best_first
from qguard.metrics.statistics import Mean, Quantile, Share
from qguard.vectors.cosine import cosine
from qguard.vectors.hosts import HostVectors
from qguard.vectors.quantized import FLOAT
from qguard.vectors.similarity import SIMILARITIES

_COSINE, _SHARE = "cosine in [-1, 1]", "share in [0, 1]"


def _metric(name: str, reduce: Any, unit: str, what: str, worst: Any = None) -> Metric:
    name = f"hosts.{name}"
    return Metric(
        name, reduce, higher_is_better=True, unit=unit, source="qguard", description=what, vectors=(FLOAT,), worst=worst
    )


def _lost(rows: Rows) -> Rows:
    return 1 - rows[:, 0]


VECTORS = (
    _metric("cosine_p01", Quantile(0, 0.01), _COSINE, "cosine of a text's vectors on both hosts; 1 % of the texts fall below"),
    _metric("cosine_min", Quantile(0, 0), _COSINE, "the lowest cosine of a text's vectors on both hosts", _lost),
)
OVERLAP = f"hosts.overlap@{K}"
_MIXED, _REVERSED = "the first host's queries, the other's documents", "the other's queries, the first host's documents"
NEIGHBOURS = (
    _metric(f"overlap@{K}", Mean(0, best=1.0), _SHARE, f"share of a text's {K} nearest neighbors that both hosts have", _lost),
    _metric("top1", Share(1), _SHARE, "share of the texts whose nearest neighbor is the same on both hosts"),
    _metric(f"mixed_overlap@{K}", Mean(2, best=1.0), _SHARE, f"as ranking.overlap@{K}: {_MIXED}"),
    _metric("mixed_top1", Share(3), _SHARE, f"as ranking.top1: {_MIXED}"),
    _metric(f"reversed_overlap@{K}", Mean(4, best=1.0), _SHARE, f"as ranking.overlap@{K}: {_REVERSED}"),
    _metric("reversed_top1", Share(5), _SHARE, f"as ranking.top1: {_REVERSED}"),
)
METRICS = (*VECTORS, *NEIGHBOURS)
# the value of a precision whose gate holds for one of these
LIKE = {
    "hosts.cosine_p01": "embedding.cosine_p01", "hosts.cosine_min": "embedding.cosine_min",
    **{f"hosts.{name}overlap@{K}": f"ranking.overlap@{K}" for name in ("", "mixed_", "reversed_")},
    **{f"hosts.{name}top1": "ranking.top1" for name in ("", "mixed_", "reversed_")},
}  # fmt: skip


def compared(a: HostVectors, b: HostVectors) -> list[Measured]:
    """Every value of two hosts' vectors of one suite."""
    near = cosine(a.vectors, b.vectors)
    vectors = Items(near[:, None], (None,) * len(near), lambda i: f"cosine {near[i]:.4f}  text {i}")
    own = [_found(x, x) for x in (a, b)]
    k = own[0].shape[1]
    gold = a.neighbours[:, :k]
    pairs = [(own[0], own[1]), (gold, _found(a, b)), (gold, _found(b, a))]
    rows = np.stack([column for pair in pairs for column in _agreement(*pair)], axis=1).astype(np.float64)

    def label(i: int) -> str:
        return f"overlap {rows[i, 0]:.1f}  text {int(a.searchers[i])}"

    neighbours = Items(rows, (None,) * len(rows), label)
    return [*_measured(vectors, VECTORS, a), *_measured(neighbours, NEIGHBOURS, a)]


def _agreement(gold: Any, found: Any) -> tuple[Any, Any]:
    return (found[:, :, None] == gold[:, None, :]).any(2).mean(1), found[:, 0] == gold[:, 0]


def _found(queries: HostVectors, documents: HostVectors) -> Any:
    """The places of what one host's texts find among the other's documents but themselves, (q, k)."""
    kind = SIMILARITIES[queries.facts["similarity"]]
    asked, searched = kind.prepared(queries.vectors[queries.searchers]), kind.prepared(documents.vectors[documents.documents])
    scores: Rows = kind.scores(asked, searched)
    scores[queries.searchers[:, None] == documents.documents[None, :]] = -np.inf
    return best_first(scores, queries.neighbours.shape[1])


def _measured(items: Items, metrics: tuple[Metric, ...], host: HostVectors) -> list[Measured]:
    """As :func:`qguard.metrics.reduced`, without a suite: its hash is in the file."""
    seed = seed_of(host.facts["suite_sha256"], "hosts", None)
    found = []
    for metric in metrics:
        badness = None if metric.worst is None else metric.worst(items.rows)
        order = [] if badness is None else [int(i) for i in np.argsort(-badness, kind="stable")[:5] if badness[i] > 0]
        value, lines = float(metric.reduce(items.rows)), tuple(map(items.label, order))
        spread = cache(partial(uncertainty, metric.reduce, items.rows, seed, "texts"))
        found.append(Measured(metric.name, None, value, len(items.rows), True, lines, uncertainty=spread, noun="texts"))
    return found
