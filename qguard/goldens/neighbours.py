"""The nearest other text of each text, for reviewers; the ranking metrics have their own, stricter, code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.vectors.similarity import COSINE, Similarity

LOOKED_AT = 2000  # texts of a larger suite that are looked at, evenly spaced
_BLOCK = 20_000_000  # scores held at once
_DIGITS = 6  # what differs by less is a tie, by order: equal data must give equal words on every machine


def looked_at(texts: int) -> NDArray[np.int64]:
    """Indices of at most :data:`LOOKED_AT` of ``texts`` texts."""
    return np.unique(np.linspace(0, texts - 1, min(texts, LOOKED_AT)).astype(np.int64))


def nearest(
    vectors: Any, rows: NDArray[np.int64], similarity: Similarity = COSINE
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The text that scores highest with each of ``rows``, never itself.

    Args:
        vectors: (texts, dim), or the outputs of another kind of at least two texts.
        rows: Indices (n,) into them.
        similarity: What scores.

    Returns:
        Indices (n,) and scores (n,), rounded to six digits; scores without a range to six digits of their scale.
    """
    units, scale = similarity.prepared(vectors), similarity.scale(vectors)
    index, score = np.empty(len(rows), np.int64), np.empty(len(rows))
    step = max(1, _BLOCK // len(units))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        scores = np.round(similarity.scores(units[part], units) / scale, _DIGITS) * scale
        scores[np.arange(len(part)), part] = -np.inf
        best = scores.argmax(1)
        index[start : start + step], score[start : start + step] = best, scores[np.arange(len(part)), best]
    return index, score
