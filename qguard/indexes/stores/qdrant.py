"""Qdrant: a collection of a server (``uri``), through qdrant-client.

Its client's local mode searches exactly whatever is asked, and is refused. The order of the calls is: create the collection with
indexing off and an index of the buckets, insert, turn indexing on, wait until the server says that all vectors are indexed.
Rescoring of rounded vectors is off, so that scores are those of the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.indexes.collection import BUCKET, Held, Hits, IndexType, in_order
from qguard.indexes.settings import EUCLIDEAN, FLOAT16, FLOAT32, Index, Parameters
from qguard.machine.versions import installed
from qguard.vectors.similarity import COSINE, DOT

_METRICS = {COSINE.name: "Cosine", DOT.name: "Dot", EUCLIDEAN: "Euclid"}
_NAMES = {v: k for k, v in _METRICS.items()}
_GRAPH, _REACH = {"M": 16, "efConstruction": 100, "full_scan_threshold": None}, {"ef": 100}
_FLOATS = (FLOAT32, FLOAT16)
TYPES = (
    IndexType("FLAT", vectors=_FLOATS),
    IndexType("HNSW", _GRAPH, _REACH, {"ef": 1}, vectors=_FLOATS),
    IndexType("HNSW_SQ", _GRAPH, _REACH, {"ef": 1}, rounds=True, vectors=_FLOATS),
    IndexType("HNSW_BQ", _GRAPH, _REACH, {"ef": 1}, rounds=True, vectors=_FLOATS),
)
_OPTIONS = {"M": "m", "efConstruction": "ef_construct", "full_scan_threshold": "full_scan_threshold"}
_AT_ONCE = 64  # queries of one call
_SECONDS = 3600  # that a server may take to build
_PAUSE = 0.2  # seconds between two looks at it
_STILL = 20  # seconds in which nothing happens before it is no longer waited for


def types(index: Index) -> tuple[IndexType, ...]:
    """What Qdrant builds.

    Raises:
        UsageProblem: where no server is named.
    """
    if not index.uri.startswith(("http://", "https://")):
        raise UsageProblem(
            f"index {index.name!r}: expected the address of a Qdrant server at uri, such as http://localhost:6333, found "
            f"{'none' if not index.uri else 'another text'}. qdrant-client's local mode searches exactly, whatever index or "
            "quantization is asked for, so that nothing could be measured"
        )
    return TYPES


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> QdrantCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    return QdrantCollection(index, name, dim, vectors, metric)


class QdrantCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, name: str, dim: int, vectors: str, metric: str) -> None:
        from qdrant_client import QdrantClient, models

        self.filters, self.persistent = True, True
        self.row: Callable[[Any], int] = int
        self._models, self._index, self._name, self._vectors, self._metric = models, index, name, vectors, metric
        with self._told("connecting"):
            self._client = QdrantClient(
                url=index.uri, port=None, api_key=index.secret or None, timeout=_SECONDS, check_compatibility=False
            )
            self.versions: Mapping[str, str] = {**installed("qdrant-client"), "qdrant": str(self._client.info().version)}
            there = self._client.collection_exists(name)
        if not there:
            self._create(dim)

    def _told(self, what: str) -> Any:
        return step(f"index {self._index.name!r}, Qdrant: {what}", mend="Check the address, the token and that the server runs")

    def _create(self, dim: int) -> None:
        m, kind = self._models, self._index.type
        given = {_OPTIONS[k]: int(v) for k, v in self._index.params.items()}
        codes: Any = None
        if kind == "HNSW_SQ":
            codes = m.ScalarQuantization(scalar=m.ScalarQuantizationConfig(type=m.ScalarType.INT8, always_ram=True))
        elif kind == "HNSW_BQ":
            codes = m.BinaryQuantization(binary=m.BinaryQuantizationConfig(always_ram=True))
        with self._told("creating the collection"):
            self._client.create_collection(
                self._name,
                vectors_config=m.VectorParams(
                    size=dim, distance=m.Distance(_METRICS[self._metric]), datatype=m.Datatype(self._vectors)
                ),
                hnsw_config=m.HnswConfigDiff(**given) if kind != "FLAT" else m.HnswConfigDiff(m=0),
                optimizers_config=m.OptimizersConfigDiff(indexing_threshold=0),
                quantization_config=codes,
            )
            # Qdrant builds links for filters of fields that it knows when it builds the graph
            self._client.create_payload_index(self._name, BUCKET, m.PayloadSchemaType.INTEGER, wait=True)

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        with self._told("counting rows"):
            return int(self._client.count(self._name, exact=True).count)

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`."""
        batch = self._models.Batch(
            ids=list(range(start, start + len(vectors))), vectors=vectors.astype(np.float64).tolist(),
            payloads=[{BUCKET: b} for b in buckets.tolist()],
        )  # fmt: skip
        with self._told("inserting rows"):
            found = self._client.upsert(self._name, batch, wait=True)
        if found.status != self._models.UpdateStatus.COMPLETED:
            raise MeasurementProblem(
                f"index {self._index.name!r}, Qdrant: rows from {start} were not taken: {found.status.value}"
            )

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`.

        The server builds in the background. It is waited for until all vectors are indexed, or nothing more happens; then
        :meth:`held` says that the index does not cover all rows.
        """
        if self._index.type == "FLAT":
            return
        with self._told("turning indexing on"):
            # in kB of vectors; 1 is the least that does not turn it off
            self._client.update_collection(self._name, optimizers_config=self._models.OptimizersConfigDiff(indexing_threshold=1))
        rows, until, before, since = self.rows(), time.monotonic() + _SECONDS, -1, time.monotonic()
        while not self._indexed(found := self._about(), rows) and (now := time.monotonic()) < until:
            if (count := found.indexed_vectors_count or 0) != before or found.status != self._models.CollectionStatus.GREEN:
                before, since = count, now
            if now - since > _STILL:
                return
            time.sleep(_PAUSE)

    def _about(self) -> Any:
        with self._told("reading back the index"):
            return self._client.get_collection(self._name)

    def _indexed(self, found: Any, rows: int) -> bool:
        return bool(found.status == self._models.CollectionStatus.GREEN and (found.indexed_vectors_count or 0) >= rows)

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`."""
        rows, found = self.rows(), self._about()
        graph, codes, vectors = found.config.hnsw_config, found.config.quantization_config, found.config.params.vectors
        if graph.m == 0:
            kind = "FLAT"
        elif not self._indexed(found, rows):
            kind = ""
        elif codes is None:
            kind = "HNSW"
        else:
            kind = {"scalar": "HNSW_SQ", "binary": "HNSW_BQ"}.get(next(iter(type(codes).model_fields)), "")
        params = {k: getattr(graph, v) for k, v in _OPTIONS.items()}
        stored = vectors.datatype.value if vectors.datatype is not None else FLOAT32
        if stored != self._vectors:
            raise MeasurementProblem(
                f"index {self._index.name!r}, Qdrant: the collection keeps {stored} vectors; expected {self._vectors}"
            )
        return Held(rows, kind, _NAMES.get(vectors.distance.value, vectors.distance.value), params)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`: of cosine they come back with unit length."""
        with self._told("reading rows back"):
            found = self._client.retrieve(self._name, rows.tolist(), with_payload=False, with_vectors=True)
        by_id = {int(r.id): r.vector for r in found}
        back = in_order(by_id, rows, f"index {self._index.name!r}, Qdrant")
        return np.asarray(back, np.float16 if self._vectors == FLOAT16 else np.float32)

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`: refused before a collection is opened."""
        raise NotImplementedError

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`."""
        m, found = self._models, []
        how = m.SearchParams(exact=True)
        if self._index.type != "FLAT":
            codes = None if self._index.type == "HNSW" else m.QuantizationSearchParams(ignore=False, rescore=False)
            how = m.SearchParams(hnsw_ef=int(params["ef"]), exact=False, quantization=codes)
        only = None
        if below is not None:
            only = m.Filter(must=[m.FieldCondition(key=BUCKET, range=m.Range(lt=below))])
        asked = [
            m.QueryRequest(query=q, limit=k, params=how, filter=only, with_payload=False, with_vector=False)
            for q in queries.astype(np.float64).tolist()
        ]
        for start in range(0, len(asked), _AT_ONCE):
            with self._told("searching"):
                answers = self._client.query_batch_points(self._name, asked[start : start + _AT_ONCE])
            found += [[(int(p.id), self._score(float(p.score))) for p in answer.points] for answer in answers]
        return Hits.of(found, k)

    def _score(self, told: float) -> float:
        """A score of Qdrant, whose ``Euclid`` is a distance."""
        return -told if self._metric == EUCLIDEAN else told

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`: Qdrant does not tell."""
        return None

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`."""
        with self._told("dropping the collection"):
            self._client.delete_collection(self._name)

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""
        self._client.close()
