"""Metrics: pure functions of (golden, candidate) in float64. A new metric is one ``Metric`` in its family's file; the families
are registered in :mod:`qguard.families`.

A metric maps a :class:`Comparison` to items (one row per text, pair or query, each with its slice) and reduces rows to
one number, so that the value of a slice is the same reduction over that slice's rows, and its interval that over resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem
from qguard.outputs import refuse_broken
from qguard.suites import Suite
from qguard.vectors.cosine import of_units, unit
from qguard.vectors.multi_vector import MaxSim, StoredTokens
from qguard.vectors.quantized import FLOAT, KINDS, Vectors
from qguard.vectors.similarity import COSINE, DOT, Similarity

if TYPE_CHECKING:
    from qguard.metrics.bootstrap import Uncertainty
    from qguard.metrics.bounds import Bound
    from qguard.metrics.neighbours import Neighbours

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """Rows of one family: ``rows`` (n, columns) float64, the slice of each, a label to show a person, and what a row is."""

    rows: Rows
    slices: tuple[str | None, ...]
    label: Callable[[int], str]
    noun: str = "texts"


@dataclass(frozen=True)
class MetricInfo:
    """What people need to know of one named number.

    Attributes:
        name: Public name, ``family.what``.
        higher_is_better: Direction, for margins and for the order of worst items.
        unit: Of the value, with its range where it has one, such as ``cosine in [-1, 1]``.
        description: What it says, in one line.
        source: Where the formula comes from: a publication, a library's function, or ``qguard`` for our own.
        vectors: The kinds of stored vectors that it exists for.
        of_fp32: It says nothing of the candidate.
    """

    name: str
    higher_is_better: bool = field(kw_only=True)
    unit: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)
    source: str = field(default="", kw_only=True)
    vectors: tuple[str, ...] = field(default=(FLOAT, *KINDS), kw_only=True)
    of_fp32: bool = field(default=False, kw_only=True)

    @property
    def has_interval(self) -> bool:
        """Whether the value is a statistic of a sample of items, so that a 95 % interval exists."""
        return False


@dataclass(frozen=True)
class Metric(MetricInfo):
    """One number that is a statistic of a suite's items.

    Attributes:
        reduce: Rows (..., n, columns) to (...): it reduces axis -2, so that many resamples of the rows are reduced at once.
            Any such function, but a minimum, a maximum or a quantile must be a
            :class:`~qguard.metrics.statistics.Quantile`: a bootstrap of it would be wrong.
        worst: Rows to a badness per row (n,), or ``None`` when single rows mean nothing.
        min_items: Fewest rows the number makes sense for; smaller slices are left out, a smaller suite is an error.
    """

    reduce: Callable[[Rows], Rows]
    worst: Callable[[Rows], Rows] | None = field(default=None, kw_only=True)
    min_items: int = field(default=1, kw_only=True)

    @property
    def has_interval(self) -> bool:
        """Of no minimum or maximum: a bootstrap of it would be wrong."""
        from qguard.metrics.statistics import Quantile

        return not (isinstance(self.reduce, Quantile) and self.reduce.q in (0, 1))


@dataclass(frozen=True)
class Comparison:
    """Golden and candidate embeddings (texts, dim) of one suite, as float64; of another kind of model its outputs.

    Attributes:
        vectors: The candidate's quantized vectors, of which ``candidate`` is then the dequantized form; else ``None``.
        neighbours: Of a large suite, what its queries find in the whole corpus; else ``None``.
        similarity: What the model ranks by.
        whole: The golden embeddings before they were cut to the candidate's dimensions; ``None`` where it has them all.

    Raises:
        MeasurementProblem: for wrong shapes, NaN or infinite values, and zero vectors.
    """

    suite: Suite
    golden: Any
    candidate: Any
    vectors: Vectors | StoredTokens | None = None
    neighbours: Neighbours | None = None
    similarity: Similarity = COSINE
    whole: Rows | None = None

    @classmethod
    def of(cls, suite: Suite, golden: Any, candidate: Any, similarity: Similarity = COSINE) -> Comparison:
        """Check and convert both arrays."""
        if golden.shape != candidate.shape or len(golden.shape) != 2 or not len(golden):
            raise MeasurementProblem(f"embeddings have the wrong shape: expected {golden.shape}, found {candidate.shape}")
        g, c = golden.astype(np.float64), candidate.astype(np.float64)
        for name, outputs in (("golden", g), ("candidate", c)):
            refuse_broken(outputs, f"{name} embedding", suite.texts, zeros=similarity.refuses_zeros)
        return cls(suite, g, c, similarity=similarity)

    def quantize(self, kind: str, ranges: Any = None) -> Comparison:
        """The same comparison with the candidate stored as quantized vectors; see :mod:`qguard.vectors.quantized`."""
        if isinstance(self.similarity, MaxSim):
            tokens = StoredTokens.of(self.candidate.astype(np.float32), kind, ranges, self.similarity)
            return replace(self, candidate=tokens.dequantized(), vectors=tokens)
        # the inner product of unit vectors is their cosine, and codes are made of unit vectors
        searched = DOT if self.similarity is COSINE else self.similarity
        vectors = Vectors.of(self.candidate.astype(np.float32), kind, ranges, searched)
        return replace(self, candidate=vectors.dequantized(), vectors=vectors)

    @property
    def kind(self) -> str:
        """How the candidate's vectors are stored."""
        return FLOAT if self.vectors is None else self.vectors.kind

    @cached_property
    def units(self) -> tuple[Rows, Rows]:
        """Golden and candidate embeddings scaled to unit length."""
        return unit(self.golden), unit(self.candidate)

    @cached_property
    def prepared(self) -> tuple[Any, Any]:
        """Golden and candidate embeddings as the similarity takes them."""
        if self.similarity.of_outputs:
            return self.similarity.prepared(self.golden), self.similarity.prepared(self.candidate)
        return self.units if self.similarity is COSINE else (self.golden, self.candidate)

    @cached_property
    def agreement(self) -> Rows:
        """How nearly each text's outputs are those of the golden, in [-1, 1]: the cosine of vectors; of another kind of model
        what its similarity says (:meth:`qguard.vectors.similarity.Similarity.agreement`).
        """
        if self.similarity.of_outputs:
            return self.similarity.agreement(self.golden, self.candidate)
        return of_units(*self.units)

    @cached_property
    def searchers(self) -> Any:
        """The texts that search, by index (q,), or ``None`` for all: of a retrieval suite the queries alone, where a text is
        encoded otherwise as a query.
        """
        queries = sorted(set(self.suite.queries)) if self.similarity.asymmetric else []
        return np.asarray(queries) if queries else None

    @cached_property
    def searched(self) -> tuple[Any, list[Rows]]:
        """See :func:`qguard.metrics.ranking.scored`, of :attr:`searchers`."""
        from qguard.metrics.ranking import scored

        return scored(self, self.searchers)

    def relative(self, scores: Any, texts: Any = None) -> Rows:
        """Scores on the scale of cosines, which fp32's own vectors of the suite give; see :mod:`qguard.vectors.similarity`.

        Args:
            scores: (q,) or (q, k).
            texts: The texts that they are scores of, by index (q,); ``None`` for all.
        """
        scale = self._scale
        if np.ndim(scale):
            scale = scale if texts is None else scale[texts]
            scale = scale.reshape(-1, *[1] * (np.ndim(scores) - 1))
        return self.similarity.relative(scores, scale)

    @cached_property
    def _scale(self) -> Any:
        return self.similarity.scale(self.golden)


