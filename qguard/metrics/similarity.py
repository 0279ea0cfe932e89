"""How far the similarity of each pair moved."""

from __future__ import annotations

import numpy as np

from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.statistics import Absolute, Mean, Quantile, Spearman
from qguard.suites import Suite
from qguard.vectors.quantized import FLOAT, SCALAR

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


def pairs_of(suite: Suite) -> list[tuple[int, int, str | None]]:
    """Both texts of each pair that is compared, by index, and its slice.

    A suite without pairs is measured on each text with the next one, so that its similarities are still compared.
    """
    pairs = [(p.a, p.b, p.slice) for p in suite.pairs]
    return pairs or [(i, i + 1, suite.slices[i]) for i in range(len(suite.texts) - 1)]


def items(c: Comparison) -> Items:
    """Per pair of :func:`pairs_of`: golden and candidate score, each on the scale of cosines."""
    pairs = pairs_of(c.suite)
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    rows = np.stack([c.relative(c.similarity.pairs(v[a], v[b]), a) for v in c.prepared], axis=1).reshape(-1, 2)

    def label(i: int) -> str:
        left, right = c.suite.texts[a[i]][:45], c.suite.texts[b[i]][:45]
        return f"{rows[i, 0]:.3f} → {rows[i, 1]:.3f}  {left!r} | {right!r}"

    return Items(rows, tuple(p[2] for p in pairs), label, "pairs")


def _error(r: Rows) -> Rows:
    return np.abs(r[..., 1] - r[..., 0])


def _moved(r: Rows) -> Rows:
    return np.asarray(r[..., 1] - r[..., 0], np.float64)


def _flips(r: Rows) -> Rows:
    """Share of the decisions ``score >= threshold`` that change, over :data:`THRESHOLDS`."""
    t = np.asarray(THRESHOLDS)
    return np.asarray(((r[..., :1] >= t) != (r[..., 1:] >= t)).mean(-1), np.float64)


# the cosine of bits lies on another scale: their order can be compared, their values cannot
_SCALE = (FLOAT, *SCALAR)
# scores without a range are brought to the scale of cosines, where gates and thresholds mean the same for every similarity
_DIFFERENCE = "difference on the scale of cosines, 0 or more"
METRICS = (
    Metric(
        "similarity.spearman", Spearman(0, 1), higher_is_better=True, unit="correlation in [-1, 1]",
        source="Spearman 1904, mean ranks for ties, as scipy.stats.spearmanr", min_items=3,
        description="rank correlation of the pairs' similarities with those of fp32",
    ),
    Metric(
        "similarity.max_error", Quantile(_error, 1), higher_is_better=False, unit=_DIFFERENCE, source="qguard",
        description="the largest change of a pair's similarity", worst=_error, vectors=_SCALE,
    ),
    Metric(
        "similarity.p99_error", Quantile(_error, 0.99), higher_is_better=False, unit=_DIFFERENCE,
        source="numpy.quantile, linear", description="the change that 1 % of the pairs exceed", vectors=_SCALE,
    ),
    Metric(
        "similarity.bias", Absolute(Mean(_moved)), higher_is_better=False, unit=_DIFFERENCE, source="qguard",
        description="size of the mean change of the pairs' similarities: a shift that breaks fixed thresholds", vectors=_SCALE,
    ),
    Metric(
        "similarity.threshold_flips", Mean(_flips, best=0.0), higher_is_better=False, unit="share in [0, 1]", source="qguard",
        description=f"share of the decisions 'similarity >= {', '.join(map(str, THRESHOLDS))}' that change", vectors=_SCALE,
    ),
)  # fmt: skip
