"""Topics and hardness of texts: clusters of their vectors, and how close the neighbors lie that a quantization may exchange."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.encoders import Floats

NEAR, FAR = 5, 15  # neighbors around the tenth, of ranking.overlap@10
CLUSTERS = 8  # at most; one for each EACH texts
EACH = 25
HASHED = 512  # dimensions of hashed words
BLOCK = 512  # rows whose similarities are held at once
_WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|\w+")

Encode = Callable[[Sequence[str], Sequence[str | None]], Floats]  # texts and their roles to vectors (n, dim)


def hashed_words(texts: Sequence[str], roles: Sequence[str | None] = ()) -> Floats:
    """Counts of words by the hash of each word, as vectors of unit length (n, 512), where there is no model."""
    out = np.zeros((len(texts), HASHED), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in _WORD.findall(text.casefold()):
            place, sign = _place(word)
            row[place] += sign
    return unit(out)


@lru_cache(maxsize=1 << 16)
def _place(word: str) -> tuple[int, int]:
    value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest(), "little")
    return value % HASHED, 1 - 2 * (value >> 31)


def unit(vectors: Floats) -> Floats:
    """Rows (n, dim) of unit length; those of zeros stay."""
    scaled: Floats = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return scaled


def one_thread() -> AbstractContextManager[Any]:
    """Sums of many threads may differ in their last bit, and a draw follows from order alone."""
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[Any] = threadpool_limits(1)
    return limited


def clusters(vectors: Floats, seed: int) -> NDArray[np.int64]:
    """The cluster of each row (n,), by SciPy's k-means from k-means++ starts; the largest cluster is 0.

    Equal vectors give equal clusters where one thread computes; see :func:`one_thread`.
    """
    k = min(CLUSTERS, len(vectors) // EACH)
    if k < 2:
        return np.zeros(len(vectors), np.int64)
    with step("finding topics"):
        from scipy.cluster.vq import kmeans2

        with np.errstate(all="ignore"):
            _, labels = kmeans2(vectors.astype(np.float64), k, minit="++", rng=np.random.default_rng(seed))
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    place = np.empty(k, np.int64)
    place[order] = np.arange(k)
    found: NDArray[np.int64] = place[labels]
    return found


def gaps(queries: Floats, documents: Floats | None = None, near: int = NEAR, far: int = FAR) -> NDArray[np.float64]:
    """How far apart the similarities of neighbors lie around each row's tenth, (n,) in [0, 2]: what lies close is what flips.

    The mean gap between neighbors 5 and 15. The gap between 10 and 11 alone decides what flips in one collection, but says next
    to nothing of another one, and the pool is not the collection that production searches: benchmarks/sample.py measures both.

    Args:
        queries: Unit vectors (n, dim).
        documents: What they search; ``None`` for each other, no row itself.
        near: The first of both neighbors, from 1.
        far: The second.

    Returns:
        Gaps; of fewer neighbors up to the last one, and 0 where there are fewer than two.
    """
    others = queries if documents is None else documents
    far = min(far, len(others) - (documents is None))
    near = min(near, far - 1)
    out = np.zeros(len(queries))
    if far < 2:
        return out
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ others.T
        if documents is None:
            rows = np.arange(len(scores))
            scores[rows, start + rows] = -np.inf
        best = -np.partition(-scores, (near - 1, far - 1), axis=1)[:, [near - 1, far - 1]]
        out[start : start + BLOCK] = (best[:, 0].astype(np.float64) - best[:, 1]) / (far - near)
    return out
