"""How far the weights of a sparse model's words moved, and what its inverted index costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.statistics import Absolute, Mean, Quantile, Ratio
from qguard.outputs import SparseRows

ENTRY = 8  # bytes of a word of a text in an inverted index: the text's number and a weight in float32


def items(c: Comparison) -> Items:
    """Per text: active words of fp32, those of them that stay active, those that are new, the largest change of a weight and the
    change of the sum of weights, both relative, and the bytes in an index of fp32 and of the candidate.

    Changes are relative to the text's largest weight and to its sum of weights in fp32; of a text without any active word to the
    mean of these over the suite. Only documents are in an index, or all texts of a suite without documents.

    Raises:
        MeasurementProblem: where no text has an active word in fp32.
    """
    golden, candidate = _matrices(c)
    active, now = (np.diff(m.indptr).astype(np.float64) for m in (golden, candidate))
    if not active.any():
        raise MeasurementProblem(
            f"suite {c.suite.name!r}: no text has a word of a weight above 0 in fp32; the model is not trained to weigh words, "
            "or a bias of its decoder is lost"
        )
    kept = np.diff(_both(golden, candidate).indptr).astype(np.float64)
    largest = _of_mean(_most(golden))
    sums = np.asarray(golden.sum(1)).ravel()
    error = _most(abs(candidate - golden)) / largest
    moved = (np.asarray(candidate.sum(1)).ravel() - sums) / _of_mean(sums)
    indexed = np.zeros(len(active))
    indexed[list(c.suite.documents) or slice(None)] = ENTRY
    columns = [active, kept, now - kept, error, moved, active * indexed, now * indexed]
    rows = np.stack(columns, axis=1)

    def label(i: int) -> str:
        words = f"{int(kept[i])} of {int(active[i])} words kept, {int(now[i] - kept[i])} new, largest change {error[i]:.1%}"
        return f"{words}  {c.suite.texts[i][:70]!r}"

    return Items(rows, c.suite.slices, label)


def _matrices(c: Comparison) -> tuple[Any, Any]:
    both: Any = c.golden, c.candidate
    assert all(isinstance(x, SparseRows) for x in both)
    return both[0].matrix, both[1].matrix


def _both(a: Any, b: Any) -> Any:
    """1 where both have a value other than 0."""
    found = (a != 0).multiply(b != 0).tocsr()
    found.eliminate_zeros()
    return found


def _most(matrix: Any) -> Rows:
    return np.asarray(matrix.max(axis=1).todense(), np.float64).ravel()


def _of_mean(values: Rows) -> Rows:
    """The values, and their mean where one is 0."""
    return np.where(values == 0, values.mean(), values)


def _kept(r: Rows) -> Rows:
    """The share of a text's active words that stay; 1 where there are none."""
    return np.where(r[..., 0] == 0, 1.0, r[..., 1] / np.maximum(r[..., 0], 1))


_SHARE, _ERROR = "share in [0, 1]", "relative error, 0 or more"
METRICS = (
    Metric(
        "weights.kept", Ratio(Mean(1), Mean(0), empty=1.0), higher_is_better=True, unit=_SHARE, source="qguard",
        description="share of fp32's active words that are still active", worst=lambda r: 1 - _kept(r),
    ),
    Metric(
        "weights.kept_p01", Quantile(_kept, 0.01), higher_is_better=True, unit=_SHARE, source="numpy.quantile, linear",
        description="the share of a text's active words kept that 1 % of the texts fall below",
    ),
    Metric(
        "weights.added", Ratio(Mean(2), Mean(0), empty=0.0), higher_is_better=False, unit="ratio, 0 or more", source="qguard",
        description="active words that fp32 does not have, over fp32's active words",
    ),
    Metric(
        "weights.p99_error", Quantile(3, 0.99), higher_is_better=False, unit=_ERROR, source="numpy.quantile, linear",
        description="the largest change of a weight, over the text's largest weight, that 1 % of the texts exceed",
    ),
    Metric(
        "weights.max_error", Quantile(3, 1), higher_is_better=False, unit=_ERROR, source="qguard",
        description="the largest change of any weight, over the largest weight of its text", worst=lambda r: r[:, 3],
    ),
    Metric(
        "weights.bias", Absolute(Mean(4)), higher_is_better=False, unit=_ERROR, source="qguard",
        description="size of the mean relative change of a text's sum of weights: all weights grow or shrink",
    ),
    Metric(
        "weights.index_ratio", Ratio(Mean(6), Mean(5), empty=1.0), higher_is_better=False, unit="ratio of bytes", source="qguard",
        description=f"bytes of the documents' entries in an inverted index ({ENTRY} each) over those of fp32",
    ),
)  # fmt: skip
