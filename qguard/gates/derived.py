"""Default gates for a model: those chosen on all-MiniLM-L6-v2, carried over by how the model's own golden lies.

A recipe adds noise to vectors. What it costs depends on the model, in three ways that the golden of the built-in suite shows
before anything is quantized:

- *Spread*: how far two texts lie apart, the mean of 1 - cosine over all pairs. Integers divide the range that values take, so
  their noise shrinks with the spread: a cosine of .999 is a small loss where texts lie far apart, and a large one where all of
  them lie at .8 and above.
- *Crowding*: how many of a text's ten nearest neighbors a fixed share of noise replaces, over how many it replaces of
  MiniLM's. The noise is seeded, so equal goldens give equal gates.
- *Fragility*: how many times as far as the median text the most fragile one turns when weights are rounded to bfloat16; see
  :mod:`qguard.goldens.fragile`. Only the bound on the worst text follows it.

docs/tolerances.md states the rule and shows what it does; benchmarks/default_gates.py measures it on real models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qguard.metrics.bounds import Bound
from qguard.metrics.ranking import K, best_first
from qguard.vectors.cosine import Rows, unit
from qguard.vectors.similarity import COSINE, DOT, Similarity

SUITE = "core"  # every model can be recorded on it: the same texts, so what differs is the model
MODEL = "all-MiniLM-L6-v2"
NOISE = 1e-3  # mean of 1 - cosine: what int8 may cost MiniLM
# Of golden/minilm/core; tests/test_derived_gates.py measures both again
MINILM_SPREAD, MINILM_REPLACED = 0.954, 0.0289
MINILM_FRAGILITY = 5.1  # of the texts of core, likewise
LEAST_SPREAD = 0.1  # at most ten times stricter: int8's p01 then stops at .9997, ten times the noise of bf16 (.99997)
MOST_CROWDED = 5.0  # at most five times as many neighbors: int8's overlap then stops at .82
MOST_FRAGILE = 5.0  # at most five times as much: int8's worst text then stops at .95
TIES = 1e-7  # mean of 1 - cosine: what rounding to float32 and another order of sums cost
TOO_MANY_TIES = 0.05  # one neighbor in twenty, as the gate of bf16 has it
_LEAST_TEXTS = 100  # fewer say nothing about a model
_WORST = "embedding.cosine_min"  # what one text decides
# differences of cosines: 1 - cosine to fp32, and changes of a pair's cosine
_DISTANCES = (
    "embedding.cosine_mean", "embedding.cosine_p01", "embedding.cosine_min", "robustness.cosine_min", "similarity.max_error",
    "similarity.p99_error", "similarity.bias",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """How a model's fp32 vectors of :data:`SUITE` lie, over how MiniLM's do.

    Attributes:
        spread: Mean distance (1 - cosine) of two texts, over MiniLM's; in [0, 2].
        crowding: Share of neighbors that noise of this spread replaces, over MiniLM's; 0 or more.
        tied: Share of neighbors that float32's rounding alone replaces; in [0, 1].
        fragility: How far rounded weights turn the most fragile text, over the median text; 1 where the golden does not say.
    """

    spread: float
    crowding: float
    tied: float = 0.0
    fragility: float = 1.0

    @classmethod
    def of(cls, vectors: NDArray[np.float32], similarity: Similarity = COSINE, fragility: float = 1.0) -> Standing | None:
        """Of a golden's vectors (texts, dim), whose neighbors are by ``similarity``; ``None`` for too few texts to tell."""
        if len(vectors) < _LEAST_TEXTS:
            return None
        units = unit(vectors)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True) if similarity.by_length else 1.0

        def share(noise: float) -> float:
            return replaced(
                units, noise, lambda turned: _neighbors(turned * lengths, similarity if similarity.by_length else DOT)
            )

        # few digits, so that another order of float sums gives the same gates
        spread = round(spread_of(units) / MINILM_SPREAD, 2)
        crowding = round(share(NOISE * _limited(spread)) / MINILM_REPLACED, 1)
        return cls(spread, crowding, share(TIES) if crowding > MOST_CROWDED else 0.0, fragility)

    def carry(self, bounds: Mapping[str, Bound], *, integers: bool) -> dict[str, Bound]:
        """Bounds that were chosen on MiniLM, for this model.

        Args:
            bounds: By key, ``METRIC`` or ``METRIC[SLICE]``.
            integers: Whether the recipe stores integers. Floats round a number by its own size, whatever the spread.
        """
        return {key: self._carried(key.partition("[")[0], bound, integers) for key, bound in bounds.items()}

    def _carried(self, metric: str, bound: Bound, integers: bool) -> Bound:
        times = (_limited(self.spread) if integers else 1.0) * (self._fragile if metric == _WORST else 1.0)
        if metric in _DISTANCES and times != 1:
            return _of_loss(bound, lambda loss: loss * times)
        crowding = min(MOST_CROWDED, max(1.0, self.crowding))
        if metric.startswith("ranking.") and crowding > 1:
            # the odds, not the share: no bound reaches 0
            return _of_loss(bound, lambda loss: crowding * loss / (1 - loss + crowding * loss))
        return bound

    def why(self, key: str) -> str:
        """What of the golden moves the bound of a key, in words."""
        if key.startswith("ranking."):
            words = self._neighbors
        else:
            fragile = self._fragile > 1 and key.partition("[")[0] == _WORST
            words = "; ".join([*([self._distance] if _limited(self.spread) < 1 else []), *([self._turned] if fragile else [])])
        return f"by the golden of {SUITE}: {words}"

    @property
    def words(self) -> str:
        """All in words."""
        return "; ".join([self._distance, self._neighbors, *([self._turned] if self._fragile > 1 else [])])

    @property
    def _fragile(self) -> float:
        return min(MOST_FRAGILE, max(1.0, self.fragility / MINILM_FRAGILITY))

    @property
    def _turned(self) -> str:
        return (
            f"rounding to bfloat16 turns one text {self.fragility:g} times as far as the median text "
            f"({MINILM_FRAGILITY:g} with {MODEL})"
        )

    @property
    def _distance(self) -> str:
        return f"texts lie {self.spread:.2f} times as far apart as with {MODEL}"

    @property
    def _neighbors(self) -> str:
        if self.tied > TOO_MANY_TIES:
            return (
                f"ranking cannot be judged on this model, whose neighbors are ties: the rounding of float32 replaces "
                f"{self.tied:.0%} of them. Bounds stop at {MOST_CROWDED:g} x the loss of {MODEL}, and may fail for any precision"
            )
        end = f"; bounds stop at {MOST_CROWDED:g} x" if self.crowding > MOST_CROWDED else ""
        return f"noise replaces {self.crowding:.1f} times as many neighbors as with {MODEL}{end}"


