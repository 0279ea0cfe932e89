"""Vectors as a store is given them, and the numbers that its scores are made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.indexes.settings import BFLOAT16, BINARY, FLOAT16, FLOAT32
from qguard.vectors.quantized import quantize, unit
from qguard.vectors.search import VectorFile

BLOCK = 1024  # rows that are inserted at once
BUCKETS = 1_000  # a filter of a thousandth of the rows is one of them


def stored(vectors: Floats, kind: str, ranges: Floats | None = None) -> NDArray[Any]:
    """float32 (n, dim) as a store is given them; see :meth:`qguard.indexes.collection.Collection.insert`.

    bfloat16 is rounded to the nearest, ties to even, as PyTorch rounds.

    Args:
        vectors: Finite.
        kind: One of :data:`qguard.indexes.settings.VECTORS`.
        ranges: Of int8, as of :func:`qguard.vectors.quantized.quantize`.

    Raises:
        MeasurementProblem: for values that float16 cannot hold.
    """
    if kind == FLOAT32:
        return np.ascontiguousarray(vectors, np.float32)
    if kind == FLOAT16:
        with np.errstate(over="ignore"):
            half = vectors.astype(np.float16)
        if not np.isfinite(half).all():
            raise MeasurementProblem(f"float16 holds numbers up to 65504; found {np.abs(vectors).max():g} in the vectors")
        return half
    if kind == BFLOAT16:
        bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
        return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16)
    return quantize(vectors, "ubinary" if kind == BINARY else kind, ranges)


def values(given: NDArray[Any], kind: str, dim: int) -> Floats:
    """The numbers that scores are made of, float32 (n, dim): of bits 1 and -1, whose inner product is dim - 2 × Hamming."""
    if kind == BFLOAT16:
        return np.asarray((given.astype(np.uint32) << 16).view(np.float32))
    if kind == BINARY:
        return np.asarray(np.unpackbits(given, axis=-1, count=dim) * np.float32(2) - 1, np.float32)
    return np.asarray(given, np.float32)


@dataclass(frozen=True, eq=False)
class StoredFile(VectorFile):
    """A file of float32 rows that is read as the numbers that scores are made of.

    Attributes:
        kind: How the rows are stored.
        ranges: Of int8.
        of_unit_length: Whether what is read is scaled to unit length, as searches by cosine want it.
    """

    kind: str = FLOAT32
    ranges: Floats | None = None
    of_unit_length: bool = False

    def read(self, start: int, out: Floats) -> Floats:
        """See :meth:`qguard.vectors.search.VectorFile.read`."""
        found = super().read(start, out)
        found[:] = self._scored(found)
        return found

    def take(self, rows: NDArray[np.int64]) -> Floats:
        """See :meth:`qguard.vectors.search.VectorFile.take`."""
        return self._scored(super().take(rows))

    def _scored(self, floats: Floats) -> Floats:
        found = values(stored(floats, self.kind, self.ranges), self.kind, self.dim)
        return unit(found) if self.of_unit_length else found


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of an index.

    Attributes:
        floats: The candidate's float32 vectors (n, dim), or a file of them.
        kind: How they are stored.
        buckets: (n,): the attribute of each row that filters look at; see :func:`buckets_of`.
        ranges: Of int8.
    """

    floats: Floats | VectorFile
    kind: str
    buckets: NDArray[np.int64]
    ranges: Floats | None = None

    def __post_init__(self) -> None:
        if isinstance(self.floats, VectorFile):
            return
        bad = np.flatnonzero(~np.isfinite(self.floats).all(1))
        if len(bad):
            raise MeasurementProblem(
                f"{len(bad)} of {len(self.floats)} rows hold NaN or infinite values, the first is row {bad[0]}; stores take such "
                "rows without a word, so none is given them"
            )

    def __len__(self) -> int:
        return self.floats.rows if isinstance(self.floats, VectorFile) else len(self.floats)

    @property
    def dim(self) -> int:
        """Values of a vector."""
        return self.floats.dim if isinstance(self.floats, VectorFile) else int(self.floats.shape[1])

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows as a store is given them."""
        if isinstance(self.floats, VectorFile):
            out = np.empty((min(stop, len(self)) - start, self.dim), np.float32)
            return stored(self.floats.read(start, out), self.kind, self.ranges)
        return stored(self.floats[start:stop], self.kind, self.ranges)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Chosen rows as a store is given them."""
        if isinstance(self.floats, VectorFile):
            return stored(self.floats.take(rows), self.kind, self.ranges)
        return stored(self.floats[rows], self.kind, self.ranges)

    def values(self, rows: NDArray[np.int64]) -> Floats:
        """Chosen rows as scores are made of them."""
        return values(self.take(rows), self.kind, self.dim)

    @cached_property
    def scored(self) -> Floats | VectorFile:
        """All rows as scores are made of them."""
        if self.kind == FLOAT32:
            return self.floats
        if isinstance(self.floats, VectorFile):
            return StoredFile(self.floats.path, self.floats.rows, self.dim, self.kind, self.ranges)
        return values(stored(self.floats, self.kind, self.ranges), self.kind, self.dim)

    @cached_property
    def sha256(self) -> str:
        """Of all rows as they are stored, and of their buckets: names the collection that holds them."""
        digest = hashlib.sha256(f"{self.kind} {len(self)} {self.dim}".encode())
        for start in range(0, len(self), BLOCK):
            digest.update(np.ascontiguousarray(self.block(start, start + BLOCK)).tobytes())
        digest.update(self.buckets.tobytes())
        return digest.hexdigest()

    def below(self, share: float) -> int:
        """The bucket below which about this share of the rows lies."""
        return max(1, round(share * BUCKETS))


def buckets_of(ids: list[str]) -> NDArray[np.int64]:
    """The attribute that filters look at, of each document by its id, in [0, :data:`BUCKETS`)."""
    return np.asarray([int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") % BUCKETS for i in ids], np.int64)
