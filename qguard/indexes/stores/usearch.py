"""usearch: an index in this process, or one that is read from a file (``uri``) where it exists.

Its graph keeps vectors in one of many types. For ``i8`` it scales each vector to length 127 and cuts toward zero, so that lengths
are lost: only cosine ranks such codes as it ranks the vectors. The Python package has no filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.indexes.collection import FLOAT_METRICS, Held, Hits, IndexType, in_order
from qguard.indexes.settings import BFLOAT16, BINARY, EUCLIDEAN, FLOAT16, FLOAT32, HAMMING, INT8, VECTORS, Index, Parameters
from qguard.indexes.stored import BLOCK
from qguard.machine.versions import installed
from qguard.vectors.similarity import COSINE, DOT

_GRAPH, _REACH, _NARROW = {"M": 16, "efConstruction": 128}, {"ef": 64}, {"ef": 1}
TYPES = (
    IndexType("HNSW", _GRAPH, _REACH, _NARROW, vectors=VECTORS, metrics=(*FLOAT_METRICS, HAMMING)),
    IndexType("HNSW_I8", _GRAPH, _REACH, _NARROW, rounds=True, metrics=(COSINE.name,)),
    IndexType("HNSW_E4M3", _GRAPH, _REACH, _NARROW, rounds=True),
    IndexType("HNSW_E5M2", _GRAPH, _REACH, _NARROW, rounds=True),
)
_KEPT = {FLOAT32: "f32", FLOAT16: "f16", BFLOAT16: "bf16", INT8: "i8", BINARY: "b1"}
_ROUNDED = {"HNSW_I8": "i8", "HNSW_E4M3": "e4m3", "HNSW_E5M2": "e5m2"}
_METRICS = {COSINE.name: "Cos", DOT.name: "IP", EUCLIDEAN: "L2sq", HAMMING: "Hamming"}
_NAMES = {v: k for k, v in _METRICS.items()}


def types(index: Index) -> tuple[IndexType, ...]:
    """What usearch builds, whatever the index."""
    return TYPES


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> UsearchCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    return UsearchCollection(index, dim, vectors, metric)


class UsearchCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, dim: int, vectors: str, metric: str) -> None:
        with suppress(ImportError):  # faiss 1.15 ended the process where usearch 2.26 was loaded before it
            import faiss  # noqa: F401
        from usearch import index as usearch

        self.versions: Mapping[str, str] = installed("usearch")
        self.filters, self.persistent = False, False
        self.row: Callable[[Any], int] = int
        self._index, self._vectors, self._metric = index, vectors, metric
        if not index.existing:
            p = {**_GRAPH, **index.params}
            with self._told("making the index"):
                self._made = usearch.Index(
                    ndim=dim, metric=getattr(usearch.MetricKind, _METRICS[metric]),
                    dtype=_ROUNDED.get(index.type, _KEPT[vectors]), connectivity=int(p["M"]),
                    expansion_add=int(p["efConstruction"]),
                )  # fmt: skip
            return
        path = Path(index.uri)
        if not path.is_file():
            raise UsageProblem(f"index {index.name!r}: expected a file of usearch at uri, found none at {path.name!r}")
        with self._told(f"reading {path.name}"):
            self._made = usearch.Index.restore(str(path))
        if self._made is None:
            raise UsageProblem(f"index {index.name!r}: expected a file of usearch at uri; {path.name!r} is none")
        if self._made.ndim != dim:
            raise MeasurementProblem(
                f"index {index.name!r}: {path.name} holds vectors of {self._made.ndim} values; expected {dim}"
            )

    def _told(self, what: str) -> Any:
        return step(f"index {self._index.name!r}, usearch: {what}")

    @property
    def _given(self) -> dict[str, Any]:
        """How usearch is called: one thread, since two build another graph each time; the bits of bfloat16 are named."""
        return {"threads": 1, **({"dtype": "bf16"} if self._vectors == BFLOAT16 else {})}

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        return len(self._made)

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`."""
        with self._told("inserting rows"):
            self._made.add(np.arange(start, start + len(vectors)), np.ascontiguousarray(vectors), **self._given)

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`: the graph grew with its rows."""

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`. A file does not keep ``efConstruction``."""
        made = self._made
        kept = made.dtype.name.lower()
        kind = "HNSW" if kept == _KEPT[self._vectors] else f"HNSW_{kept.upper()}"
        params = {"M": int(made.connectivity)}
        if not self._index.existing:
            params["efConstruction"] = int(made.expansion_add)
        metric = made.metric_kind.name
        return Held(len(made), kind, _NAMES.get(metric, metric), params)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`. Rounded vectors come back as numbers on usearch's own scale."""
        with self._told("reading rows back"):
            found = self._made.get(rows, dtype="f32") if self._index.type in _ROUNDED else self._made.get(rows)
        by_id = {int(r): v for r, v in zip(rows, found, strict=True) if v is not None}
        back = np.stack([np.asarray(v) for v in in_order(by_id, rows, f"index {self._index.name!r}, usearch")])
        if self._vectors == BFLOAT16:
            return np.asarray(back.view(np.uint32) >> 16, np.uint16)
        return back

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`: rows are told by their keys."""
        keys = np.asarray(self._made.keys)
        for start in range(0, len(keys), BLOCK):
            block = keys[start : start + BLOCK]
            found = self.read(block)
            assert found is not None
            yield [str(n) for n in block.tolist()], found

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`."""
        made = self._made
        made.expansion_search = int(params["ef"])
        with self._told("searching"):
            found = made.search(np.ascontiguousarray(queries), k, **self._given)
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances).astype(np.float64)
        counts = [keys.shape[1]] if len(queries) == 1 else found.counts  # the answer to one query has none
        scores = {HAMMING: -distances, EUCLIDEAN: -np.sqrt(np.maximum(distances, 0))}.get(self._metric, 1 - distances)
        return Hits.of((zip(a[:n], b[:n], strict=True) for a, b, n in zip(keys, scores, counts, strict=True)), k)

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`: of the file that usearch writes."""
        return int(self._made.serialized_length)

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`: memory is all there is."""

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""
