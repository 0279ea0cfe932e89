"""What a suite's labels say of fp32 vectors, before and after a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.families import TASK
from qguard.metrics import Comparison, Rows
from qguard.metrics.bootstrap import Z, seed_of, standard_error
from qguard.metrics.task import labelled_items
from qguard.suites import Suite
from qguard.vectors.similarity import COSINE, Similarity

LEAST = 20  # labeled items; fewer say nothing


@dataclass(frozen=True)
class Quality:
    """One score of two sets of vectors against the same labels.

    Attributes:
        noise: Half a 95 % interval of the difference, by a paired bootstrap over the items.
    """

    name: str
    before: float
    after: float
    noise: float
    items: int

    @property
    def fell(self) -> float:
        """By how much ``after`` is below ``before``, beyond the noise; at most 0 where it is not."""
        return self.before - self.after - self.noise

    def __str__(self) -> str:
        return f"{self.name} {self.before:.4f} → {self.after:.4f} (noise {self.noise:.4f})"


def compare_quality(suite: Suite, before: NDArray[Any], after: NDArray[Any], similarity: Similarity = COSINE) -> list[Quality]:
    """Scores of the suite's labeled pairs and judged queries; none where it has fewer than :data:`LEAST` of them.

    Args:
        suite: The texts and their labels.
        before: Vectors (texts, dim).
        after: Vectors of the same texts; the dimension may differ.
        similarity: What the model ranks by.
    """
    sampled = replace(suite, corpus=None)  # of a large suite the texts whose vectors are stored
    out = []
    found = (labelled_items(Comparison.of(sampled, v, v, similarity)) for v in (before, after))
    for (old, metrics), (new, _) in zip(*found, strict=True):
        if len(old.rows) < LEAST:
            continue
        reduce = next(m for m in metrics if m.of_fp32).reduce
        width = old.rows.shape[1]

        def fell(r: Rows, reduce: Callable[[Rows], Rows] = reduce, width: int = width) -> Rows:
            return reduce(r[..., width:]) - reduce(r[..., :width])

        seed = seed_of(suite.sha256, TASK, None)
        noise = Z * standard_error(fell, np.hstack((old.rows, new.rows)), seed)
        name = f"{metrics[0].name.removeprefix('task.')} of {len(old.rows)} labeled {old.noun}"
        out.append(Quality(name, float(reduce(old.rows)), float(reduce(new.rows)), noise, len(old.rows)))
    return out
