"""How well scores agree with labels, beside :class:`~qguard.metrics.statistics.Spearman`: statistics of rows, ties included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qguard.metrics.statistics import Ratio, Rows, Values, _centred, _correlation, _runs, values_of


@dataclass(frozen=True)
class Pearson:
    """Pearson's r of two values a row, equal to ``scipy.stats.pearsonr``; NaN of constants."""

    a: Values
    b: Values

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`~qguard.metrics.statistics.Statistic`."""
        x, y = (_centred(values_of(rows, v)) for v in (self.a, self.b))
        return _correlation((x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1))

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`~qguard.metrics.statistics.Statistic`."""
        n = counts.sum(0)
        x, y = (_centred(values_of(rows, v)) for v in (self.a, self.b))  # near the samples' means, so that sums keep digits
        mx, my = x @ counts / n, y @ counts / n
        xy, xx, yy = ((p @ counts) - n * m for p, m in ((x * y, mx * my), (x * x, mx * mx), (y * y, my * my)))
        return _correlation(xy, np.maximum(xx, 0), np.maximum(yy, 0))


@dataclass(frozen=True)
class AveragePrecision:
    """Mean over the positive rows of the precision among all rows that score at least as high; NaN without positive rows.

    Equal to ``sklearn.metrics.average_precision_score``: rows of equal score count together.

    Attributes:
        label: Above 0 for a positive row.
        score: What rows are ranked by, best first.
    """

    label: Values
    score: Values

    def __call__(self, rows: Rows) -> Rows:
        """See :class:`~qguard.metrics.statistics.Statistic`."""
        score = -values_of(rows, self.score)
        order = score.argsort(-1)
        _, last = _runs(np.take_along_axis(score, order, -1))
        positive = np.take_along_axis(values_of(rows, self.label) > 0, order, -1)
        precision = np.take_along_axis(np.cumsum(positive, -1), last, -1) / (last + 1)
        return _over((positive * precision).sum(-1), positive.sum(-1))

    def weighted(self, rows: Rows, counts: Rows) -> Rows:
        """See :class:`~qguard.metrics.statistics.Statistic`."""
        score = -values_of(rows, self.score)
        order = score.argsort()
        _, last = _runs(score[order])
        everything = counts[order]
        positive = everything * (values_of(rows, self.label) > 0)[order][:, None]
        above = np.cumsum(everything, 0)[last]
        precision = np.divide(np.cumsum(positive, 0)[last], above, out=np.zeros_like(above), where=above > 0)
        return _over((positive * precision).sum(0), positive.sum(0))


def _over(top: Rows, bottom: Rows) -> Rows:
    return np.asarray(np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0), np.float64)


@dataclass(frozen=True)
class Retention(Ratio):
    """The candidate's score over fp32's; NaN where fp32's is not above 0: a share of nothing says nothing."""

    def _over(self, top: Rows, bottom: Rows) -> Rows:
        return _over(top, bottom)