@dataclass(frozen=True)
class Measured:
    """A metric's value on a suite or on one of its slices, with the worst items for a person to read.

    Attributes:
        bound: What the value must hold where no gate says otherwise.
        uncertainty: Computes its interval over items, once; ``None`` for what is no sample of items.
        noun: What an item is.
    """

    name: str
    slice: str | None
    value: float
    items: int
    higher_is_better: bool
    worst: tuple[str, ...] = ()
    bound: Bound | None = None
    uncertainty: Callable[[], Uncertainty] | None = None
    noun: str = "items"


def reduced(items: Items, metrics: Sequence[Metric], suite: Suite, worst: int = 5) -> list[Measured]:
    """Each metric over all items of a suite and over those of each slice.

    Raises:
        MeasurementProblem: when the suite has too few items, or a value is not finite.
    """
    out = []
    groups: list[tuple[str | None, Any]] = [(None, np.arange(len(items.rows)))]
    at = np.asarray([s or "" for s in items.slices])
    groups += [(s, np.flatnonzero(at == s)) for s in sorted({s for s in items.slices if s})]
    for metric in metrics:
        for part, index in groups:
            if len(index) < metric.min_items:
                if part is None:
                    raise MeasurementProblem(f"{metric.name} needs at least {metric.min_items} items, found {len(index)}")
                continue
            rows = items.rows[index]
            value = float(metric.reduce(rows))
            if not np.isfinite(value):
                if part is None:
                    raise MeasurementProblem(f"{metric.name} is {value} over {len(index)} items")
                continue
            shown: tuple[str, ...] = ()
            if metric.worst is not None and part is None:
                badness = metric.worst(rows)
                top = np.argsort(-badness, kind="stable")[:worst]
                shown = tuple(items.label(int(index[i])) for i in top if badness[i] > 0)
            measured = Measured(metric.name, part, value, len(index), metric.higher_is_better, shown, noun=items.noun)
            spread = cache(partial(_uncertainty, metric, rows, suite, part, items.noun))
            out.append(replace(measured, uncertainty=spread))
    return out


def _uncertainty(metric: Metric, rows: Rows, suite: Suite, part: str | None, noun: str) -> Uncertainty:
    from qguard.metrics.bootstrap import seed_of, uncertainty

    return uncertainty(metric.reduce, rows, seed_of(suite.sha256, metric.name.partition(".")[0], part), noun)
