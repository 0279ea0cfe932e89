"""How far each text's vector moved."""

from __future__ import annotations

import numpy as np

from qguard.cosine import of_units
from qguard.metrics import Comparison, Items, Metric
from qguard.metrics.statistics import Mean, Quantile
from qguard.vectors import FLOAT, KINDS, SCALAR


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


METRICS = (
    Metric("embedding.cosine_mean", Mean(0), True),
    # NumPy's linear quantile: on fewer than 100 items it lies between the two lowest
    Metric("embedding.cosine_p01", Quantile(0, 0.01), True),
    Metric("embedding.cosine_min", Quantile(0, 0), True, worst=lambda r: 1 - r[:, 0]),
    Metric("embedding.norm_error", Quantile(1, 1), False, vectors=(FLOAT, *SCALAR)),
    Metric("embedding.clipped", Mean(2, best=0.0), False, vectors=SCALAR),
    Metric("embedding.size_ratio", Mean(3), False, vectors=KINDS),
)
