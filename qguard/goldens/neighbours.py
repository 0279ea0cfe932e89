"""The nearest other text of each text, for reviewers; the ranking metrics have their own, stricter, code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.outputs import TokenVectors
from qguard.vectors.similarity import COSINE, Similarity

LOOKED_AT = 2000  # texts of a larger suite that are looked at, evenly spaced
_BLOCK = 20_000_000  # scores held at once
_PRODUCTS = 1e9  # products of two tokens that a summary is worth, some seconds
_DIGITS = 6  # what differs by less is a tie, by order: equal data must give equal words on every machine


def looked_at(outputs: Any) -> NDArray[np.int64]:
    """Indices of the texts that are looked at: at most :data:`LOOKED_AT`, and fewer where each has many vectors to compare."""
    texts = most = len(outputs)
    if isinstance(outputs, TokenVectors):
        most = max(1, int(_PRODUCTS / max(1, len(outputs.vectors)) / max(1, len(outputs.vectors) / texts)))
    return np.unique(np.linspace(0, texts - 1, min(texts, most, LOOKED_AT)).astype(np.int64))


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
    units, scales = similarity.prepared(vectors), similarity.scale(vectors)
    index, score = np.empty(len(rows), np.int64), np.empty(len(rows))
    step = max(1, _BLOCK // len(units))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        scale = scales[part][:, None] if np.ndim(scales) else scales
        scores = np.round(similarity.scores(units[part], units) / scale, _DIGITS) * scale
        scores[np.arange(len(part)), part] = -np.inf
        best = scores.argmax(1)
        index[start : start + step], score[start : start + step] = best, scores[np.arange(len(part)), best]
    return index, score
