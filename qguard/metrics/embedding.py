"""How far each text's vector moved."""

from __future__ import annotations

import numpy as np

from qguard.metrics import Comparison, Items, Metric
from qguard.metrics.statistics import Mean, Quantile
from qguard.vectors.cosine import of_units
from qguard.vectors.quantized import FLOAT, KINDS, SCALAR


def items(c: Comparison) -> Items:
    """Per text: cosine to the golden vector in [-1, 1] and relative error of the norm (>= 0); of quantized vectors, which are
    dequantized for both, also the share of clipped values in [0, 1] and the bytes over those of float32.
    """
    cosine = of_units(*c.units)
    norm = np.abs(np.linalg.norm(c.candidate, axis=1) / np.linalg.norm(c.golden, axis=1) - 1)
    columns = [cosine, norm]
    if c.vectors is not None:
        columns += [c.vectors.clipped(), np.full(len(cosine), c.vectors.size_ratio)]
    rows = np.stack(columns, axis=1)
    return Items(rows, c.suite.slices, lambda i: f"cosine {cosine[i]:.4f}  {c.suite.texts[i][:90]!r}")


_COSINE = "cosine in [-1, 1]"
METRICS = (
    Metric(
        "embedding.cosine_mean", Mean(0), higher_is_better=True, unit=_COSINE, source="qguard",
        description="mean cosine of a text's vector to its fp32 vector",
    ),
    # on fewer than 100 items it lies between the two lowest
    Metric(
        "embedding.cosine_p01", Quantile(0, 0.01), higher_is_better=True, unit=_COSINE, source="numpy.quantile, linear",
        description="the cosine to fp32 that 1 % of the texts fall below",
    ),
    Metric(
        "embedding.cosine_min", Quantile(0, 0), higher_is_better=True, unit=_COSINE, source="qguard",
        description="the lowest cosine of any text to its fp32 vector", worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "embedding.norm_error", Quantile(1, 1), higher_is_better=False, unit="relative error, 0 or more", source="qguard",
        description="the largest relative change of a vector's length", vectors=(FLOAT, *SCALAR),
    ),
    Metric(
        "embedding.clipped", Mean(2, best=0.0), higher_is_better=False, unit="share in [0, 1]", source="qguard",
        description="share of the values of stored vectors that lie outside their range", vectors=SCALAR,
    ),
    Metric(
        "embedding.size_ratio", Mean(3), higher_is_better=False, unit="ratio of bytes", source="qguard",
        description="bytes of a stored vector over those of float32", vectors=KINDS,
    ),
)  # fmt: skip
