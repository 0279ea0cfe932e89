"""The similarities of sentence-transformers, computed in float64: what a model declares is what it ranks by.

``cosine``; ``dot``, the inner product; ``euclidean`` and ``manhattan``, the negative distance. Lengths of vectors count for all
but the first. Scores of these three have no common range, so differences of them are measured on the scale of cosines:

==========  ==================================================
dot         score / r², r the root mean square length in fp32
euclidean   1 - score² / (2 r²)
manhattan   1 - score² / (2 r²), lengths by the sum of magnitudes
==========  ==================================================

On this scale a text scores 1 with itself, and 0 with one that is unrelated to it, if both have the mean length; of vectors of one
length, dot and euclidean score their cosine. The maps keep the order of scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qguard.kinds import CROSS_ENCODER, DENSE, MULTI_VECTOR, SPARSE
from qguard.models.pipeline import Pipeline
from qguard.outputs import relative_change, relative_distance
from qguard.registry import function_of
from qguard.vectors.cosine import Rows, cosine, of_units, unit


@dataclass(frozen=True)
class Similarity:
    """One similarity; this class itself is the inner product.

    Attributes:
        name: As sentence-transformers writes it, in ``similarity_fn_name``.
    """

    name: str = "dot"

    # whether it ranks the outputs of another kind of models than dense ones, which are not cut or searched as vectors are
    of_outputs: ClassVar[bool] = False
    # whether outputs of zeros alone are broken
    refuses_zeros: ClassVar[bool] = True
    # whether a score is that of a query with a document, and another the other way round: then queries alone search
    asymmetric: ClassVar[bool] = False

    @property
    def by_length(self) -> bool:
        """Whether the lengths of vectors count."""
        return True

    def prepared(self, vectors: Any) -> Rows:
        """Rows (n, dim) as the other methods take them, float64."""
        return np.asarray(vectors, np.float64)

    def pairs(self, a: Rows, b: Rows) -> Rows:
        """The score of each row of ``a`` with the same row of ``b``; prepared rows (n, dim), scores (n,)."""
        return np.asarray(np.einsum("ij,ij->i", a, b))

    def scores(self, queries: Rows, documents: Rows) -> Rows:
        """The score of each query with each document; prepared rows (q, dim) and (d, dim), scores (q, d)."""
        return np.asarray(queries @ documents.T)

    def scale(self, vectors: Any) -> Any:
        """What scores are measured in: ``r²`` of rows (n, dim) for the inner product, ``r`` for a distance, 1 for the cosine.

        Of a similarity whose scores grow with the query, an array: of each row as a query.
        """
        x = np.asarray(vectors, np.float64)
        return float(np.einsum("ij,ij->i", x, x).mean()) or 1.0

    def relative(self, scores: Any, scale: float) -> Rows:
        """Scores on the scale of cosines; see the module."""
        return np.asarray(scores, np.float64) / scale

    def agreement(self, a: Any, b: Any) -> Rows:
        """How nearly each row of ``a`` is the same row of ``b``: 1 where they are equal.

        ``1 - |x - y|² / (|x|² + |y|²)``, which is the cosine of two vectors of one length, and falls as lengths move apart: to .8
        where one is twice the other. Rows (n, dim), result (n,) in [-1, 1]; NaN where a vector is not finite.
        """
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = (x * x).sum(1) + (y * y).sum(1)
            return np.asarray(2 * (x * y).sum(1) / np.where(lengths == 0, 1.0, lengths))

    def fitted(self, outputs: Any, declared: Mapping[str, Any] | None = None, threshold: float | None = None) -> Similarity:
        """The same, with what it takes from fp32's own outputs; of vectors it takes nothing.

        Args:
            outputs: fp32's of a suite.
            declared: The model's pipeline, as its golden has it.
            threshold: The score that the project takes for a match, where it states one.
        """
        return self

    def nearness(self, a: Any, b: Any) -> Rows:
        """How nearly each row of ``a`` points where the same row of ``b`` does: their cosine, whatever ranks; of other outputs
        than vectors :meth:`agreement`.
        """
        return self.agreement(a, b) if self.of_outputs else cosine(a, b)

    def change(self, old: Any, new: Any) -> Rows:
        """How far values moved; see :func:`qguard.outputs.relative_change`."""
        return relative_change(old, new)

    def distances(self, old: Any, new: Any) -> Rows:
        """How far rows moved; see :func:`qguard.outputs.relative_distance`."""
        return relative_distance(old, new)


@dataclass(frozen=True)
class Cosine(Similarity):
    """The inner product of vectors scaled to unit length; see :mod:`qguard.vectors.cosine`."""

    name: str = "cosine"

    @property
    def by_length(self) -> bool:
        """See :attr:`Similarity.by_length`."""
        return False

    def prepared(self, vectors: Any) -> Rows:
        """See :meth:`Similarity.prepared`."""
        return unit(vectors)

    def pairs(self, a: Rows, b: Rows) -> Rows:
        """See :meth:`Similarity.pairs`."""
        return of_units(a, b)

    def scale(self, vectors: Any) -> float:
        """See :meth:`Similarity.scale`."""
        return 1.0

    def relative(self, scores: Any, scale: float) -> Rows:
        """See :meth:`Similarity.relative`."""
        return np.asarray(scores, np.float64)

    def agreement(self, a: Any, b: Any) -> Rows:
        """Their cosine."""
        return cosine(a, b)


@dataclass(frozen=True)
class Distance(Similarity):
    """A negative distance.

    Attributes:
        metric: Its name in :func:`scipy.spatial.distance.cdist`.
        order: Of the norm that it is.
    """

    metric: str = "euclidean"
    order: int = 2

    def pairs(self, a: Rows, b: Rows) -> Rows:
        """See :meth:`Similarity.pairs`."""
        return np.asarray(-np.linalg.norm(a - b, self.order, axis=1))

    def scores(self, queries: Rows, documents: Rows) -> Rows:
        """See :meth:`Similarity.scores`."""
        # torch.cdist, which sentence-transformers uses, forms distances of more than 25 rows from inner products in float32:
        # equal vectors then lie apart
        from scipy.spatial.distance import cdist

        return np.asarray(-cdist(queries, documents, self.metric))

    def scale(self, vectors: Any) -> float:
        """See :meth:`Similarity.scale`; lengths by the distance's own norm."""
        lengths = np.linalg.norm(np.asarray(vectors, np.float64), self.order, axis=1)
        return float(np.sqrt(np.square(lengths).mean())) or 1.0

    def relative(self, scores: Any, scale: float) -> Rows:
        """See :meth:`Similarity.relative`."""
        return 1 - np.square(np.asarray(scores, np.float64) / scale) / 2


DOT, COSINE = Similarity(), Cosine()
SIMILARITIES: dict[str, Similarity] = {
    s.name: s for s in (COSINE, DOT, Distance("euclidean"), Distance("manhattan", "cityblock", 1))
}


# what the outputs of the other kinds are ranked by: the name that a model declares → a similarity
_OF_KIND = {
    CROSS_ENCODER: "qguard.vectors.scores:similarity",
    SPARSE: "qguard.vectors.sparse:similarity",
    MULTI_VECTOR: "qguard.vectors.multi_vector:similarity",
}


def similarity_of(pipeline: Pipeline) -> Similarity:
    """What a model's outputs are ranked by."""
    return similarity_for(pipeline.kind, pipeline.similarity)


def similarity_for(kind: str, name: str) -> Similarity:
    """What the outputs of a kind of models are ranked by.

    Args:
        kind: A name in :data:`qguard.kinds.KINDS`.
        name: As the model declares it.
    """
    found: Similarity = SIMILARITIES[name] if kind == DENSE else function_of(_OF_KIND[kind])(name)
    return found
