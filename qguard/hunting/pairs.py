"""Pairs whose similarity moves most between fp32 and the candidate, over all pairs, by matrix products in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.vectors.cosine import cosine
from qguard.vectors.similarity import COSINE, DOT, Similarity

BLOCK = 512  # rows whose similarities to all others are held at once


@dataclass(frozen=True)
class Move:
    """A pair of texts by index, ``a`` > ``b``, and its similarity in fp32 and in the candidate, on the scale of cosines."""

    a: int
    b: int
    fp32: float
    candidate: float

    @property
    def size(self) -> float:
        """How far the similarity moved."""
        return abs(self.candidate - self.fp32)


def most_moved(
    fp32: Floats, candidate: Floats, top: int, first: int = 0, similarity: Similarity = COSINE, scale: float = 1.0
) -> list[Move]:
    """The ``top`` pairs that moved most, largest move first.

    Args:
        fp32: float32 (n, dim), rows of unit length where the similarity is the cosine.
        candidate: The same of the candidate.
        top: Pairs wanted; fewer where there are fewer.
        first: Only pairs of which one row is at least this: those of rows that are new.
        similarity: What the model ranks by.
        scale: That brings its scores to the scale of cosines.

    All pairs are searched in float32, but for distances; the scores of those that are returned are float64.
    """
    inner = similarity in (COSINE, DOT)
    left = np.concatenate([fp32, candidate], axis=1)
    right = np.concatenate([fp32, -candidate], axis=1)  # one product gives the difference of both similarities
    best: list[tuple[float, int, int]] = []
    for start in range(first, len(fp32), BLOCK):
        stop = min(start + BLOCK, len(fp32))
        if inner:
            moved = np.abs(left[start:stop] @ right[:stop].T) / scale
        else:
            before, after = (_scores(v[start:stop], v[:stop], similarity, scale) for v in (fp32, candidate))
            moved = np.abs(after - before)
        rows = np.arange(start, stop)[:, None]
        moved[np.arange(stop)[None, :] >= rows] = -1  # each pair once, no text with itself
        least = best[-1][0] if len(best) >= top else -0.5
        at = np.flatnonzero(moved.ravel() > least)
        if len(at) > top:
            at = at[np.argpartition(-moved.ravel()[at], top - 1)[:top]]
        best += [(float(moved.ravel()[k]), start + int(k) // stop, int(k) % stop) for k in at]
        best = sorted(best, key=lambda m: (-m[0], m[1], m[2]))[:top]
    found = [_exact(fp32, candidate, a, b, similarity, scale) for _, a, b in best]
    return sorted(found, key=lambda m: (-m.size, m.a, m.b))


def _scores(a: Floats, b: Floats, similarity: Similarity, scale: float) -> NDArray[np.float64]:
    return similarity.relative(similarity.scores(similarity.prepared(a), similarity.prepared(b)), scale)


def _exact(fp32: Floats, candidate: Floats, a: int, b: int, similarity: Similarity, scale: float) -> Move:
    if similarity is COSINE:
        before, after = (float(cosine(v[[a]], v[[b]])[0]) for v in (fp32, candidate))
        return Move(a, b, before, after)
    of_both = (similarity.pairs(similarity.prepared(v[[a]]), similarity.prepared(v[[b]])) for v in (fp32, candidate))
    before, after = (float(similarity.relative(found, scale)[0]) for found in of_both)
    return Move(a, b, before, after)


def unit(vectors: Floats) -> Floats:
    """Rows (n, dim) scaled to unit length."""
    scaled: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled
