"""What a cross-encoder's scores are compared by: their differences, over how far fp32's own scores lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from qguard.vectors.cosine import Rows
from qguard.vectors.similarity import Similarity


@dataclass(frozen=True)
class Scores(Similarity):
    """Scores of pairs: nothing is compared with anything else to rank them.

    Attributes:
        spread: Of fp32's logits of a suite: their standard deviation, the root mean square over labels. What differs by less is
            near, and what differs by as much lies as far apart as two pairs do.
        activation: What is applied to logits, as the model declares it.
        threshold: The activated score from which on the project takes a pair for a match; ``None`` for none.
    """

    name: str = "score"
    spread: float = 1.0
    activation: str = "Identity"
    threshold: float | None = None

    of_outputs: ClassVar[bool] = True
    refuses_zeros: ClassVar[bool] = False  # a logit may be 0

    def fitted(self, outputs: Any, declared: Mapping[str, Any] | None = None, threshold: float | None = None) -> Scores:
        """See :meth:`Similarity.fitted`."""
        scoring = (declared or {}).get("scoring") or {}
        activation = str(scoring.get("activation", self.activation))
        return replace(self, spread=self.scale(outputs), activation=activation, threshold=threshold)

    def activated(self, logits: Any) -> Rows:
        """What sentence-transformers' ``predict`` gives, in float64: logits and result (…, labels)."""
        from qguard.models.modules.activations import COMPUTED

        return np.asarray(COMPUTED[self.activation](np.asarray(logits, np.float64)), np.float64)

    def pairs(self, a: Rows, b: Rows) -> Rows:
        """The activated score of the first label of each pair: both sides are the same rows, as a pair is one input."""
        return self.activated(a)[:, 0]

    def scores(self, queries: Rows, documents: Rows) -> Rows:
        """How near the scores of two pairs lie: their negative distance."""
        a, b = (np.asarray(x, np.float64) for x in (queries, documents))
        return np.asarray(-np.sqrt(sum(np.square(a[:, i, None] - b[None, :, i]) for i in range(a.shape[1]))))

    def scale(self, vectors: Any) -> float:
        """See :attr:`spread`; 1 for scores that are all alike."""
        x = np.asarray(vectors, np.float64)
        return float(np.sqrt(x.var(0).mean())) or 1.0

    def relative(self, scores: Any, scale: float) -> Rows:
        """Scores over their spread."""
        return np.asarray(scores, np.float64) / scale

    def change(self, old: Any, new: Any) -> Rows:
        """See :meth:`Similarity.change`: over the spread."""
        if old.shape != new.shape:
            return np.full(len(old), np.inf)
        return np.asarray(np.abs(np.asarray(new, np.float64) - old).max(1) / self.spread)

    def distances(self, old: Any, new: Any) -> Rows:
        """See :meth:`Similarity.distances`: over the spread."""
        if old.shape != new.shape:
            return np.full(len(old), np.inf)
        return np.asarray(np.linalg.norm(np.asarray(new, np.float64) - old, axis=1) / self.spread)

    def agreement(self, a: Any, b: Any) -> Rows:
        """``1 - d² / 2`` of the distance d of two rows of logits over the spread, at least -1: what the cosine is of two vectors
        of unit length at that distance. NaN where a logit is not finite.
        """
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.maximum(1 - ((x - y) / self.spread) ** 2 @ np.ones(x.shape[1]) / 2, -1.0))


def similarity(name: str) -> Scores:
    """That of cross-encoders, whatever name a model declares."""
    return Scores()
