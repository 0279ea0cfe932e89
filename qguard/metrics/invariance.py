"""How much a text's vector depends on the batch that it is computed in; what measures it is :mod:`qguard.judging.invariance`."""

from __future__ import annotations

from typing import Any

from qguard.metrics import Metric
from qguard.metrics.statistics import Quantile


def _metrics(column: int, low: str, p01: str, between: str) -> tuple[Metric, Metric]:
    def metric(name: str, reduce: Quantile, which: str, **more: Any) -> Metric:
        return Metric(
            f"invariance.{name}", reduce, higher_is_better=True, unit="cosine in [-1, 1]",
            source="numpy.quantile, linear" if reduce.q else "qguard",
            description=f"{which} cosine of a text's vector {between}", **more,
        )  # fmt: skip

    return (
        metric(low, Quantile(column, 0), "the lowest", worst=lambda r: (1 - r[:, column]).round(6)),
        metric(p01, Quantile(column, 0.01), "the 1 % quantile of the"),  # of 64 items, between the two lowest
    )


METRICS = (
    *_metrics(0, "batch_cosine_min", "batch_cosine_p01", "alone to that in a batch"),
    *_metrics(1, "order", "order_p01", "in a batch to that in it reversed, one text twice"),
    *_metrics(2, "padding", "padding_p01", "without to that with padding"),
    *_metrics(3, "equal_length", "equal_length_p01", "in a batch of mixed lengths to that in one of its own length"),
)