def _limited(spread: float) -> float:
    return max(LEAST_SPREAD, min(1.0, spread))


def spread_of(units: Rows) -> float:
    """Mean distance (1 - cosine) of two of the vectors (n, dim), which are of unit length; in [0, 2]."""
    n = len(units)
    # the sum of all cosines is the squared length of the sum of all vectors
    return 1 - (float(np.square(units.sum(0)).sum()) - n) / (n * (n - 1))


def replaced(units: Rows, noise: float, neighbors: Callable[[Rows], NDArray[np.int64]] | None = None) -> float:
    """The share of nearest neighbors that seeded noise replaces, in [0, 1].

    Args:
        units: Vectors (n, dim) of unit length; more than two.
        noise: Mean of 1 - cosine between a vector and the same with noise; in (0, 0.1].
        neighbors: Of each of n vectors of unit length, which also keep their order; by cosine where nothing is given.
    """
    shift = np.random.default_rng(0).standard_normal(units.shape)
    shift -= (shift * units).sum(1, keepdims=True) * units  # what lies along a vector does not turn it
    # a turn by the angle a costs 1 - cos a, about a² / 2
    shift *= math.sqrt(2 * noise / float(np.square(shift).sum(1).mean()))
    before, after = ((neighbors or _neighbors)(rows) for rows in (units, unit(units + shift)))
    return 1 - float((before[:, :, None] == after[:, None, :]).any(2).mean())


def _neighbors(vectors: Rows, similarity: Similarity = DOT) -> NDArray[np.int64]:
    """Of each vector (n, dim), unit ones where they are ranked by cosine."""
    scores = similarity.scores(vectors, vectors)
    np.fill_diagonal(scores, -np.inf)
    found: NDArray[np.int64] = best_first(scores, min(K, len(vectors) - 1))
    return found


def _of_loss(bound: Bound, change: Callable[[float], float]) -> Bound:
    """The bound with another loss (1 minus a lower bound, an upper one itself), of two digits, rounded to the lax side."""
    loss = change(1 - bound.number if bound.lower else bound.number)
    if loss <= 0:
        return bound
    digits = 1 - math.floor(math.log10(loss))
    loss = math.ceil(round(loss * 10**digits, 6)) / 10**digits
    return Bound(bound.op, round(1 - loss, 12) if bound.lower else loss)
