"""How far vectors and neighbors moved between two environments: the same texts and the same file, compared with each other."""

from __future__ import annotations

import numpy as np

from qguard.metrics import Comparison, Items, Metric, ranking
from qguard.metrics.statistics import Mean, Quantile
from qguard.vectors.quantized import FLOAT

_COSINE = "cosine in [-1, 1]"
OF_VECTORS = (
    Metric(
        "regression.cosine_mean", Mean(0), higher_is_better=True, unit=_COSINE, source="qguard", vectors=(FLOAT,),
        description="mean cosine of a text's vector to that of the other interpreter (`--baseline-python`)",
    ),
    Metric(
        "regression.cosine_min", Quantile(0, 0), higher_is_better=True, unit=_COSINE, source="qguard", vectors=(FLOAT,),
        description="the lowest cosine of any text to its vector in the other interpreter", worst=lambda r: 1 - r[:, 0],
    ),
)  # fmt: skip
OF_NEIGHBORS = (
    Metric(
        "regression.overlap@10", Mean(0), higher_is_better=True, unit="share in [0, 1]", source="qguard", vectors=(FLOAT,),
        description="share of a text's ten nearest neighbors in the other interpreter that it finds here",
        worst=lambda r: 1 - r[:, 0],
    ),
    Metric(
        "regression.top1", Mean(1), higher_is_better=True, unit="share in [0, 1]", source="qguard", vectors=(FLOAT,),
        description="share of texts whose nearest neighbor is the one of the other interpreter",
    ),
)  # fmt: skip
METRICS = (*OF_VECTORS, *OF_NEIGHBORS)


def vectors(c: Comparison) -> Items:
    """Per text how nearly both give the same; see :attr:`qguard.metrics.Comparison.agreement`. ``c.golden`` is the baseline's."""
    return Items(
        np.asarray(c.agreement)[:, None],
        c.suite.slices,
        lambda i: f"cosine {c.agreement[i]:.6f}  {c.suite.texts[i][:90]!r}",
    )


def neighbors(c: Comparison) -> Items:
    """Per text that searches the overlap of its neighbors, and whether the first one is the same."""
    return ranking.items(c)
