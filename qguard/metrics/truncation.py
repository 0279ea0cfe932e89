"""What fewer dimensions cost, told apart from what quantization costs.

``truncation.METRIC`` is fp32 cut to the precision's dimensions against whole fp32: the loss by truncation alone.
``truncation.total_METRIC`` is the candidate against whole fp32: both losses. The other families compare the candidate with fp32
cut alike: the loss by quantization alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qguard.metrics import Comparison, Items, Metric, ranking, similarity, task
from qguard.metrics.statistics import Mean
from qguard.vectors.multi_vector import StoredTokens
from qguard.vectors.quantized import FLOAT, KINDS

_Parts = list[tuple[Items, tuple[Metric, ...]]]
ALONE, TOTAL = "truncation.", "truncation.total_"
OVERLAP = (f"{ALONE}overlap@10", f"{TOTAL}overlap@10")  # by fewer dimensions alone, and in all
# of each family the metrics that say what users notice, and that vectors of two lengths have
_CHOSEN = (
    "ranking.overlap@10", "ranking.top1", "ranking.rescored_overlap@10", "similarity.spearman", "similarity.p99_error",
    "similarity.bias", "task.spearman_retention", "task.average_precision_retention", "task.ndcg@10_retention",
)  # fmt: skip
_OF_OTHERS = tuple(m for m in (*ranking.METRICS, *similarity.METRICS, *task.METRICS) if m.name in _CHOSEN)


def _named(metric: Metric, prefix: str) -> Metric:
    """A family's metric under the name that it has here."""
    what = "both losses: the candidate" if prefix == TOTAL else "fp32 cut to the precision's dimensions"
    words = f"{what} against whole fp32: {metric.description}"
    kinds = metric.vectors if prefix == TOTAL else (FLOAT, *KINDS)  # fp32 is compared with itself, however vectors are stored
    name = prefix + metric.name.partition(".")[2]
    return replace(metric, name=name, description=words, vectors=kinds, of_fp32=prefix == ALONE)


SIZE = Metric(
    "truncation.size_ratio", Mean(0), higher_is_better=False, unit="ratio of bytes", source="qguard",
    description="bytes of a stored vector over those of a whole float32 vector",
)  # fmt: skip
METRICS = (
    SIZE,
    *(_named(m, ALONE) for m in _OF_OTHERS if m.vectors != KINDS),  # fp32 is not rescored
    *(_named(m, TOTAL) for m in _OF_OTHERS),
)
_BY_NAME = {m.name: m for m in METRICS}


def parts(c: Comparison) -> _Parts:
    """Rows and metrics of a precision with fewer dimensions; none of any other."""
    if c.whole is None or isinstance(c.vectors, StoredTokens):
        return []
    stored = c.candidate.shape[1] * 4 if c.vectors is None else c.vectors.codes.nbytes // len(c.vectors.codes)
    ratio = stored / (c.whole.shape[1] * 4)
    size = Items(np.full((len(c.whole), 1), ratio), c.suite.slices, lambda i: f"{stored} bytes")
    found: _Parts = [(size, (SIZE,))]
    cut = replace(c, golden=c.whole, candidate=c.golden, vectors=None, whole=None)
    both = replace(c, golden=c.whole, whole=None)
    for compared, prefix in ((cut, ALONE), (both, TOTAL)):
        of_families = [
            (ranking.items(compared), ranking.METRICS),
            (similarity.items(compared), similarity.METRICS),
            *task.labelled_items(compared),
        ]
        for items, metrics in of_families:
            chosen = [_BY_NAME.get(prefix + m.name.partition(".")[2]) for m in metrics if m.name in _CHOSEN]
            found.append((items, tuple(m for m in chosen if m is not None)))
    return found
