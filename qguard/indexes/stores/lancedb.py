"""LanceDB: tables in a folder (``uri``), or in a temporary one.

The order of the calls is: add the rows, then create the index, which covers the rows of that moment alone. A search names the
metric of its index: with another one LanceDB searches exactly and says nothing. What it tells of an index lacks the number of its
lists, so the plan of a search is read, which names the lists that there are.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import UsageProblem, unknown
from qguard.indexes.collection import BUCKET, FLOAT_METRICS, Held, Hits, IndexType, check_fields, in_order
from qguard.indexes.settings import BINARY, EUCLIDEAN, FLOAT16, FLOAT32, HAMMING, Index, Parameters
from qguard.indexes.stored import BLOCK
from qguard.machine.versions import installed
from qguard.vectors.similarity import COSINE, DOT

_METRICS = {COSINE.name: "cosine", DOT.name: "dot", EUCLIDEAN: "l2", HAMMING: "hamming"}
_NAMES = {v: k for k, v in _METRICS.items()}
_LISTS, _PROBES, _FLOATS = {"nlist": None}, {"nprobe": 20}, (FLOAT32, FLOAT16)
_CODES, _GRAPH, _REACH = {"m": None, "nbits": 8}, {"M": 20, "efConstruction": 300}, {"ef": 64}
TYPES = (
    IndexType("FLAT", vectors=(*_FLOATS, BINARY), metrics=(*FLOAT_METRICS, HAMMING)),
    IndexType("IVF_FLAT", _LISTS, _PROBES, {"nprobe": 1}, vectors=(*_FLOATS, BINARY), metrics=(*FLOAT_METRICS, HAMMING)),
    IndexType("IVF_SQ8", _LISTS, _PROBES, {"nprobe": 1}, rounds=True, vectors=_FLOATS),
    IndexType("IVF_PQ", _LISTS | _CODES, _PROBES, {"nprobe": 1}, rounds=True, vectors=_FLOATS),
    IndexType("IVF_RQ", _LISTS | {"nbits": 1}, _PROBES, {"nprobe": 1}, rounds=True, vectors=_FLOATS),
    IndexType("HNSW", _GRAPH, _REACH, {"ef": 1}, vectors=_FLOATS),
    IndexType("HNSW_SQ", _GRAPH, _REACH, {"ef": 1}, rounds=True, vectors=_FLOATS),
    IndexType("HNSW_PQ", _GRAPH | _CODES, _REACH, {"ef": 1}, rounds=True, vectors=_FLOATS),
)
# the class of its settings, and the name that LanceDB tells
_CLASSES = {
    "IVF_FLAT": ("IvfFlat", "IVF_FLAT"), "IVF_SQ8": ("IvfSq", "IVF_SQ"), "IVF_PQ": ("IvfPq", "IVF_PQ"),
    "IVF_RQ": ("IvfRq", "IVF_RQ"), "HNSW": ("HnswFlat", "IVF_HNSW_FLAT"), "HNSW_SQ": ("HnswSq", "IVF_HNSW_SQ"),
    "HNSW_PQ": ("HnswPq", "IVF_HNSW_PQ"),
}  # fmt: skip
_TOLD = {told: name for name, (_, told) in _CLASSES.items()}
_ARGUMENTS = {
    "nlist": "num_partitions",
    "m": "num_sub_vectors",
    "nbits": "num_bits",
    "M": "m",
    "efConstruction": "ef_construction",
}
_LEAST = 256  # rows from which product codes are made; an index of fewer is listed, and empty
_AT_ONCE = 64  # queries of one call
_EVERY = 1_000_000  # lists: more than there are


def types(index: Index) -> tuple[IndexType, ...]:
    """What LanceDB builds.

    Raises:
        UsageProblem: for an address of LanceDB's cloud or of an object store.
    """
    if "://" in index.uri:
        raise UsageProblem(
            f"index {index.name!r}: expected a folder at uri; LanceDB's cloud and object stores are not supported, since no test "
            "has searched one"
        )
    return TYPES


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> LanceCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    return LanceCollection(index, name, dim, vectors, metric)


class LanceCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, name: str, dim: int, vectors: str, metric: str) -> None:
        os.environ.setdefault("LANCEDB_LOG", "error")  # what it warns of is measured
        import lancedb

        self.versions: Mapping[str, str] = installed("lancedb")
        self.filters, self.persistent = not index.existing, bool(index.uri)
        self.row: Callable[[Any], int] = int
        self._index, self._name, self._dim, self._vectors, self._metric = index, index.collection or name, dim, vectors, metric
        self._folder = None if index.uri else tempfile.TemporaryDirectory(prefix="qguard-lancedb-")
        place = Path(index.uri or self._folder.name)  # type: ignore[union-attr]
        if place.exists() and not place.is_dir():
            raise UsageProblem(f"index {index.name!r}: expected a folder at uri, found a file: {place.name}")
        there = (place / f"{self._name}.lance").exists()
        if index.existing and not there:
            raise unknown(f"table of index {index.name!r}:", self._name, sorted(p.stem for p in place.glob("*.lance")))
        with self._told("opening the folder"):
            self._base = lancedb.connect(str(place))
            self._table = (
                self._base.open_table(self._name) if there else self._base.create_table(self._name, schema=self._schema())
            )
        if index.existing:
            self._check_existing()

    def _check_existing(self) -> None:
        """The columns are there, and of the kind that is stated."""
        index, schema = self._index, self._table.schema
        check_fields(index, schema.names, "column")
        found = schema.field(index.vector_field).type
        if found != self._kind():
            raise UsageProblem(f"index {index.name!r}: column {index.vector_field!r} is of type {found}; expected {self._kind()}")

    def _told(self, what: str) -> Any:
        return step(f"index {self._index.name!r}, LanceDB: {what}")

    def _schema(self) -> Any:
        import pyarrow

        return pyarrow.schema([("id", pyarrow.int64()), (BUCKET, pyarrow.int64()), ("vector", self._kind())])

    def _kind(self) -> Any:
        import pyarrow

        one = {FLOAT32: pyarrow.float32(), FLOAT16: pyarrow.float16(), BINARY: pyarrow.uint8()}[self._vectors]
        return pyarrow.list_(one, -(-self._dim // 8) if self._vectors == BINARY else self._dim)

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        with self._told("counting rows"):
            return int(self._table.count_rows())

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`."""
        import pyarrow

        kind = self._kind()
        rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel(), kind.value_type), kind.list_size)
        columns = {"id": np.arange(start, start + len(vectors)), BUCKET: buckets, "vector": rows}
        with self._told("adding rows"):
            self._table.add(pyarrow.table(columns, schema=self._schema()))

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`.

        Raises:
            UsageProblem: for product codes of too few rows.
        """
        from lancedb import index as lance

        if (kind := self._index.type) == "FLAT":
            return
        if kind.endswith("PQ") and (rows := self.rows()) < _LEAST:
            raise UsageProblem(
                f"index {self._index.name!r}: LanceDB makes {kind} of {_LEAST} rows or more, and lists an empty one of fewer; "
                f"found {rows}. Take another type, or more documents"
            )
        given: dict[str, Any] = {_ARGUMENTS[k]: v for k, v in self._index.params.items()}
        if kind.startswith("HNSW"):
            given["num_partitions"] = 1  # one graph of all rows
        with self._told(f"creating the index {kind}"):
            config = getattr(lance, _CLASSES[kind][0])(distance_type=_METRICS[self._metric], **given)
            self._table.create_index("vector", config=config, name="vector", replace=True)

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`."""
        with self._told("reading back the index"):
            found = next((i for i in self._table.list_indices() if list(i.columns) == [self._index.vector_field]), None)
            if found is None:
                return Held(self.rows(), "FLAT", self._metric)
            told, rows = self._table.index_stats(found.name), self.rows()
            details: Mapping[str, Any] = found.index_details or {}
            graph, codes = details.get("hnsw") or {}, details.get("compression") or {}
            parts = {
                "M": graph.get("max_connections"), "efConstruction": graph.get("construction_ef"),
                "m": codes.get("num_sub_vectors"), "nbits": codes.get("num_bits"),
                "nlist": self._lists() if "nlist" in self._index.params else None,
            }  # fmt: skip
        whole = told is not None and told.num_indexed_rows == rows and not told.num_unindexed_rows
        kind = _TOLD.get(told.index_type, told.index_type) if whole else ""
        metric = str(told.distance_type if told is not None else "")
        params = {k: v for k, v in parts.items() if v is not None}
        return Held(rows, kind, _NAMES.get(metric, metric), params)

    def _lists(self) -> int | None:
        """The lists that a search of all of them looks at; ``None`` where its plan does not tell."""
        query = np.zeros(-(-self._dim // 8), np.uint8) if self._vectors == BINARY else np.ones(self._dim, np.float32)
        plan = self._asked(query, 1, {"nprobe": _EVERY}).analyze_plan()
        found = re.search(r"partitions_ranked=([\d.]+)( K)?", plan)
        if found is None:
            return None
        wanted = int(self._index.params["nlist"])
        if found[2] is None:
            return int(found[1])
        # from 1,000 on the plan tells thousands with two decimals
        return wanted if found[1] == f"{wanted / 1000:.2f}" else round(1000 * float(found[1]))

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`."""
        wanted = ", ".join(map(str, rows.tolist()))
        with self._told("reading rows back"):
            found = self._table.search().where(f"id IN ({wanted})").limit(len(rows)).select(["id", "vector"]).to_arrow()
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
        by_id = dict(zip(found["id"].to_pylist(), vectors, strict=True))
        return np.stack(in_order(by_id, rows, f"index {self._index.name!r}, LanceDB"))

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`."""
        key, vector = self._index.id_field, self._index.vector_field
        with self._told("reading the table"):
            for found in self._table.search().select([key, vector]).to_batches(batch_size=BLOCK):
                yield [str(i) for i in found[key].to_pylist()], found[vector].flatten().to_numpy().reshape(len(found), -1)

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`."""
        found: list[list[tuple[int, float]]] = []
        for start in range(0, len(queries), _AT_ONCE):
            part = queries[start : start + _AT_ONCE]
            with self._told("searching"):
                asked = self._asked(part[0] if len(part) == 1 else part, k, params)
                if below is not None:
                    asked = asked.where(f"{BUCKET} < {below}")
                table = asked.to_arrow()
            lists: list[list[tuple[int, float]]] = [[] for _ in part]
            numbers = table["query_index"].to_pylist() if "query_index" in table.column_names else [0] * len(table)
            for number, row, told in zip(
                numbers, table[self._index.id_field].to_pylist(), table["_distance"].to_pylist(), strict=True
            ):
                lists[number].append((self.row(row), self._score(told)))
            found += lists
        return Hits.of(found, k)

    def _asked(self, queries: NDArray[Any], k: int, params: Parameters) -> Any:
        asked = (
            self._table.search(queries, vector_column_name=self._index.vector_field)
            .distance_type(_METRICS[self._metric])
            .limit(k)
        )
        if "nprobe" in params:
            asked = asked.nprobes(int(params["nprobe"]))
        if "ef" in params:
            asked = asked.ef(int(params["ef"]))
        return asked.select([self._index.id_field, "_distance"])

    def _score(self, told: float) -> float:
        """A distance of LanceDB as a score; that of ``l2`` is squared."""
        if self._metric == EUCLIDEAN:
            return -float(np.sqrt(max(told, 0.0)))
        return -told if self._metric == HAMMING else 1 - told

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`: of the files of the table and its index."""
        folder = Path(self._index.uri or self._folder.name) / f"{self._name}.lance"  # type: ignore[union-attr]
        return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`."""
        with self._told("dropping the table"):
            self._base.drop_table(self._name)

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""
        if self._folder is not None:
            self._folder.cleanup()
