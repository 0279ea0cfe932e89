"""Milvus through pymilvus: a file of milvus-lite (``uri`` ends in ``.db``, or is empty), or a server, or Zilliz Cloud.

The order of the calls is the one that milvus-lite needs: insert, flush, create the index, release, load. Parameters of an index
go to both editions in ``{"params": {…}}``: milvus-lite drops them elsewhere without a word.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.indexes.collection import BUCKET, Held, Hits, IndexType, check_fields, in_order
from qguard.indexes.settings import BFLOAT16, BINARY, EUCLIDEAN, FLOAT16, FLOAT32, HAMMING, INT8, STATED, Index, Parameters
from qguard.indexes.stored import BLOCK
from qguard.machine.versions import installed
from qguard.vectors.similarity import COSINE, DOT

_METRICS = {COSINE.name: "COSINE", DOT.name: "IP", EUCLIDEAN: "L2", HAMMING: "HAMMING"}
_NAMES = {v: k for k, v in _METRICS.items()}
_LISTS, _PROBES = {"nlist": 128}, {"nprobe": 8}
_GRAPH, _REACH = {"M": 16, "efConstruction": 200}, {"ef": 64}
LITE = (
    IndexType("FLAT"),
    IndexType("IVF_FLAT", _LISTS, _PROBES, {"nprobe": 1}),
    IndexType("IVF_SQ8", _LISTS, _PROBES, {"nprobe": 1}, rounds=True),
    IndexType("HNSW", _GRAPH, _REACH, {"ef": 1}),
    IndexType("HNSW_SQ", _GRAPH, _REACH, {"ef": 1}, rounds=True),
)
_FLOATS, _BITS, _COUNTED = (FLOAT32, FLOAT16, BFLOAT16), (BINARY,), (HAMMING,)
SERVER = (
    IndexType("FLAT", vectors=_FLOATS),
    IndexType("IVF_FLAT", _LISTS, _PROBES, {"nprobe": 1}, vectors=_FLOATS),
    IndexType("IVF_SQ8", _LISTS, _PROBES, {"nprobe": 1}, rounds=True, vectors=_FLOATS),
    IndexType("IVF_PQ", _LISTS | {"m": None, "nbits": 8}, _PROBES, {"nprobe": 1}, rounds=True, vectors=_FLOATS),
    IndexType("HNSW", _GRAPH, _REACH, {"ef": 1}, vectors=(FLOAT32, FLOAT16, BFLOAT16, INT8)),
    IndexType("HNSW_SQ", _GRAPH | {"sq_type": "SQ8"}, _REACH, {"ef": 1}, rounds=True, vectors=_FLOATS),
    IndexType("BIN_FLAT", vectors=_BITS, metrics=_COUNTED),
    IndexType("BIN_IVF_FLAT", _LISTS, _PROBES, {"nprobe": 1}, vectors=_BITS, metrics=_COUNTED),
)
_FIELDS = {
    FLOAT32: "FLOAT_VECTOR", FLOAT16: "FLOAT16_VECTOR", BFLOAT16: "BFLOAT16_VECTOR", INT8: "INT8_VECTOR", BINARY: "BINARY_VECTOR",
}  # fmt: skip
_AT_ONCE = 64  # queries of one call: an answer has a size limit
_SECONDS = 3600  # that a server may take to build


def _lite(index: Index) -> bool:
    return "://" not in index.uri


def types(index: Index) -> tuple[IndexType, ...]:
    """What this edition builds.

    Raises:
        UsageProblem: for a file whose name milvus-lite does not take.
    """
    if _lite(index) and index.uri and not index.uri.endswith(".db"):
        raise UsageProblem(
            f"index {index.name!r}: expected a uri that ends in .db, for milvus-lite, or an address such as "
            f"http://localhost:19530, found {Path(index.uri).name!r}"
        )
    return LITE if _lite(index) else SERVER


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> MilvusCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    if _lite(index) and not installed("milvus-lite").get("milvus-lite", "absent")[:1].isdigit():
        raise UsageProblem(f"index {index.name!r}: milvus-lite is not installed; run: pip install 'qguard[milvus]'")
    return MilvusCollection(index, name, dim, vectors, metric)


class MilvusCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, name: str, dim: int, vectors: str, metric: str) -> None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC writes of connections that end; what goes wrong is raised
        from pymilvus import MilvusClient

        for noisy in ("pymilvus", "milvus_lite", "faiss", "grpc"):  # what they raise is told; what they log is not also shown
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        self._index, self._name, self._metric, self._vectors = index, index.collection or name, metric, vectors
        self._folder = None if index.uri else tempfile.TemporaryDirectory(prefix="qguard-milvus-")
        self._place = index.uri or str(Path(self._folder.name) / "milvus.db")  # type: ignore[union-attr]
        self.filters, self.persistent = not index.existing, bool(index.uri)
        self.row: Callable[[Any], int] = int
        self._where = f"index {index.name!r}, Milvus"
        if index.existing and _lite(index) and not Path(self._place).exists():
            raise UsageProblem(f"index {index.name!r}: expected a file of milvus-lite at uri, found none: {Path(index.uri).name}")
        with self._told("connecting"):
            self._client = MilvusClient(uri=self._place, token=index.secret)
            self.versions = self._read_versions()
            self._check_edition()
            there = self._client.has_collection(self._name)
        if index.existing:
            if not there:
                with self._told("listing collections"):
                    raise unknown(f"collection of index {index.name!r}", self._name, self._client.list_collections())
            self._check_existing()
        elif not there:
            self._create(dim)

    def _told(self, what: str) -> Any:
        return step(f"{self._where}: {what}", mend="Check the address, the token and that the server runs")

    def _read_versions(self) -> Mapping[str, str]:
        if _lite(self._index):
            return installed("pymilvus", "milvus-lite", "faiss-cpu")
        return {**installed("pymilvus"), "milvus": str(self._client.get_server_version())}

    def _check_edition(self) -> None:
        """A server may be milvus-lite's, which does less than Milvus."""
        if not self.versions.get("milvus", "").startswith("milvus_lite"):
            return
        kind = next((t for t in LITE if t.name == self._index.type), None)
        if kind is None or self._vectors not in kind.vectors:
            known = ", ".join(t.name for t in LITE)
            raise UsageProblem(
                f"index {self._index.name!r}: the server is milvus-lite, which builds {known} of float32 vectors; found "
                f"{self._index.type} of {self._vectors} vectors"
            )

    def _create(self, dim: int) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", getattr(DataType, _FIELDS[self._vectors]), dim=dim)
        schema.add_field(BUCKET, DataType.INT64)
        with self._told("creating the collection"):
            self._client.create_collection(self._name, schema=schema, consistency_level="Strong")

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        with self._told("counting rows"):
            if not _lite(self._index):  # statistics of a server count what was deleted too
                found = self._client.query(self._name, filter="", output_fields=["count(*)"])
                return int(found[0]["count(*)"])
            return int(self._client.get_collection_stats(self._name)["row_count"])

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`."""
        data = [
            {"id": start + i, "vector": self._given(row), BUCKET: int(bucket)}
            for i, (row, bucket) in enumerate(zip(vectors, buckets.tolist(), strict=True))
        ]
        with self._told("inserting rows"):
            found = self._client.insert(self._name, data)
        if found["insert_count"] != len(data):
            raise MeasurementProblem(f"{self._where}: {found['insert_count']} of {len(data)} rows were taken")

    def _given(self, row: NDArray[Any]) -> Any:
        return row if self._vectors in (FLOAT32, FLOAT16, INT8) else row.tobytes()

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`."""
        from pymilvus import MilvusClient

        params = MilvusClient.prepare_index_params()
        params.add_index(
            "vector", index_type=self._index.type, metric_type=_METRICS[self._metric], index_name="vector",
            params={"params": dict(self._index.params)},
        )  # fmt: skip
        with self._told("flushing"):
            self._client.flush(self._name)
        with self._told(f"creating the index {self._index.type}"):
            self._client.create_index(self._name, params, timeout=_SECONDS)
        with self._told("loading the index"):
            self._client.release_collection(self._name)
            self._client.load_collection(self._name, timeout=_SECONDS)

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`."""
        with self._told("reading back the index"):
            names = self._client.list_indexes(self._name, field_name=self._index.vector_field)
            found = dict(self._client.describe_index(self._name, names[0])) if names else {}
        told = {**found, **_numbers(found.get("params"))}
        params = {k: _number(told[k]) for k in self._index.params if k in told}
        metric = _NAMES.get(str(found.get("metric_type", "")), str(found.get("metric_type", "")))
        pending = int(found.get("pending_index_rows", 0))
        rows = self.rows()
        return Held(rows, str(found.get("index_type", "")) if not pending else "", metric, params)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`."""
        with self._told("reading rows back"):
            found = self._client.get(self._name, [int(r) for r in rows], output_fields=["id", "vector"])
        by_id = {int(row["id"]): row["vector"] for row in found}
        return np.stack([_array(told, self._vectors) for told in in_order(by_id, rows, self._where)])

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`."""
        key, vector = self._index.id_field, self._index.vector_field
        with self._told("reading the collection"):
            pages = self._client.query_iterator(self._name, batch_size=BLOCK, output_fields=[key, vector])
        while True:
            with self._told("reading the collection"):
                found = pages.next()
            if not found:
                break
            yield [str(row[key]) for row in found], np.stack([_array(row[vector], self._vectors) for row in found])
        pages.close()

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`."""
        found: list[list[tuple[int, float]]] = []
        how = {"metric_type": _METRICS[self._metric], "params": dict(params)}
        only = "" if below is None else f"{BUCKET} < {below}"
        told = [self._index.id_field] if self._index.existing else []
        for start in range(0, len(queries), _AT_ONCE):
            with self._told("searching"):
                answers = self._client.search(
                    self._name, [self._given(q) for q in queries[start : start + _AT_ONCE]], limit=k, search_params=how,
                    anns_field=self._index.vector_field, filter=only, output_fields=told,
                )  # fmt: skip
            found += [
                [(self.row(h["entity"][told[0]] if told else h["id"]), self._score(float(h["distance"]))) for h in hits]
                for hits in answers
            ]
        return Hits.of(found, k)

    def _score(self, told: float) -> float:
        """A score of Milvus as one that grows with nearness; its L2 is squared."""
        if self._metric == EUCLIDEAN:
            return -math.sqrt(max(told, 0.0))
        return -told if self._metric == HAMMING else told

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`."""
        if not _lite(self._index):
            return None
        root = Path(self._place)
        own = root / "collections" / self._name
        return sum(f.stat().st_size for f in own.rglob("*") if f.is_file()) if own.is_dir() else None

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`."""
        if not self._index.existing:
            with self._told("dropping the collection"):
                self._client.drop_collection(self._name)

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""
        with self._told("closing"):
            self._client.close()
        if self._folder is not None:
            with _removed_late():
                self._folder.cleanup()

    def _check_existing(self) -> None:
        """The fields are there, of the kind that is stated, and searches find them in memory: loading would change a server."""
        index, lite = self._index, _lite(self._index)
        with self._told("reading the schema"):
            fields = {f["name"]: f["type"].name for f in self._client.describe_collection(self._name)["fields"]}
            if lite:  # of a file it is this process that loads
                self._client.load_collection(self._name)
            state = str(self._client.get_load_state(self._name)["state"].name)
        check_fields(index, fields)
        if (found := fields[index.vector_field]) != _FIELDS[self._vectors]:
            stated = next((kind for kind, name in _FIELDS.items() if name == found), None)
            mend = f'; set vectors = "{stated}"' if stated in STATED else ""
            raise UsageProblem(
                f"index {index.name!r}: field {index.vector_field!r} is of type {found}; expected {_FIELDS[self._vectors]}{mend}"
            )
        if state != "Loaded":
            raise UsageProblem(f"index {index.name!r}: expected a collection that is loaded, found it {state}; load it in Milvus")


@contextmanager
def _removed_late() -> Iterator[None]:
    """milvus-lite's server may still hold files of a temporary folder, which is then removed with the others."""
    try:
        yield
    except OSError:
        return


def _numbers(told: Any) -> dict[str, Any]:
    """Parameters that are told as JSON, or as a table."""
    import json

    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return {}
    return dict(told) if isinstance(told, dict) else {}


def _number(told: Any) -> Any:
    """Milvus tells numbers as texts."""
    try:
        return int(told)
    except (TypeError, ValueError):
        return told


def _array(told: Any, vectors: str) -> NDArray[Any]:
    kinds = {FLOAT32: np.float32, FLOAT16: np.float16, BFLOAT16: np.uint16, INT8: np.int8, BINARY: np.uint8}
    found = told[0] if isinstance(told, list) and told and isinstance(told[0], bytes) else told
    return np.frombuffer(found, kinds[vectors]) if isinstance(found, bytes) else np.asarray(found, kinds[vectors])
