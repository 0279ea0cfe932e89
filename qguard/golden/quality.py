"""What a suite's labels say of fp32 vectors, before and after a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.metrics.noise import Z, paired_standard_error
from qguard.metrics.ranking import top_k
from qguard.metrics.similarity import METRICS
from qguard.suites import Suite

LEAST = 20  # labelled items; fewer say nothing
K = 10
_spearman = next(m.reduce for m in METRICS if m.name == "similarity.spearman")


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


def compare_quality(suite: Suite, before: NDArray[Any], after: NDArray[Any]) -> list[Quality]:
    """Scores of the suite's labelled pairs and judged queries; none where it has fewer than :data:`LEAST` of them.

    Args:
        suite: The texts and their labels.
        before: Vectors (texts, dim).
        after: Vectors of the same texts; the dimension may differ.
    """
    out = []
    for (name, reduce, a), (_, _, b) in zip(_scores(suite, before), _scores(suite, after), strict=True):
        noise = Z * paired_standard_error(a, b, reduce)
        out.append(Quality(name, float(reduce(a)), float(reduce(b)), noise, len(a)))
    return out


def _scores(suite: Suite, vectors: NDArray[Any]) -> Iterator[tuple[str, Callable[[Any], Any], NDArray[np.float64]]]:
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    pairs = [p for p in suite.pairs if p.score is not None]
    if len(pairs) >= LEAST and len({p.score for p in pairs}) > 1:
        cosine = (unit[[p.a for p in pairs]] * unit[[p.b for p in pairs]]).sum(1)
        name = f"Spearman of {len(pairs)} labelled pairs"
        yield name, _spearman, np.stack((cosine, np.asarray([p.score for p in pairs], np.float64)), axis=1)
    judged = [q for q, relevant in suite.qrels.items() if any(g > 0 for g in relevant.values())]
    if len(judged) >= LEAST:
        name = f"nDCG@{K} of {len(judged)} judged queries"
        yield name, lambda r: r[..., 0].mean(-1), _ndcg(suite, unit, judged)


def _ndcg(suite: Suite, unit: NDArray[np.float64], queries: list[int]) -> NDArray[np.float64]:
    """nDCG (Järvelin and Kekäläinen 2002) with the grade as gain, cut at :data:`K`, per query (n, 1)."""
    k = min(K, len(suite.documents))
    discount = 1 / np.log2(np.arange(2, K + 2))
    order, _ = top_k(unit[[suite.queries[q] for q in queries]], unit[list(suite.documents)], k)
    rows = []
    for found, query in zip(order, queries, strict=True):
        grades = suite.qrels[query]
        gains = np.asarray([max(0.0, grades.get(int(d), 0.0)) for d in found])
        best = np.sort([g for g in grades.values() if g > 0])[::-1][:K]
        rows.append([(gains * discount[:k]).sum() / (best * discount[: len(best)]).sum()])
    return np.asarray(rows, np.float64)
