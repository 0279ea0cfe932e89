"""How far the similarity of each pair moved."""

from __future__ import annotations

import numpy as np

from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.vectors import FLOAT, SCALAR

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


def items(c: Comparison) -> Items:
    """Per pair: golden and candidate cosine, each in [-1, 1].

    A suite without pairs is measured on each text with the next one, so that its similarities are still compared.
    """
    pairs = [(p.a, p.b, p.slice) for p in c.suite.pairs]
    if not pairs:
        pairs = [(i, i + 1, c.suite.slices[i]) for i in range(len(c.suite.texts) - 1)]
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    rows = np.stack([(u[a] * u[b]).sum(1) for u in c.units], axis=1).reshape(-1, 2)

    def label(i: int) -> str:
        left, right = c.suite.texts[a[i]][:45], c.suite.texts[b[i]][:45]
        return f"{rows[i, 0]:.3f} → {rows[i, 1]:.3f}  {left!r} | {right!r}"

    return Items(rows, tuple(p[2] for p in pairs), label)


def _error(r: Rows) -> Rows:
    return np.abs(r[..., 1] - r[..., 0])


def _ranks(values: Rows) -> Rows:
    """Ranks from 1 along the last axis; equal values share the mean of theirs."""
    order = values.argsort(-1)
    ordered = np.take_along_axis(values, order, -1)
    at = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    starts = np.ones(values.shape, bool)  # of a run of equal values
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=starts[..., 1:])
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = starts[..., 1:]
    first = np.maximum.accumulate(np.where(starts, at, 0), -1)
    last = np.minimum.accumulate(np.where(ends, at, values.shape[-1])[..., ::-1], -1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return ranks


def _spearman(r: Rows) -> Rows:
    """Spearman's rho with mean ranks for ties, equal to ``scipy.stats.spearmanr`` (a test holds it to that); NaN of constants.

    Importing ``scipy.stats`` takes as long as encoding hundreds of texts.
    """
    a, b = _ranks(r[..., 0]), _ranks(r[..., 1])
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray(np.divide((a * b).sum(-1), norm, out=np.full_like(norm, np.nan), where=norm > 0), np.float64)


def _flips(r: Rows) -> Rows:
    """Share of (pair, threshold) decisions ``cosine >= threshold`` that change, over :data:`THRESHOLDS`."""
    t = np.asarray(THRESHOLDS)
    return np.asarray(((r[..., :1] >= t) != (r[..., 1:] >= t)).mean((-2, -1)), np.float64)


# the cosine of bits lies on another scale: their order can be compared, their values cannot
_SCALE = (FLOAT, *SCALAR)
METRICS = (
    Metric("similarity.spearman", _spearman, True, min_items=3),
    Metric("similarity.max_error", lambda r: _error(r).max(-1), False, worst=_error, vectors=_SCALE),
    Metric("similarity.p99_error", lambda r: np.quantile(_error(r), 0.99, axis=-1), False, vectors=_SCALE),
    Metric("similarity.bias", lambda r: np.abs((r[..., 1] - r[..., 0]).mean(-1)), False, vectors=_SCALE),
    Metric("similarity.threshold_flips", _flips, False, vectors=_SCALE),
)
