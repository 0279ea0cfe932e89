"""The standard error of a metric: how far its value would move with other texts of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qguard.metrics import Comparison, Rows, family

RESAMPLES = 500
SEED = 0
Z = 1.959964  # of a two-sided interval of 95 %


def standard_error(rows: Rows, reduce: Callable[[Rows], Any]) -> float:
    """Bootstrap standard error (Efron 1979): standard deviation of the metric over resampled rows; the same in every run.

    Args:
        rows: (n, columns), one row an item.
        reduce: Rows to a number.

    Returns:
        At least 0, in the metric's unit; resamples without a finite value are left out.
    """
    draw = np.random.default_rng(SEED)
    n = len(rows)
    values = np.asarray([float(reduce(rows[draw.integers(0, n, n)])) for _ in range(RESAMPLES)])
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def paired_standard_error(a: Rows, b: Rows, reduce: Callable[[Rows], Any]) -> float:
    """Standard error of ``reduce(b) - reduce(a)`` where row i of both is the same item.

    Args:
        a: (n, columns).
        b: (n, columns), the same items in the same order.
        reduce: Rows to a number.
    """
    width = a.shape[1]
    return standard_error(np.hstack((a, b)), lambda r: reduce(r[:, width:]) - reduce(r[:, :width]))


def standard_errors(comparison: Comparison, name: str) -> dict[str, float]:
    """Metric → standard error of its value over the whole suite, of one metric family."""
    find, metrics = family(name)
    rows = find(comparison).rows
    return {
        m.name: standard_error(rows, m.reduce)
        for m in metrics
        if comparison.kind in m.vectors and len(rows) >= m.min_items
    }  # fmt: skip
