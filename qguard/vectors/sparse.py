"""Similarities of sparse rows in float64: products of what both texts have, without a row ever being filled with zeros.

``dot``, which a sparse model ranks by unless it declares ``cosine``. Scores of the inner product are measured on the scale of
cosines as those of dense vectors are; see :mod:`qguard.vectors.similarity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qguard.errors import UsageProblem
from qguard.outputs import SparseRows
from qguard.outputs import lengths as lengths_of
from qguard.vectors.cosine import Rows
from qguard.vectors.similarity import Similarity

BLOCK = 256  # queries whose scores are made at once


@dataclass(frozen=True)
class SparseDot(Similarity):
    """The inner product of sparse rows.

    A text without any weight scores 0 with every text. It agrees with another one that has none.
    """

    of_outputs: ClassVar[bool] = True
    refuses_zeros: ClassVar[bool] = False  # a text may hold no word that counts: a search for it finds nothing

    def prepared(self, vectors: Any) -> Any:
        """:class:`SparseRows` in float64."""
        return vectors.astype(np.float64)

    def pairs(self, a: Any, b: Any) -> Rows:
        """See :meth:`Similarity.pairs`."""
        return _sums(a.matrix.multiply(b.matrix))

    def scores(self, queries: Any, documents: Any) -> Rows:
        """See :meth:`Similarity.scores`; of the texts, only scores are held whole."""
        out, inverted = np.empty((len(queries), len(documents))), documents.matrix.T.tocsr()
        for start in range(0, len(queries), BLOCK):
            out[start : start + BLOCK] = (queries.matrix[start : start + BLOCK] @ inverted).toarray()
        return out

    def scale(self, vectors: Any) -> float:
        """The mean of the squared lengths in fp32."""
        return float(np.square(lengths_of(vectors)).mean()) or 1.0

    def agreement(self, a: Any, b: Any) -> Rows:
        """``1 - |x - y|² / (|x|² + |y|²)`` as of dense vectors; 1 where both are empty, NaN where one is not finite."""
        x, y = self.prepared(a), self.prepared(b)
        return _agreed(2 * self.pairs(x, y), _squares(x) + _squares(y))


@dataclass(frozen=True)
class SparseCosine(SparseDot):
    """The inner product of sparse rows scaled to unit length."""

    name: str = "cosine"

    @property
    def by_length(self) -> bool:
        """See :attr:`Similarity.by_length`."""
        return False

    def prepared(self, vectors: Any) -> Any:
        """Rows of unit length; empty ones stay empty."""
        from scipy.sparse import diags_array

        rows = vectors.astype(np.float64)
        length = np.sqrt(_squares(rows))
        return SparseRows((diags_array(1 / np.where(length == 0, 1.0, length)) @ rows.matrix).tocsr())

    def scale(self, vectors: Any) -> float:
        """See :meth:`Similarity.scale`."""
        return 1.0

    def agreement(self, a: Any, b: Any) -> Rows:
        """Their cosine; 1 where both are empty."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        return _agreed(self.pairs(x, y), np.sqrt(_squares(x) * _squares(y)), (_squares(x) + _squares(y)) == 0)


def _squares(rows: SparseRows) -> Rows:
    return _sums(rows.matrix.multiply(rows.matrix))


def _sums(matrix: Any) -> Rows:
    return np.asarray(matrix.sum(axis=1), np.float64).ravel()


def _agreed(product: Rows, divisor: Rows, empty: Any = None) -> Rows:
    nothing = divisor == 0
    found = product / np.where(nothing, 1.0, divisor)
    return np.asarray(np.where(nothing if empty is None else empty, 1.0, found))


_KNOWN = {s.name: s for s in (SparseDot(), SparseCosine())}


def similarity(name: str) -> Similarity:
    """What a sparse model ranks by.

    Args:
        name: As the model declares it.

    Raises:
        UsageProblem: for another similarity than ``dot`` and ``cosine``.
    """
    if name not in _KNOWN:
        raise UsageProblem(f"a sparse model ranks by dot or cosine, found {name!r}")
    return _KNOWN[name]
