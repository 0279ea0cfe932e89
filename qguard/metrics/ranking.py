"""Which neighbors each text finds, against those it found in fp32.

Every text of the suite searches the suite's documents (all texts, where it has no retrieval part); a text never finds
itself. Of models that encode a query otherwise than a document, queries alone search. Neighbors are by the similarity that the
model declares. Ties are broken by document order, in golden and candidate alike.

Quantized vectors are searched as they are stored, and once more with rescoring: the best :data:`RESCORE_MULTIPLIER` × k of
that search, ordered anew by the float32 query against the dequantized documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.neighbours import Neighbours
from qguard.metrics.statistics import Mean, Ratio, Share
from qguard.suites import Suite
from qguard.vectors.quantized import KINDS, RESCORE_MULTIPLIER
from qguard.vectors.similarity import DOT, Similarity

K = 10
MARGIN = 0.02  # golden gaps below this, on the scale of cosines, are ties to a person; their flips are not inversions
RBO_P = 0.9


def top_k(queries: Rows, documents: Rows, k: int, exclude_self: bool = False, similarity: Similarity = DOT) -> tuple[Any, Rows]:
    """Exact top ``k`` in float64; ties by document order.

    Args:
        queries: (q, dim). documents: (d, dim), both prepared for the similarity. k: At most ``d``.
        exclude_self: Leave out document ``i`` for query ``i``.
        similarity: What ranks.

    Returns:
        Indices (q, k) and scores (q, k), best first.
    """
    scores = similarity.scores(queries, documents)
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    order = best_first(scores, k)
    return order, np.take_along_axis(scores, order, 1)


def best_first(scores: Rows, k: int) -> Any:
    """The places (q, k) of the greatest of scores (q, d), best first; ties by place. Where ``d < k``, all d of them."""
    k = min(k, scores.shape[1])
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    query, place = np.nonzero(scores >= least)  # k of each query and what ties with the last, by query and place
    order = np.lexsort((-scores[query, place], query))
    first = np.searchsorted(query, np.arange(len(scores)))
    return place[order][first[:, None] + np.arange(k)]


def documents_of(suite: Suite) -> Any:
    """The texts that are searched, by index (d,): the documents, of equal ones the first; all texts where there are none.

    Raises:
        MeasurementProblem: for fewer than two.
    """
    documents = np.asarray(list(dict.fromkeys(suite.documents)) or range(len(suite.texts)))
    if len(documents) < 2:
        raise MeasurementProblem(f"ranking needs at least two documents, found {len(documents)}")
    return documents


def scored(c: Comparison, queries: Sequence[int] | None = None) -> tuple[Any, list[Rows]]:
    """What each text's search sees: of equal documents the first, and -inf where a text would find itself.

    Args:
        c: Of a suite whose documents are all held.
        queries: The texts that search, by index; ``None`` for all.

    Returns:
        The documents' texts, by index (d,), and the scores (q, d) of golden, candidate and, of quantized vectors, rescoring.

    Raises:
        MeasurementProblem: for fewer than two documents.
    """
    texts, documents = len(c.suite.texts), documents_of(c.suite)
    own = np.full(texts, -1)
    own[documents] = np.arange(len(documents))
    chosen: Any = slice(None) if queries is None else np.asarray(queries)
    itself = np.flatnonzero(own[chosen] >= 0)
    golden, candidate = c.prepared
    scores = [c.similarity.scores(golden[chosen], golden[documents])]
    if c.vectors is None:
        scores += [c.similarity.scores(candidate[chosen], candidate[documents])]
    else:
        some = None if queries is None else chosen
        scores += [c.vectors.scores(documents, some), c.vectors.rescores(documents, some)]
    for s in scores:
        s[itself, own[chosen][itself]] = -np.inf
    return documents, scores


def items(c: Comparison) -> Items:
    """Per text: overlap@10, top-1 agreement, RBO, nDCG@10, flipped and clear pairs; with rescoring the first four again."""
    if c.neighbours is not None:
        return _of_queries(c, c.neighbours)
    documents, scores = c.searched
    texts = np.arange(len(c.suite.texts)) if c.searchers is None else c.searchers
    k = min(K, len(documents) - 1)
    gold, found = best_first(scores[0], k), best_first(scores[1], k)
    columns = agreement(gold, found)
    before, after = (np.take_along_axis(s, gold, 1) for s in scores[:2])
    columns += flipped(c.relative(before, texts), after)
    if c.vectors is not None:
        retrieved = best_first(scores[1], min(RESCORE_MULTIPLIER * k, len(documents) - 1))
        rescored = np.full_like(scores[2], -np.inf)
        np.put_along_axis(rescored, retrieved, np.take_along_axis(scores[2], retrieved, 1), 1)
        columns += agreement(gold, best_first(rescored, k))
    rows = np.stack(columns, axis=1).astype(np.float64)

    def label(i: int) -> str:
        was, now = c.suite.texts[documents[gold[i, 0]]][:40], c.suite.texts[documents[found[i, 0]]][:40]
        first = f"first stays {was!r}" if was == now else f"first was {was!r}, is {now!r}"
        return f"overlap {rows[i, 0]:.1f}  {c.suite.texts[texts[i]][:50]!r}: {first}"

    return Items(rows, tuple(c.suite.slices[i] for i in texts), label, "texts" if c.searchers is None else "queries")


def _of_queries(c: Comparison, found: Neighbours) -> Items:
    """The same six columns per query of a large suite."""
    corpus = c.suite.corpus
    assert corpus is not None
    k = min(K, found.golden.shape[1])
    gold, now = found.golden[:, :k], found.candidate[:, :k]
    columns = agreement(gold, now) + flipped(c.relative(found.golden_scores[:, :k]), found.rescored[:, :k])
    rows = np.stack(columns, axis=1).astype(np.float64)

    def label(i: int) -> str:
        was, is_ = (corpus.id(int(corpus.documents_of(ids[i, :1])[0])) for ids in (gold, now))
        first = f"first stays {was!r}" if was == is_ else f"first was {was!r}, is {is_!r}"
        return f"overlap {rows[i, 0]:.1f}  {c.suite.texts[c.suite.queries[i]][:50]!r}: {first}"

    return Items(rows, tuple(c.suite.slices[q] for q in c.suite.queries), label, "queries")


def flipped(gold: Rows, candidate: Rows) -> list[Any]:
    """Pairs whose order flips, and clear pairs, each (q,); of both sides' scores of golden's neighbors, (q, k).

    Those of golden are on the scale of cosines; of the candidate's only the order counts.
    """
    clear = gold[:, :, None] - gold[:, None, :] > MARGIN
    changed = clear & (candidate[:, :, None] < candidate[:, None, :])
    return [changed.sum((1, 2)), clear.sum((1, 2))]


def agreement(gold: Any, found: Any) -> list[Any]:
    """Per query (q, k) of document indices: overlap, top-1 agreement, RBO and nDCG, each (q,) in [0, 1]."""
    k = gold.shape[1]
    depth = np.arange(1, k + 1)
    same = found[:, :, None] == gold[:, None, :]
    # agreement at every depth d: size of the intersection of both prefixes, over d
    prefix = np.cumsum(np.cumsum(same, axis=1), axis=2)[:, depth - 1, depth - 1] / depth
    weight = RBO_P ** (depth - 1)
    rbo = (prefix * weight).sum(1) / weight.sum()  # RBO (Webber et al. 2010) truncated at k, scaled to reach 1
    gain = np.where(same.any(2), k - same.argmax(2), 0)  # golden's best is worth k, its k-th 1
    discount = 1 / np.log2(depth + 1)
    ndcg = (gain * discount).sum(1) / ((k + 1 - depth) * discount).sum()
    return [same.any(2).mean(1), gold[:, 0] == found[:, 0], rbo, ndcg]


# share of clearly ordered golden pairs (gap over MARGIN) whose order flips; 0 where none is clear
_INVERSIONS = Ratio(Mean(4), Mean(5), empty=0.0)
_SHARE, _RBO, _NDCG = "share in [0, 1]", "score in [0, 1]", "score in [0, 1]"
_FROM_RBO = f"Webber, Moffat and Zobel 2010, p = {RBO_P}, cut at {K} and scaled to reach 1"
_FROM_NDCG = f"Jaervelin and Kekaelaeinen 2002; the gain of fp32's neighbors falls from {K} to 1"
METRICS = (
    Metric(
        f"ranking.overlap@{K}", Mean(0, best=1.0), higher_is_better=True, unit=_SHARE, source="qguard",
        description=f"share of a text's {K} nearest fp32 neighbors that it still finds",
        worst=lambda r: 1 - r[:, 0] + 0.1 * (1 - r[:, 1]),
    ),
    Metric(
        "ranking.top1", Share(1), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of the texts whose nearest neighbor is still that of fp32",
    ),
    Metric(
        "ranking.rbo", Mean(2, best=1.0), higher_is_better=True, unit=_RBO, source=_FROM_RBO,
        description="rank-biased overlap with fp32's neighbors: places near the top weigh more",
    ),
    Metric(
        f"ranking.ndcg@{K}", Mean(3, best=1.0), higher_is_better=True, unit=_NDCG, source=_FROM_NDCG,
        description="nDCG with fp32's own neighbors as the ideal order",
    ),
    Metric(
        "ranking.inversions", _INVERSIONS, higher_is_better=False, unit=_SHARE, source="qguard",
        description=f"share of the pairs of fp32 neighbors at least {MARGIN} apart whose order flips",
    ),
    Metric(
        f"ranking.rescored_overlap@{K}", Mean(6, best=1.0), higher_is_better=True, unit=_SHARE, source="qguard", vectors=KINDS,
        description="as ranking.overlap@10, after rescoring",
    ),
    Metric(
        "ranking.rescored_top1", Share(7), higher_is_better=True, unit=_SHARE, source="qguard", vectors=KINDS,
        description="as ranking.top1, after rescoring",
    ),
    Metric(
        "ranking.rescored_rbo", Mean(8, best=1.0), higher_is_better=True, unit=_RBO, source=_FROM_RBO, vectors=KINDS,
        description="as ranking.rbo, after rescoring",
    ),
    Metric(
        f"ranking.rescored_ndcg@{K}", Mean(9, best=1.0), higher_is_better=True, unit=_NDCG, source=_FROM_NDCG, vectors=KINDS,
        description="as ranking.ndcg@10, after rescoring",
    ),
)  # fmt: skip
