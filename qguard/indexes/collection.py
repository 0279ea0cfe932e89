"""The protocol of a store: what it promises to do, and the collection that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem, unknown
from qguard.indexes.settings import EUCLIDEAN, FLOAT32, Index, Parameters
from qguard.vectors.similarity import COSINE, DOT

BUCKET = "bucket"  # the field that filters look at
FLOAT_METRICS = (COSINE.name, DOT.name, EUCLIDEAN)


@dataclass(frozen=True)
class Hits:
    """What a search found, best first.

    Attributes:
        rows: int64 (q, k): numbers of rows; -1 where the store gave fewer hits.
        scores: float64 (q, k): the store's own scores, turned so that a greater one is nearer: cosine, inner product, negative
            distance (not squared), negative number of bits that differ; NaN where there is no hit.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, found: Iterable[Iterable[tuple[int, float]]], k: int) -> Hits:
        """From lists of rows and scores, of which some are shorter than k."""
        lists = [list(hits)[:k] for hits in found]
        rows, scores = np.full((len(lists), k), -1, np.int64), np.full((len(lists), k), np.nan)
        for q, hits in enumerate(lists):
            for place, (row, score) in enumerate(hits):
                rows[q, place], scores[q, place] = row, score
        return cls(rows, scores)


@dataclass(frozen=True)
class Held:
    """What a store says that it holds.

    Attributes:
        rows: How many rows.
        type: The index's type, as qguard names it; empty where the store has none.
        metric: The metric, one of :data:`qguard.indexes.settings.METRICS`.
        params: Of the build, as far as the store tells them.
    """

    rows: int
    type: str
    metric: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexType:
    """A type of index that a store builds.

    Attributes:
        name: As Milvus names it, in capitals: ``FLAT``, ``HNSW``, ``IVF_SQ8``.
        build: Parameters of the build that it takes, with the store's defaults; ``None`` where the store has none.
        search: Parameters of a search, likewise.
        weakest: Parameters of a search under which it misses nearest neighbors, which an exact search never does. Empty for an
            exact one.
        rounds: Whether it keeps vectors rounded, so that its scores are not those of the vectors themselves.
        vectors: The vectors that it stores, of :data:`qguard.indexes.settings.VECTORS`.
        metrics: The metrics that it has.
    """

    name: str
    build: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    weakest: Parameters = field(default_factory=dict)
    rounds: bool = False
    vectors: tuple[str, ...] = (FLOAT32,)
    metrics: tuple[str, ...] = FLOAT_METRICS

    @property
    def exact(self) -> bool:
        """Whether it promises every nearest neighbor."""
        return not (self.weakest or self.rounds)


class Collection(Protocol):
    """Rows with an index, in a store that is open. Opened as ``Collection(index, name, dim, vectors)``.

    The order of the calls is: ``rows``, ``insert`` in blocks, ``build``, then the others in any order, and ``close``. One that is
    there already (``existing``) is only asked ``scan``, ``held``, ``search`` and ``size``, and never changed.

    Attributes:
        versions: Package → version of what is searched.
        filters: Whether it searches only rows whose bucket is below a number.
        persistent: Whether a collection survives this process, so that filling it may be resumed.
        row: The number of a row by the id that the store tells: the id itself, but of a collection that is there already.
    """

    versions: Mapping[str, str]
    filters: bool
    persistent: bool
    row: Callable[[Any], int]

    def rows(self) -> int:
        """Rows that the collection holds; 0 where it is new."""
        ...

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """Rows ``start`` to ``start + len(vectors)``.

        Args:
            start: Number of the first row, which is its id.
            vectors: As they are stored: float32 or float16 (n, dim), uint16 (n, dim) with the bits of bfloat16, int8 (n, dim), or
                uint8 (n, dim / 8).
            buckets: (n,): the attribute of each row that filters look at.
        """
        ...

    def build(self) -> None:
        """All rows are there: make the index, and let searches use it."""
        ...

    def held(self) -> Held:
        """What the store says that it holds, asked anew."""
        ...

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """The vectors of some rows, in their order, as they were inserted or as the index rounds them; ``None`` where the store
        does not give them back.
        """
        ...

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """Every row of a collection that is there already, in blocks: ids of documents, and vectors as of :meth:`read`."""
        ...

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """The nearest rows of each query.

        Args:
            queries: (q, dim) as vectors are stored.
            k: Hits that are wanted.
            params: Of the search.
            below: Only rows whose bucket is below this number; ``None`` for all.
        """
        ...

    def size(self) -> int | None:
        """Bytes of the index with its rows, on disk; ``None`` where the store does not tell."""
        ...

    def drop(self) -> None:
        """Remove the collection that qguard made."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


@dataclass(frozen=True)
class Store:
    """What a store does.

    Attributes:
        name: As the configuration names it.
        opens: ``module:function``: index, name of the collection, dimension and kind of vectors → an open :class:`Collection`.
        types: ``module:function``: index → the types that this edition of the store builds.
        extra: The extra of qguard that installs what it needs.
        packages: Modules that must be there.
        existing: Whether a collection that is there already can be read.
        fields: Whether its rows have fields, of which one holds the documents' ids; otherwise rows are numbered.
    """

    name: str
    opens: str
    types: str
    extra: str
    packages: tuple[str, ...]
    existing: bool = True
    fields: bool = True


def defaults(kind: IndexType, index: Index) -> dict[str, Any]:
    """The parameters of a search: those of the index over the store's own."""
    return {**{k: v for k, v in kind.search.items() if v is not None}, **index.search}


def check_fields(index: Index, fields: Iterable[str], what: str = "field") -> None:
    """A collection that is there already has the fields that the index names.

    Args:
        index: Its settings.
        fields: The names that there are.
        what: What the store calls a field.

    Raises:
        UsageProblem: for a name that is not among them.
    """
    known = list(fields)
    for name in (index.id_field, index.vector_field):
        if name not in known:
            raise unknown(f"{what} of index {index.name!r}:", name, known)


def in_order(found: Mapping[int, Any], rows: NDArray[np.int64], store: str) -> list[Any]:
    """What a store gave back for each of some rows, in their order.

    Args:
        found: By number of the row.
        rows: The rows that were asked for.
        store: The index and its store, for people.

    Raises:
        MeasurementProblem: for a row that is missing.
    """
    if lost := [int(r) for r in rows if int(r) not in found]:
        raise MeasurementProblem(f"{store}: row {lost[0]} was inserted, and is not there ({len(lost)} such rows)")
    return [found[int(r)] for r in rows]
