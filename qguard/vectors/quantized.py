"""Embedding quantization: int8, uint8, binary and ubinary vectors, and how they are searched.

The vectors, not the model: embeddings of any precision can be stored this way. Codes are bit for bit those of
``sentence_transformers.util.quantize_embeddings`` (a test holds them to it), scores those of its semantic search.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem
from qguard.outputs import vectors_of
from qguard.vectors import cosine
from qguard.vectors.similarity import DOT, Similarity

if TYPE_CHECKING:
    from qguard.suites import Suite

Floats = NDArray[np.float32]
FLOAT = "float32"  # vectors that are not quantized
SCALAR = ("int8", "uint8")  # one byte a value, on a scale of 256 steps per dimension
BINARY = ("binary", "ubinary")  # one bit a value: whether it is above 0
KINDS = (*SCALAR, *BINARY)
# Below this sentence-transformers warns that ranges are unstable, and from one text it once made them in silence
LEAST_CALIBRATION = 100
# Rescoring looks at this many times the wanted results
RESCORE_MULTIPLIER = 4


def ranges_of(calibration: Floats) -> Floats:
    """Smallest and largest value of each dimension: the scale of int8 and uint8 codes.

    Args:
        calibration: float32 (texts, dim), at least :data:`LEAST_CALIBRATION` texts.

    Returns:
        float32 (2, dim).

    Raises:
        MeasurementProblem: for fewer texts.
    """
    if len(calibration) < LEAST_CALIBRATION:
        raise MeasurementProblem(
            f"ranges of int8 and uint8 vectors need at least {LEAST_CALIBRATION} calibration texts, found {len(calibration)}; "
            'name a larger suite: [tool.qguard.vectors] calibration = "core"'
        )
    return np.stack((calibration.min(0), calibration.max(0))).astype(np.float32)


def unit(vectors: NDArray[Any]) -> Floats:
    """Rows scaled to unit length, float32 (n, dim): where neighbors are by cosine, inner products of codes are not.

    What is quantized of a model that does not normalize by itself.
    """
    return np.asarray(cosine.unit(vectors), np.float32)


def quantize(embeddings: Floats, kind: str, ranges: Floats | None = None) -> NDArray[Any]:
    """Codes of embeddings.

    int8 and uint8 are ``floor((x - low) / step)`` with ``step = (high - low) / 255``; a value outside the range is clipped
    to its end, never wrapped around. binary and ubinary hold the bits ``x > 0``, most significant first, the last byte
    filled up with zeros; binary is ubinary less 128.

    Args:
        embeddings: float32 (n, dim), finite.
        kind: One of :data:`KINDS`.
        ranges: float32 (2, dim); needed for :data:`SCALAR`.

    Returns:
        int8 or uint8: (n, dim) for :data:`SCALAR`, (n, ceil(dim / 8)) for :data:`BINARY`.
    """
    if kind in BINARY:
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if kind == "ubinary" else np.asarray((bits ^ 0x80).view(np.int8))
    assert ranges is not None
    # every step in float32: sentence-transformers' are, and a rounding apart is a code apart
    codes = np.clip(np.floor((embeddings - ranges[0]) / _steps(ranges)), 0, 255)
    return np.asarray(codes.astype(np.uint8) if kind == "uint8" else (codes - 128).astype(np.int8))


def _steps(ranges: Floats) -> Floats:
    steps = (ranges[1] - ranges[0]) / np.float32(255)
    return np.where(steps == 0, np.float32(1), steps)  # a dimension that never varies


@dataclass(frozen=True)
class Ranges:
    """The ranges of int8 and uint8 codes, and what they come from.

    Attributes:
        suite: Name of the suite.
        part: ``documents``, or ``texts`` where the suite has no retrieval part.
        texts: How many.
        ranges: float32 (2, dim); see :func:`ranges_of`.
    """

    suite: str
    part: str
    texts: int
    ranges: Floats

    @classmethod
    def of(cls, suite: Suite, vectors: Any) -> Ranges:
        """The documents of a suite, as the owner of an index takes them: never the queries, never a batch.

        Args:
            suite: The texts.
            vectors: float32 (texts, dim): their fp32 embeddings, or the vectors of their tokens.

        Raises:
            MeasurementProblem: for fewer than :data:`LEAST_CALIBRATION`.
        """
        chosen = vectors[list(suite.documents)] if suite.documents else vectors
        return cls(suite.name, "documents" if suite.documents else "texts", len(chosen), ranges_of(vectors_of(chosen)))

    def to_json(self) -> dict[str, Any]:
        """For the report; the hash says whether two runs used the same ranges."""
        digest = hashlib.sha256(self.ranges.tobytes()).hexdigest()
        return {"suite": self.suite, "part": self.part, "texts": self.texts, "ranges_sha256": digest}


@dataclass(frozen=True)
class Vectors:
    """Quantized vectors beside the embeddings they were made from.

    Attributes:
        kind: One of :data:`KINDS`.
        codes: What is stored; see :func:`quantize`.
        floats: float32 (n, dim): the embeddings; a query keeps its own for rescoring.
        ranges: float32 (2, dim) for :data:`SCALAR`, else ``None``.
        similarity: What a search ranks codes of :data:`SCALAR` by, and rescoring; bits are ranked by how many agree.
    """

    kind: str
    codes: NDArray[Any]
    floats: Floats
    ranges: Floats | None = None
    similarity: Similarity = DOT

    @classmethod
    def of(cls, floats: Floats, kind: str, ranges: Floats | None = None, similarity: Similarity = DOT) -> Vectors:
        """Quantize ``floats``."""
        return cls(kind, quantize(floats, kind, ranges), floats, ranges, DOT if kind in BINARY else similarity)

    @property
    def size_ratio(self) -> float:
        """Bytes of the codes over those of float32."""
        return self.codes.nbytes / self.floats.nbytes

    def clipped(self) -> NDArray[np.float64]:
        """Share of each text's values that lie outside the ranges, (n,) in [0, 1]; 0 for :data:`BINARY`."""
        if self.ranges is None:
            return np.zeros(len(self.floats))
        return np.asarray(((self.floats < self.ranges[0]) | (self.floats > self.ranges[1])).mean(1), np.float64)

    def values(self) -> NDArray[np.float64]:
        """The numbers that a search multiplies, (n, dim): the codes themselves; for :data:`BINARY` -1 or 1 of each bit."""
        if self.kind in SCALAR:
            return self.codes.astype(np.float64)
        packed: Any = self.codes if self.kind == "ubinary" else self.codes.view(np.uint8) ^ 0x80
        return np.asarray(np.unpackbits(packed, axis=-1, count=self.floats.shape[1]) * 2.0 - 1, np.float64)

    def dequantized(self) -> NDArray[np.float64]:
        """What rescoring takes the vectors for, (n, dim): code × step + low; for :data:`BINARY` -1 or 1 of each bit.

        sentence-transformers' rescoring reads bits as 0 and 1, which orders documents the same: both scores of a query
        differ by its constant sum and a factor of two.
        """
        if self.ranges is None:
            return self.values()
        offset = 128 if self.kind == "int8" else 0
        return np.asarray((self.values() + offset) * _steps(self.ranges) + self.ranges[0])

    def scores(self, documents: NDArray[np.int_], queries: NDArray[np.int_] | None = None) -> NDArray[np.float64]:
        """Quantized query against quantized document, (q, d), exact: no product or sum leaves the integers of float64.

        For :data:`SCALAR` by the similarity, the inner product of the codes unless it is a distance. For :data:`BINARY`
        dim - 2 × the Hamming distance.

        Args:
            documents: Texts that are searched.
            queries: Texts that search; ``None`` for all.
        """
        values = self.values()
        return self.similarity.scores(values if queries is None else values[queries], values[documents])

    def rescores(self, documents: NDArray[np.int_], queries: NDArray[np.int_] | None = None) -> NDArray[np.float64]:
        """float32 query against dequantized document, (q, d), in float64; arguments as of :meth:`scores`."""
        floats = self.floats if queries is None else self.floats[queries]
        return self.similarity.scores(floats.astype(np.float64), self.dequantized()[documents])
