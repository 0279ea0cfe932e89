"""MaxSim, by which multi-vector models rank: of each token of a query the best of the document's tokens, summed; in float64.

Texts have numbers of tokens of their own, so nothing is padded: the vectors of many texts are multiplied at once, and maxima and
sums are taken over each text's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qguard.outputs import TokenVectors
from qguard.vectors.cosine import Rows, cosine
from qguard.vectors.quantized import Vectors
from qguard.vectors.similarity import Similarity

_HELD = 4_000_000  # products of two tokens that are held at once, 32 MB
MAXSIM, MEAN_MAXSIM = "maxsim", "meanmaxsim"
EMPTY = -1e9  # the score of a document without a token that counts, as in sentence-transformers


@dataclass(frozen=True)
class MaxSim(Similarity):
    """``sum over i of max over j of q_i . d_j``; ``meanmaxsim`` is its mean over the query's tokens."""

    name: str = MAXSIM

    of_outputs: ClassVar[bool] = True
    asymmetric: ClassVar[bool] = True

    def prepared(self, vectors: TokenVectors) -> Any:
        """See :class:`Similarity`: :class:`qguard.outputs.TokenVectors` in float64."""
        return vectors.astype(np.float64)

    def pairs(self, a: Any, b: Any) -> Rows:
        """See :class:`Similarity`; ``a`` are the queries."""
        return np.asarray([self.scores(a[i : i + 1], b[i : i + 1])[0, 0] for i in range(len(a))], np.float64)

    def scores(self, queries: Any, documents: Any) -> Rows:
        """See :class:`Similarity`; of any :class:`qguard.outputs.TokenVectors`."""
        out = np.full((len(queries), len(documents)), EMPTY)
        sizes = queries.counts
        some = np.flatnonzero(documents.counts)
        for d in _blocks(documents.counts[some], 1024):
            block = documents[some[d]].astype(np.float64)
            for q in _blocks(sizes, max(1, _HELD // len(block.vectors))):
                part = queries[q].astype(np.float64)
                best = np.maximum.reduceat(block.vectors @ part.vectors.T, block.offsets[:-1], axis=0)
                out[q, some[d]] = _sums(best, part.offsets).T
        return out / np.maximum(sizes, 1)[:, None] if self.name == MEAN_MAXSIM else out

    def scale(self, vectors: Any) -> Any:
        """See :class:`Similarity`: the number of each text's tokens, (n,), so that scores are means of products of tokens."""
        return np.maximum(vectors.counts, 1).astype(np.float64) if self.name == MAXSIM else 1.0

    def agreement(self, a: Any, b: Any) -> Rows:
        """See :class:`Similarity`: the same formula over all tokens of a text, which is the mean cosine of its tokens where they
        have unit length; -1 where texts differ in their number of tokens.
        """
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = x.counts == y.counts
        out = np.full(len(x), -1.0)
        u, v = x[same], y[same]
        with np.errstate(invalid="ignore", over="ignore"):
            both = [
                _sums((s * t).sum(1)[None], u.offsets)[0] for s, t in ((u.vectors, v.vectors), (u.vectors,) * 2, (v.vectors,) * 2)
            ]
            lengths = both[1] + both[2]
            out[same] = 2 * both[0] / np.where(lengths == 0, 1.0, lengths)
        return out


@dataclass(frozen=True)
class StoredTokens:
    """The vectors of tokens as an index keeps them, quantized one by one; see :class:`qguard.vectors.quantized.Vectors`.

    Attributes:
        vectors: Of all tokens.
        offsets: int64 (n + 1,): where the tokens of each text begin, and the end of the last.
        similarity: What ranks.
    """

    vectors: Vectors
    offsets: NDArray[np.int64]
    similarity: MaxSim

    @classmethod
    def of(cls, texts: TokenVectors, kind: str, ranges: Any, similarity: MaxSim) -> StoredTokens:
        """Quantize float32 vectors of tokens.

        Args:
            texts: Their texts.
            kind: One of :data:`qguard.vectors.quantized.KINDS`.
            ranges: float32 (2, dim) for int8 and uint8, else ``None``.
            similarity: What ranks.
        """
        return cls(Vectors.of(texts.vectors, kind, ranges), texts.offsets, similarity)

    @property
    def kind(self) -> str:
        """How they are stored."""
        return self.vectors.kind

    @property
    def size_ratio(self) -> float:
        """Bytes of the codes over those of float32."""
        return self.vectors.size_ratio

    def clipped(self) -> NDArray[np.float64]:
        """Share of each token's values that lie outside the ranges, (tokens,) in [0, 1]."""
        return self.vectors.clipped()

    def dequantized(self) -> TokenVectors:
        """What rescoring takes the vectors for, float64."""
        return TokenVectors(self.vectors.dequantized(), self.offsets)

    def scores(self, documents: NDArray[np.int_], queries: NDArray[np.int_] | None = None) -> NDArray[np.float64]:
        """MaxSim of codes with codes, (q, d): products of codes, for bits of -1 and 1.

        Args:
            documents: Texts that are searched.
            queries: Texts that search; ``None`` for all.
        """
        codes = TokenVectors(self.vectors.values(), self.offsets)
        return self.similarity.scores(codes if queries is None else codes[queries], codes[documents])

    def rescores(self, documents: NDArray[np.int_], queries: NDArray[np.int_] | None = None) -> NDArray[np.float64]:
        """MaxSim of float32 queries with dequantized documents, (q, d)."""
        floats = TokenVectors(self.vectors.floats, self.offsets)
        return self.similarity.scores(floats if queries is None else floats[queries], self.dequantized()[documents])


def of_tokens(a: TokenVectors, b: TokenVectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine of each token's vector in ``b`` to that in ``a``, and its length over that in ``a``; both (tokens of ``a``,).

    A text that has another number of tokens in ``b`` has none that could be compared: cosines of -1 and lengths of 0.
    """
    same = a.counts == b.counts
    kept = np.repeat(same, a.counts)
    x, y = a[same].vectors, b[same].vectors
    near, longer = np.full(len(kept), -1.0), np.zeros(len(kept))
    near[kept] = cosine(x, y)
    longer[kept] = np.linalg.norm(y, axis=1) / np.maximum(np.linalg.norm(x, axis=1), 1e-12)
    return near, longer


def similarity(name: str) -> Similarity:
    """What a multi-vector model ranks by.

    Args:
        name: ``maxsim`` or ``meanmaxsim``.
    """
    return MaxSim(name)


def _blocks(sizes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Neighboring texts of together at most so many tokens, at least one text."""
    start = total = 0
    for i, size in enumerate(sizes.tolist()):
        if i > start and total + size > most:
            yield slice(start, i)
            start, total = i, 0
        total += size
    if len(sizes):
        yield slice(start, len(sizes))


def _sums(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums (m, texts) of values (m, tokens) over each text's tokens; 0 for a text without any."""
    some = np.flatnonzero(np.diff(offsets))
    out = np.zeros((len(values), len(offsets) - 1))
    if len(some):
        out[:, some] = np.add.reduceat(values, offsets[:-1][some], axis=1)
    return out
