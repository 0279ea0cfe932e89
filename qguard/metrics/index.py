"""What an index does to a search: named numbers of :mod:`qguard.judging.index`, and what each must hold."""

from __future__ import annotations

from qguard.metrics import Metric, MetricInfo
from qguard.metrics.agreement import Retention
from qguard.metrics.bounds import Bound
from qguard.metrics.statistics import Mean, Share
from qguard.vectors.quantized import BINARY, FLOAT, SCALAR

_VECTORS = (FLOAT, *SCALAR, *BINARY)
_SHARE, _SECONDS, _MS = "share in [0, 1]", "seconds", "milliseconds"


def _info(name: str, better: bool, unit: str, description: str) -> MetricInfo:
    return MetricInfo(
        f"index.{name}", higher_is_better=better, unit=unit, description=description, source="qguard", vectors=_VECTORS
    )


_RECALL = "share of the exact neighbors that are found; equal scores are a set (Aumueller, Bernhardsson and Faithfull 2020)"
RECALL, OVERLAP, HITS = QUERIES = (
    Metric(
        "index.recall@10", Mean(0, best=1.0), higher_is_better=True, unit=_SHARE, source=_RECALL,
        description="share of the 10 exact neighbors among the same stored vectors that the index finds",
        worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "index.overlap@10", Mean(1, best=1.0), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of a query's 10 nearest fp32 neighbors that the index finds", worst=lambda r: 1 - r[:, 1],
    ),
    Metric(
        "index.hits", Share(2), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of the queries that come back with as many hits as were asked for",
    ),
)  # fmt: skip
RETAINED = Metric(
    "index.ndcg@10_retention", Retention(Mean(1), Mean(0)), higher_is_better=True, unit="ratio", source="trec_eval ndcg_cut_10",
    description="share of fp32's nDCG@10 that is kept by the index's answers",
)  # fmt: skip
FILTERED, FILTERED_HITS = FILTERS = (
    Metric(
        "index.filter_recall", Mean(0, best=1.0), higher_is_better=True, unit=_SHARE, source=_RECALL,
        description="as index.recall@10, under a filter that a share of the rows meets", worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "index.filter_hits", Share(1), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of the queries that come back with all hits that exist under a filter",
    ),
)  # fmt: skip
METRIC_FIT = _info("metric_fit", True, _SHARE, "share of the 10 nearest fp32 neighbors that an exact search by the metric finds")
STALE = Metric(
    "index.stale", Share(0), higher_is_better=False, unit=_SHARE, source="qguard",
    description="share of an existing collection's documents whose vector is not that of their text: cosine to fp32's below .9",
    worst=lambda r: 1 - r[:, 1],
)  # fmt: skip
SCORE_ERROR = _info("score_error", False, "relative error, 0 or more", "largest distance of a score from the exact one")
P50 = _info("p50", False, _MS, "median time of a search for one query, as the client sees it")
P95 = _info("p95", False, _MS, "95th percentile of the times of a search for one query")
BUILD = _info("build", False, _SECONDS, "time to build the index, without the time to insert rows")
BYTES = _info("bytes", False, "bytes", "bytes of the index with its rows")
METRICS = (*QUERIES, RETAINED, *FILTERS, STALE, METRIC_FIT, SCORE_ERROR, P50, P95, BUILD, BYTES)

# .95 is where teams set an approximate index's parameters; a filter makes graphs and lists miss more, and one neighbor in ten is
# then what a user may lose. A query that comes back short is a page with a hole, whatever its recall. A metric that fits ranks
# vectors as the model's own similarity does, but for neighbors whose scores are equal to float32's rounding.
LEAST_RECALL = 0.95
BOUNDS = {
    RECALL.name: Bound(">=", LEAST_RECALL),
    HITS.name: Bound(">=", 1),
    FILTERED.name: Bound(">=", 0.9),
    FILTERED_HITS.name: Bound(">=", 1),
    METRIC_FIT.name: Bound(">=", 0.999),
    STALE.name: Bound("<=", 0),
}
# what an index that promises every neighbor must hold besides
EXACT = {RECALL.name: Bound(">=", 1), FILTERED.name: Bound(">=", 1)}
# the bound of the precision that the loss of the index is added to
DERIVED = {OVERLAP.name: "ranking.overlap@10", RETAINED.name: "task.ndcg@10_retention"}
