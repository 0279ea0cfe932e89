"""faiss: an index in this process, or one that is read from a file (``uri``) where it exists."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.indexes.collection import FLOAT_METRICS, Held, Hits, IndexType
from qguard.indexes.settings import BINARY, EUCLIDEAN, FLOAT32, HAMMING, Index, Parameters
from qguard.indexes.stored import BLOCK
from qguard.machine.versions import installed
from qguard.vectors.quantized import unit
from qguard.vectors.similarity import COSINE, DOT

_LISTS, _PROBES = {"nlist": 128}, {"nprobe": 1}  # faiss searches one list unless it is told otherwise
_GRAPH, _REACH = {"M": 32, "efConstruction": 40}, {"ef": 16}
_BOTH, _ALL = (FLOAT32, BINARY), (*FLOAT_METRICS, HAMMING)
TYPES = (
    IndexType("FLAT", vectors=_BOTH, metrics=_ALL),
    IndexType("SQ8", rounds=True),
    IndexType("IVF_FLAT", _LISTS, _PROBES, {"nprobe": 1}, vectors=_BOTH, metrics=_ALL),
    IndexType("IVF_SQ8", _LISTS, _PROBES, {"nprobe": 1}, rounds=True),
    IndexType("IVF_PQ", _LISTS | {"m": 16, "nbits": 8}, _PROBES, {"nprobe": 1}, rounds=True),
    IndexType("HNSW", _GRAPH, _REACH, {"ef": 1}, vectors=_BOTH, metrics=_ALL),
    IndexType("HNSW_SQ", _GRAPH, _REACH, {"ef": 1}, rounds=True),
)
# the class that faiss has for each type
_CLASSES = {
    "IndexFlat": "FLAT", "IndexFlatIP": "FLAT", "IndexFlatL2": "FLAT", "IndexBinaryFlat": "FLAT", "IndexScalarQuantizer": "SQ8",
    "IndexIVFFlat": "IVF_FLAT", "IndexBinaryIVF": "IVF_FLAT", "IndexIVFScalarQuantizer": "IVF_SQ8", "IndexIVFPQ": "IVF_PQ",
    "IndexHNSWFlat": "HNSW", "IndexBinaryHNSW": "HNSW", "IndexHNSWSQ": "HNSW_SQ",
}  # fmt: skip
_NEEDS_TRAINING = ("SQ", "IVF", "PQ")


def types(index: Index) -> tuple[IndexType, ...]:
    """What faiss builds here, whatever the index."""
    return TYPES


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> FaissCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    return FaissCollection(index, dim, vectors, metric)


class FaissCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, dim: int, vectors: str, metric: str) -> None:
        import faiss

        self.versions: Mapping[str, str] = installed("faiss-cpu")
        self.filters, self.persistent = vectors != BINARY and not index.existing, False
        self.row: Callable[[Any], int] = int
        self._faiss, self._index, self._dim, self._binary, self._metric = faiss, index, dim, vectors == BINARY, metric
        self._waiting: list[NDArray[Any]] = []
        self._buckets: list[NDArray[np.int64]] = []
        if not index.existing:
            self._made = self._new()
            return
        path = Path(index.uri)
        if not path.is_file():
            raise UsageProblem(f"index {index.name!r}: expected a file of faiss at uri, found none at {path.name!r}")
        with step(f"index {index.name!r}, faiss: reading {path.name}"):
            self._made = faiss.read_index(str(path))
        if self._made.d != dim:
            raise MeasurementProblem(f"index {index.name!r}: {path.name} holds vectors of {self._made.d} values; expected {dim}")

    def _new(self) -> Any:
        faiss, p, kind = self._faiss, {**dict(_LISTS | _GRAPH | {"m": 16, "nbits": 8}), **self._index.params}, self._index.type
        dim = self._dim
        if self._binary:
            if kind == "HNSW":
                made = faiss.IndexBinaryHNSW(dim, int(p["M"]))
                made.hnsw.efConstruction = int(p["efConstruction"])
                return made
            flat = faiss.IndexBinaryFlat(dim)
            if kind == "FLAT":
                return flat
            made = faiss.IndexBinaryIVF(flat, dim, int(p["nlist"]))
            flat.this.disown()  # the index owns it
            made.own_fields = True
            return made
        metric = faiss.METRIC_L2 if self._metric == EUCLIDEAN else faiss.METRIC_INNER_PRODUCT
        lists, graph = f"IVF{int(p['nlist'])}", f"HNSW{int(p['M'])}"
        words = {
            "FLAT": "Flat", "SQ8": "SQ8", "IVF_FLAT": f"{lists},Flat", "IVF_SQ8": f"{lists},SQ8",
            "IVF_PQ": f"{lists},PQ{int(p['m'])}x{int(p['nbits'])}", "HNSW": f"{graph},Flat", "HNSW_SQ": f"{graph},SQ8",
        }  # fmt: skip
        made = faiss.index_factory(dim, words[kind], metric)
        if kind.startswith("HNSW"):
            made.hnsw.efConstruction = int(p["efConstruction"])
        return made

    def _given(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Vectors as faiss takes them: it has no cosine, but inner products of vectors of unit length."""
        if self._binary:
            return np.ascontiguousarray(vectors, np.uint8)
        return np.ascontiguousarray(unit(vectors) if self._metric == COSINE.name else vectors, np.float32)

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        return int(self._made.ntotal) + sum(map(len, self._waiting))

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`."""
        self._buckets.append(buckets)
        if any(part in self._index.type for part in _NEEDS_TRAINING):
            self._waiting.append(self._given(vectors).copy())  # training sees all rows
        else:
            with self._one_thread():
                self._made.add(self._given(vectors))

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`."""
        if self._waiting:
            every = np.concatenate(self._waiting)
            self._waiting.clear()
            with self._one_thread():
                self._made.train(every)
                self._made.add(every)

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Two threads build another graph each time, and make a search for one query wait."""
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(threads)

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`."""
        made: Any = self._made if self._binary else self._faiss.downcast_index(self._made)
        kind, params = _CLASSES.get(type(made).__name__, type(made).__name__), {}
        if kind.startswith("IVF"):
            params["nlist"] = int(made.nlist)
        if kind == "IVF_PQ":
            params |= {"m": int(made.pq.M), "nbits": int(made.pq.nbits)}
        if kind.startswith("HNSW"):
            params |= {"M": int(made.hnsw.nb_neighbors(1)), "efConstruction": int(made.hnsw.efConstruction)}
        squared = not self._binary and made.metric_type == self._faiss.METRIC_L2
        inner = self._metric if self._metric in (COSINE.name, DOT.name) else DOT.name
        return Held(int(made.ntotal), kind, HAMMING if self._binary else EUCLIDEAN if squared else inner, params)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`."""
        if self._index.type.startswith("IVF"):
            self._made.make_direct_map()
        return np.stack([self._made.reconstruct(int(r)) for r in rows])

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`: rows are numbered."""
        for start in range(0, rows := self.rows(), BLOCK):
            numbers = np.arange(start, min(start + BLOCK, rows))
            with step(f"index {self._index.name!r}, faiss: reading rows"):
                found = self.read(numbers)
            assert found is not None
            yield [str(n) for n in numbers.tolist()], found

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`."""
        faiss = self._faiss
        sel = None
        if below is not None:
            sel = faiss.IDSelectorBatch(np.flatnonzero(np.concatenate(self._buckets) < below).astype(np.int64))
        chosen = {} if sel is None else {"sel": sel}
        if self._index.type.startswith("IVF"):
            chosen["nprobe"] = int(params["nprobe"])
            how = faiss.SearchParametersIVF(**chosen)
        elif self._index.type.startswith("HNSW"):
            chosen["efSearch"] = int(params["ef"])
            how = faiss.SearchParametersHNSW(**chosen)
        else:
            how = faiss.SearchParameters(**chosen) if chosen else None
        if self._binary:
            distances, rows = self._binary_search(queries, k, chosen)
            return _hits(rows, -distances.astype(np.float64))
        with self._one_thread():
            scores, rows = self._made.search(self._given(queries), k, params=how)
        found = scores.astype(np.float64)
        return _hits(rows, -np.sqrt(np.maximum(found, 0)) if self._metric == EUCLIDEAN else found)

    def _binary_search(self, queries: NDArray[Any], k: int, params: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of bits: faiss keeps the parameters of a search in the index."""
        if "nprobe" in params:
            self._made.nprobe = params["nprobe"]
        if "efSearch" in params:
            self._made.hnsw.efSearch = params["efSearch"]
        with self._one_thread():
            found: tuple[NDArray[Any], NDArray[Any]] = self._made.search(self._given(queries), k)
        return found

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`: of the file that faiss writes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            (self._faiss.write_index_binary if self._binary else self._faiss.write_index)(self._made, str(path))
            return path.stat().st_size

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`: memory is all there is."""

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""


def _hits(rows: NDArray[Any], scores: NDArray[np.float64]) -> Hits:
    return Hits(rows.astype(np.int64), np.where(rows < 0, np.nan, scores))
