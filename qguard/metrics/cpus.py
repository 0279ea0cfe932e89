"""What an artifact computes on another CPU: against fp32 as the suite's own families have it, and against this CPU.

Emulation takes seconds for a text, so that a sample of the texts is computed there. The same values are measured of it as of a
suite, with two differences. The pairs are all pairs of the sample. The sample's texts search documents that were computed on this
CPU: which neighbors a server with that CPU would find in an index that was filled on this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from qguard.metrics import Comparison, Items, Measured, Metric, Rows, embedding, ranking, reduced, similarity
from qguard.metrics.ranking import K, best_first
from qguard.metrics.statistics import Mean, Quantile, Share
from qguard.suites import Pair
from qguard.vectors.cosine import unit
from qguard.vectors.quantized import FLOAT
from qguard.vectors.similarity import COSINE

FAMILY = "cpu"
_OF_SUITE = tuple(m for m in (*embedding.METRICS, *similarity.METRICS, *ranking.METRICS) if FLOAT in m.vectors)
# the family's name of a value → the suite's
SAME = {f"{FAMILY}.{m.name.partition('.')[2]}": m.name for m in _OF_SUITE}
_NAMES = {of_suite: own for own, of_suite in SAME.items()}
# A bound on each text, or on each pair, holds of any part of them; so does that of a mean, within its noise. Of neighbors, of
# order and of quantiles beyond the sample's size the value is another one than the suite's.
OF_SAMPLE = ("cpu.cosine_mean", "cpu.cosine_min", "cpu.norm_error", "cpu.max_error", "cpu.p99_error")
P01, LEAST_P01 = "cpu.cosine_p01", 100  # on fewer texts it lies between the two lowest


def _own(metric: Metric) -> Metric:
    what = f"{metric.name} of texts computed on another CPU"
    return replace(metric, name=_NAMES[metric.name], vectors=(FLOAT,), description=what)


def _native(name: str, reduce: Any, what: str, unit: str, worst: Any = None) -> Metric:
    return Metric(
        f"{FAMILY}.native_{name}", reduce, higher_is_better=True, unit=unit, source="qguard", description=what, vectors=(FLOAT,),
        worst=worst,
    )  # fmt: skip


_COSINE, _SHARE = "cosine in [-1, 1]", "share in [0, 1]"
NATIVE = (
    _native("cosine_p01", Quantile(0, 0.01), "the cosine to this CPU's vectors that 1 % of the texts fall below", _COSINE),
    _native(
        "cosine_min", Quantile(0, 0), "the lowest cosine of any text to its vector of this CPU", _COSINE, lambda r: 1 - r[:, 0]
    ),
)
NEIGHBOURS = (
    _native(
        f"overlap@{K}", Mean(0, best=1.0), f"share of a text's {K} nearest neighbors on this CPU that a query of the other finds",
        _SHARE, lambda r: 1 - r[:, 0],
    ),
    _native("top1", Share(1), "share of the texts whose nearest neighbor is that of this CPU", _SHARE),
)  # fmt: skip
METRICS = (*map(_own, _OF_SUITE), *NATIVE, *NEIGHBOURS)


@dataclass(frozen=True)
class Sampled:
    """The texts that are computed on another CPU.

    Attributes:
        native: Golden and this CPU's vectors of the whole suite.
        rows: The texts, by index.
        vectors: This CPU's vectors of them, computed in the same batches as on the other CPU, float (n, dim).
    """

    native: Comparison
    rows: Sequence[int]
    vectors: Any

    @property
    def whole(self) -> bool:
        """Whether they are all texts of the suite: then every gate of the suite holds for them."""
        return len(self.rows) == len(self.native.suite.texts)

    def judged(self, name: str) -> bool:
        """Whether a gate on the suite's value judges that of these texts."""
        return self.whole or name in OF_SAMPLE or (name == P01 and len(self.rows) >= LEAST_P01)

    def of_fp32(self, vectors: Any) -> list[Measured]:
        """The values of vectors (n, dim) of these texts against fp32."""
        suite = self.native.suite
        part = suite.without(set(range(len(suite.texts))) - set(self.rows))
        if not self.whole:
            part = replace(part, pairs=tuple(Pair(a, b, None, None) for a, b in combinations(range(len(part.texts)), 2)))
        c = Comparison.of(part, self.native.golden[list(self.rows)], vectors, self.native.similarity)
        parts = [(embedding.items(c), embedding.METRICS), (similarity.items(c), similarity.METRICS)]
        parts.append((self._ranking(vectors), ranking.METRICS))
        return [m for items, metrics in parts for m in _measured(items, [_own(x) for x in metrics if FLOAT in x.vectors], c)]

    def of_native(self, vectors: Any) -> list[Measured]:
        """The values of vectors (n, dim) of these texts against those of this CPU."""
        suite = self.native.suite
        part = suite.without(set(range(len(suite.texts))) - set(self.rows))
        c = Comparison.of(part, np.asarray(self.vectors), vectors, self.native.similarity)
        here, there = (self._found(v, self.native.candidate) for v in (self.vectors, vectors))
        share = np.stack(ranking.agreement(here, there)[:2], axis=1).astype(np.float64)

        def label(i: int) -> str:
            return f"overlap {share[i, 0]:.1f}  {suite.texts[self.rows[i]][:60]!r}"

        items = Items(share, (None,) * len(share), label)
        return [*_measured(embedding.items(c), NATIVE, c), *_measured(items, NEIGHBOURS, c)]

    def _ranking(self, vectors: Any) -> Items:
        """As :func:`qguard.metrics.ranking.items`, of these texts as queries."""
        c = self.native
        documents, scores = ranking.scored(c, self.rows)
        k = min(K, len(documents) - 1)
        gold = best_first(scores[0], k)
        after = self._scores(vectors, vectors if self.whole else c.candidate, documents)
        columns = ranking.agreement(gold, best_first(after, k))
        before, now = (np.take_along_axis(s, gold, 1) for s in (scores[0], after))
        columns += ranking.flipped(c.relative(before, np.asarray(self.rows)), now)
        rows = np.stack(columns, axis=1).astype(np.float64)
        return Items(rows, (None,) * len(rows), lambda i: f"overlap {rows[i, 0]:.1f}  {c.suite.texts[self.rows[i]][:60]!r}")

    def _found(self, vectors: Any, documents: Any) -> Any:
        """The places of the nearest documents of these texts, (n, k)."""
        of = ranking.documents_of(self.native.suite)
        return best_first(self._scores(vectors, documents, of), min(K, len(of) - 1))

    def _scores(self, vectors: Any, documents: Any, of: Any) -> Rows:
        """Scores (n, d) of vectors of these texts with documents of the whole suite, -inf where a text would find itself."""
        kind = self.native.similarity
        queries, searched = np.asarray(vectors, np.float64), np.asarray(documents, np.float64)[of]
        if kind is COSINE:
            queries, searched = unit(queries), unit(searched)
        scores = kind.scores(queries, searched)
        scores[np.asarray(self.rows)[:, None] == np.asarray(of)[None, :]] = -np.inf
        return scores


def _measured(items: Items, metrics: Sequence[Metric], c: Comparison) -> list[Measured]:
    """Each metric over all items; a text that lies in a slice counts as any other."""
    return reduced(replace(items, slices=(None,) * len(items.rows)), tuple(metrics), c.suite)
