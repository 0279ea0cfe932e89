"""A metric family: which texts are the neighbors of many others."""

from __future__ import annotations

import numpy as np

from qguard import Comparison, Family, Items, Metric, Spearman

K = 10


def _occurrences(units: np.ndarray) -> np.ndarray:
    """How often each of n texts is among the K nearest of the others: (n,) in [0, n - 1]."""
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, : min(K, len(units) - 1)]
    return np.bincount(nearest.ravel(), minlength=len(units)).astype(np.float64)


def parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    rows = np.stack([_occurrences(u) for u in c.units], axis=1)
    label = "{:.0f} → {:.0f}  {!r}".format
    return [(Items(rows, c.suite.slices, lambda i: label(*rows[i], c.suite.texts[i][:60])), METRICS)]


METRICS = (
    Metric(
        "hubs.spearman", Spearman(0, 1), higher_is_better=True, unit="correlation in [-1, 1]", min_items=3,
        description=f"rank correlation with fp32 of how often a text is among the {K} nearest of others",
        source="k-occurrence of Radovanovic et al. 2010",
        worst=lambda r: np.abs(r[:, 1] - r[:, 0]),
    ),
)  # fmt: skip

FAMILY = Family(
    name="hubs",
    question="Are the texts that many others find still the same?",
    test="test_hubs",
    needs=("vectors",),
    metrics=METRICS,
    bounds={"hubs.spearman": ">= 0.6"},
    parts=parts,
)
