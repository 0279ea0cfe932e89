"""What a model gives for n inputs, by its kind, behind the few operations that every kind needs.

===============  =========================================================================
dense            ``float32 (n, dim)``
cross-encoder    ``float32 (n, labels)``: logits of a pair of texts
sparse           :class:`SparseRows`: n rows of a sparse matrix, (n, words of the vocabulary)
multi-vector     :class:`TokenVectors`: for each text its tokens' vectors, (tokens, dim)
===============  =========================================================================

All have ``len``, ``shape`` (n, width), ``astype`` and rows by an index, a slice or an array of indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem
from qguard.kinds import MULTI_VECTOR, SPARSE

Flags = NDArray[np.bool_]


class Ragged(Protocol):
    """Rows that are no rectangle; see :class:`SparseRows` and :class:`TokenVectors`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs, and values of a row or of a token's vector."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Self: ...

    def astype(self, dtype: Any) -> Self:
        """The same in another element type."""
        ...

    def finite(self) -> Flags:
        """Of each row, whether all of its values are finite; (n,)."""
        ...

    def empty(self) -> Flags:
        """Of each row, whether it holds no value but 0; (n,)."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file has to hold, by name."""
        ...


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of weights, of which most are 0: the others are held, sorted by column.

    Attributes:
        matrix: ``scipy.sparse.csr_array`` (n, width).
    """

    matrix: Any

    @classmethod
    def of(cls, rows: Any) -> SparseRows:
        """From a dense array or any sparse matrix, (n, width); zeros are dropped, columns sorted."""
        from scipy.sparse import csr_array

        matrix = csr_array(rows)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return cls(matrix)

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], width: int) -> SparseRows:
        """From what :meth:`arrays` gave.

        Raises:
            ValueError: for arrays that do not fit together.
        """
        from scipy.sparse import csr_array

        ends, columns, weights = arrays["row_offsets"], arrays["columns"], arrays["weights"]
        matrix = csr_array((weights, columns, ends), shape=(len(ends) - 1, width))
        matrix.check_format()
        return cls(matrix)

    @classmethod
    def joined(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """All rows of the parts, in their order."""
        from scipy.sparse import vstack

        return cls(vstack([p.matrix for p in parts], format="csr"))

    @property
    def shape(self) -> tuple[int, int]:
        """See :class:`Ragged`."""
        return (int(self.matrix.shape[0]), int(self.matrix.shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> SparseRows:
        return SparseRows(self.matrix[_several(rows)])

    def astype(self, dtype: Any) -> SparseRows:
        """See :class:`Ragged`."""
        return SparseRows(self.matrix.astype(dtype))

    def finite(self) -> Flags:
        """See :class:`Ragged`."""
        bad = np.zeros(len(self), bool)
        bad[np.repeat(np.arange(len(self)), self.counts)[~np.isfinite(self.matrix.data)]] = True
        return ~bad

    def empty(self) -> Flags:
        """See :class:`Ragged`."""
        return np.asarray(self.counts == 0)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Active dimensions of each row, those that are not 0; (n,)."""
        return np.asarray(np.diff(self.matrix.indptr), np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See :class:`Ragged`: the start of each row and the end of the last, int64 (n + 1,); column, int32, and weight of each
        active dimension.
        """
        m = self.matrix
        return {"row_offsets": m.indptr.astype(np.int64), "columns": m.indices.astype(np.int32), "weights": m.data}


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """Of each text one vector a token that counts.

    Attributes:
        vectors: (tokens of all texts, dim).
        offsets: int64 (n + 1,): where the vectors of each text begin, and the end of the last.
    """

    vectors: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: NDArray[Any], mask: NDArray[Any]) -> TokenVectors:
        """From a padded batch.

        Args:
            tokens: (batch, length, dim).
            mask: (batch, length), not 0 at the tokens that count.
        """
        kept = np.asarray(mask) != 0
        return cls(tokens[kept], np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int64))

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], width: int) -> TokenVectors:
        """From what :meth:`arrays` gave.

        Raises:
            ValueError: for arrays that do not fit together.
        """
        found = cls(arrays["vectors"], arrays["vector_offsets"])
        steps = np.diff(found.offsets)
        if found.vectors.shape[1:] != (width,) or (steps < 0).any() or found.offsets[[0, -1]].tolist() != [0, len(found.vectors)]:
            raise ValueError("vectors and their offsets do not fit together")
        return found

    @classmethod
    def joined(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """All texts of the parts, in their order."""
        counts = np.concatenate([np.diff(p.offsets) for p in parts])
        return cls(np.concatenate([p.vectors for p in parts]), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """See :class:`Ragged`."""
        return (len(self.offsets) - 1, int(self.vectors.shape[1]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Vectors of each text, (n,)."""
        return np.asarray(np.diff(self.offsets), np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Any) -> TokenVectors:
        chosen = np.arange(len(self))[_several(rows)]
        counts = self.counts[chosen]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        at = np.repeat(self.offsets[chosen] - ends[:-1], counts) + np.arange(ends[-1])
        return TokenVectors(self.vectors[at], ends)

    def text(self, row: int) -> NDArray[Any]:
        """The vectors of one text, (tokens, dim)."""
        return self.vectors[self.offsets[row] : self.offsets[row + 1]]

    def astype(self, dtype: Any) -> TokenVectors:
        """See :class:`Ragged`."""
        return TokenVectors(self.vectors.astype(dtype), self.offsets)

    def finite(self) -> Flags:
        """See :class:`Ragged`."""
        return self._every(np.asarray(np.isfinite(self.vectors).all(1)))

    def empty(self) -> Flags:
        """See :class:`Ragged`; a text that has a vector of zeros is one too, for no model gives it."""
        return np.asarray(~self._every(np.asarray(self.vectors.any(1))) | (self.counts == 0))

    def _every(self, good: Flags) -> Flags:
        """Of each text, whether this holds of all of its tokens."""
        bad = np.zeros(len(self), bool)
        bad[np.repeat(np.arange(len(self)), self.counts)[~good]] = True
        return ~bad

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See :class:`Ragged`."""
        return {"vectors": self.vectors, "vector_offsets": self.offsets}


def _several(rows: Any) -> Any:
    return [int(rows)] if isinstance(rows, int | np.integer) else rows


def finite(outputs: Any) -> Flags:
    """Of each row, whether all of its values are finite; (n,)."""
    return np.asarray(np.isfinite(outputs).all(1) if isinstance(outputs, np.ndarray) else outputs.finite())


def empty(outputs: Any) -> Flags:
    """Of each row, whether it holds no value but 0; (n,)."""
    return np.asarray(~outputs.any(1) if isinstance(outputs, np.ndarray) else outputs.empty())


def vectors_of(outputs: Any) -> Any:
    """Vectors (n, dim): of texts, or of all their tokens where each token has one."""
    return outputs.vectors if isinstance(outputs, TokenVectors) else outputs


def joined(parts: Sequence[Any]) -> Any:
    """All rows of the parts, in their order."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else type(parts[0]).joined(parts)


def split(outputs: Any, parts: int) -> list[Any]:
    """Outputs in so many parts of one size."""
    size = len(outputs) // parts
    return [outputs[i * size : (i + 1) * size] for i in range(parts)]


class Collected:
    """Outputs that come in batches of any order.

    Args:
        n: Inputs; each is in exactly one batch.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._dense: NDArray[Any] | None = None
        self._at: list[Sequence[int]] = []
        self._parts: list[Any] = []

    def put(self, rows: Sequence[int], outputs: Any) -> None:
        """What the model gave for these inputs."""
        if isinstance(outputs, np.ndarray):  # a large suite has room for its vectors once
            if self._dense is None:
                self._dense = np.empty((self._n, outputs.shape[1]), outputs.dtype)
            self._dense[rows] = outputs
            return
        self._at.append(rows)
        self._parts.append(outputs)

    def whole(self) -> Any:
        """The outputs of all inputs, in their order."""
        if self._dense is not None:
            return self._dense
        order = np.concatenate([np.asarray(rows, np.int64) for rows in self._at])
        return joined(self._parts)[np.argsort(order, kind="stable")]


def relative_change(old: Any, new: Any) -> NDArray[np.float64]:
    """The largest change of a value of each row, over the length of the old row: (n,), at least 0; infinity where shapes differ.

    Of a text with one vector a token it is the largest of its tokens.
    """
    if old.shape != new.shape:
        return np.full(len(old), np.inf)
    if isinstance(old, np.ndarray):
        return np.asarray(_of_rows(old, new))
    if isinstance(old, SparseRows):
        a, b = old.matrix.astype(np.float64), new.matrix.astype(np.float64)
        return np.asarray(np.asarray(abs(b - a).max(axis=1).todense()).ravel() / np.maximum(lengths(old), 1e-12))
    out = np.full(len(old), np.inf)
    for i in np.flatnonzero(old.counts == new.counts):
        out[i] = _of_rows(old.text(i), new.text(i)).max(initial=0)
    return out


def _of_rows(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.abs(new.astype(np.float64) - old).max(1) / np.maximum(lengths(old), 1e-12))


def relative_distance(old: Any, new: Any) -> NDArray[np.float64]:
    """``|y - x| / |x|`` of each row, (n,): of one vector a token over all of a text's tokens, of a row of zeros over the mean
    length of all rows. Infinity where shapes differ.
    """
    if old.shape != new.shape:
        return np.full(len(old), np.inf)
    if isinstance(old, TokenVectors):
        out = np.full(len(old), np.inf)
        for i in np.flatnonzero(old.counts == new.counts).tolist():
            x, y = old.text(i).astype(np.float64), new.text(i).astype(np.float64)
            out[i] = np.linalg.norm(y - x) / max(float(np.linalg.norm(x)), 1e-12)
        return out
    if isinstance(old, SparseRows):
        far = lengths(SparseRows(new.matrix.astype(np.float64) - old.matrix.astype(np.float64)))
    else:
        far = lengths(new.astype(np.float64) - old)
    own = lengths(old)
    return np.asarray(far / np.maximum(np.where(own == 0, own.mean(), own), 1e-12))


def lengths(outputs: Any) -> NDArray[np.float64]:
    """The length of each row, (n,); of a text with one vector a token the mean of its tokens' lengths."""
    if isinstance(outputs, np.ndarray):
        return np.asarray(np.linalg.norm(outputs.astype(np.float64), axis=1))
    if isinstance(outputs, SparseRows):
        m = outputs.matrix.astype(np.float64)
        return np.asarray(np.sqrt(np.asarray((m * m).sum(1))))
    every = np.linalg.norm(outputs.vectors.astype(np.float64), axis=1)
    sums = np.zeros(len(outputs))
    np.add.at(sums, np.repeat(np.arange(len(outputs)), outputs.counts), every)
    return np.asarray(sums / np.maximum(outputs.counts, 1))


def first_values(outputs: Any, row: int, count: int) -> NDArray[Any]:
    """The first values of a row: of weights those that are not 0, of one vector a token those of the first token."""
    if isinstance(outputs, np.ndarray):
        return outputs[row, :count]
    if isinstance(outputs, SparseRows):
        start, end = outputs.matrix.indptr[row : row + 2]
        return np.asarray(outputs.matrix.data[start:end][:count])
    return np.asarray(outputs.text(row)[:1, :count].ravel())


def with_values(outputs: Any, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    """Outputs of the same form whose numbers are changed: of weights those that are not 0."""
    if isinstance(outputs, np.ndarray):
        return change(outputs)
    if isinstance(outputs, TokenVectors):
        return TokenVectors(change(outputs.vectors), outputs.offsets)
    new = outputs.matrix.copy()
    new.data = change(new.data)
    return SparseRows.of(new)


def arrays_of(outputs: Any) -> dict[str, NDArray[Any]]:
    """What a golden's data file has to hold, by name."""
    return {"vectors": outputs} if isinstance(outputs, np.ndarray) else outputs.arrays()


def stored(arrays: Mapping[str, NDArray[Any]], kind: str, width: int) -> Any:
    """Outputs from a golden's data file.

    Raises:
        KeyError: for a file of another kind.
        ValueError: for arrays that do not fit together.
    """
    if kind == SPARSE:
        return SparseRows.stored(arrays, width)
    if kind == MULTI_VECTOR:
        return TokenVectors.stored(arrays, width)
    return arrays["vectors"]


def refuse_broken(outputs: Any, whose: str, texts: Sequence[str], *, zeros: bool = True) -> None:
    """All values are finite, and each input has some.

    Args:
        outputs: Of n inputs.
        whose: For the message.
        texts: The inputs.
        zeros: Whether outputs of zeros alone are broken too; scores may be 0.

    Raises:
        MeasurementProblem: with the first input that is not so.
    """
    good = finite(outputs)
    bad = np.flatnonzero(~good | (empty(outputs) if zeros else False))
    if len(bad):
        what = "NaN or infinite values" if not good[bad[0]] else "only zeros"
        raise MeasurementProblem(f"the {whose} of {len(bad)} of {len(good)} texts holds {what}; first: {texts[bad[0]][:60]!r}")
