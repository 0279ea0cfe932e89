"""pgvector: a table of a PostgreSQL server (``uri``), through psycopg.

The order of the calls is: copy the rows, create the index, ``ANALYZE``. PostgreSQL decides for each search whether an index
answers it, so its plan is read: a search without a filter that reads the whole table is an error. Under a filter the planner's
own choice is what users get, and is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.boundary import step
from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.indexes.collection import BUCKET, FLOAT_METRICS, Held, Hits, IndexType, check_fields, in_order
from qguard.indexes.settings import BINARY, EUCLIDEAN, FLOAT16, FLOAT32, HAMMING, STATED, Index, Parameters
from qguard.indexes.stored import BLOCK
from qguard.machine.versions import installed
from qguard.vectors.similarity import COSINE, DOT

_VECTORS, _ALL = (FLOAT32, FLOAT16, BINARY), (*FLOAT_METRICS, HAMMING)
_PLANNED = {"iterative_scan": None, "enable_seqscan": None}
TYPES = (
    IndexType("FLAT", vectors=_VECTORS, metrics=_ALL),
    IndexType("IVF_FLAT", {"nlist": 100}, {"nprobe": 1, **_PLANNED}, {"nprobe": 1}, vectors=_VECTORS, metrics=_ALL),
    IndexType("HNSW", {"M": 16, "efConstruction": 64}, {"ef": 40, **_PLANNED}, {"ef": 1}, vectors=_VECTORS, metrics=_ALL),
)
_METHODS = {"IVF_FLAT": "ivfflat", "HNSW": "hnsw"}
_TYPES = {v: k for k, v in _METHODS.items()}
_COLUMNS = {FLOAT32: "vector", FLOAT16: "halfvec", BINARY: "bit"}
_OPERATORS = {COSINE.name: "<=>", DOT.name: "<#>", EUCLIDEAN: "<->", HAMMING: "<~>"}
_CLASSES = {COSINE.name: "cosine_ops", DOT.name: "ip_ops", EUCLIDEAN: "l2_ops", HAMMING: "hamming_ops"}
_OPTIONS = {"nlist": "lists", "M": "m", "efConstruction": "ef_construction"}
_SETTINGS = {"nprobe": "ivfflat.probes", "ef": "hnsw.ef_search", "enable_seqscan": "enable_seqscan"}
_WIDEST = {FLOAT32: 2_000, FLOAT16: 4_000, BINARY: 64_000}  # that its indexes take
_SINCE = {FLOAT16: (0, 7), BINARY: (0, 7)}  # release that has the type or its index
_COPIED = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # the beginning of PostgreSQL's binary format, without flags


def types(index: Index) -> tuple[IndexType, ...]:
    """What pgvector builds.

    Raises:
        UsageProblem: where no server is named.
    """
    if not index.uri.startswith(("postgresql://", "postgres://")):
        raise UsageProblem(
            f"index {index.name!r}: expected the address of a PostgreSQL server at uri, such as "
            f"postgresql://user@localhost/database, found {'none' if not index.uri else 'another text'}"
        )
    return TYPES


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> PgvectorCollection:
    """See :func:`qguard.indexes.stores.open_collection`."""
    return PgvectorCollection(index, name, dim, vectors, metric)


class PgvectorCollection:
    """See :class:`qguard.indexes.collection.Collection`."""

    def __init__(self, index: Index, name: str, dim: int, vectors: str, metric: str) -> None:
        import psycopg

        self.filters, self.persistent = not index.existing, True
        self.row: Callable[[Any], int] = int
        name = index.collection or name
        self._index, self._name, self._dim, self._vectors, self._metric = index, name, dim, vectors, metric
        self._table, self._made = f'"{name}"', f'"{name}_vector"'  # a name may be a word of SQL
        self._key, self._vector = f'"{index.id_field}"', f'"{index.vector_field}"'
        self._used = f"{name}_vector"  # the index, as plans name it
        self._set: dict[str, str] = {}
        self._planned: set[str] = set()
        if index.type != "FLAT" and dim > _WIDEST[vectors]:
            raise UsageProblem(
                f"index {index.name!r}: {index.type} in pgvector takes {vectors} vectors of up to {_WIDEST[vectors]} values, "
                f"found {dim}. Take another kind of vectors, such as float16, or a model with fewer values"
            )
        password = {"password": index.secret} if index.token else {}
        with self._told("connecting"):
            self._connection: Any = psycopg.connect(index.uri, autocommit=True, **password)
            if index.existing:  # PostgreSQL itself refuses what would write
                self._connection.execute("SET default_transaction_read_only = on")
        try:
            self.versions: Mapping[str, str] = self._prepared()
        except BaseException:
            self._connection.close()
            raise

    def _told(self, what: str) -> Any:
        return step(
            f"index {self._index.name!r}, PostgreSQL: {what}", mend="Check the address, the rights and that the server runs"
        )

    def _all(self, words: str, *given: Any, binary: bool = False) -> list[Any]:
        """The rows of a query. Its words hold names of qguard's own and numbers, never a user's text."""
        return list(self._connection.execute(words, given or None, binary=binary, prepare=False).fetchall())

    def _prepared(self) -> dict[str, str]:
        """The extension and the table are there."""
        with self._told("preparing the database"):
            if not self._all("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
                raise UsageProblem(
                    f"index {self._index.name!r}: the PostgreSQL server has no extension pgvector; install it there, such as "
                    "Debian's package postgresql-17-pgvector"
                )
            if not self._index.existing:
                self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            ((version,),) = self._all("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            ((server,),) = self._all("SHOW server_version")
            least = _SINCE.get(self._vectors, (0, 5))  # the first release with HNSW
            if tuple(map(int, version.split(".")[:2])) < least:
                raise UsageProblem(
                    f"index {self._index.name!r}: {self._vectors} vectors need pgvector {'.'.join(map(str, least))} or later, "
                    f"and the server has {version}. Take another kind of vectors, or update the extension"
                )
            if self._index.existing:
                self._check_existing()
            else:
                column = f"{_COLUMNS[self._vectors]}({self._dim})"
                self._connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._table} "
                    f"(id bigint PRIMARY KEY, {BUCKET} bigint NOT NULL, vector {column} NOT NULL)"
                )
        return {**installed("psycopg"), "postgresql": str(server).split(" ")[0], "pgvector": str(version)}

    def _check_existing(self) -> None:
        """The table and its columns are there, and of the kind that is stated."""
        index, stated = self._index, _COLUMNS[self._vectors]
        columns = {
            str(name): str(kind)
            for name, kind in self._all(
                "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
                "WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped",
                self._table,
            )
        }
        if not columns:
            tables = [
                str(name)
                for (name,) in self._all("SELECT tablename FROM pg_tables WHERE schemaname = ANY(current_schemas(false))")
            ]
            raise unknown(f"table of index {index.name!r}:", self._name, tables)
        check_fields(index, columns, "column")
        if (found := columns[index.vector_field]) != stated:
            other = next((kind for kind, name in _COLUMNS.items() if name == found and kind in STATED), None)
            mend = f'; set vectors = "{other}"' if other else ""
            raise UsageProblem(f"index {index.name!r}: column {index.vector_field!r} is of type {found}; expected {stated}{mend}")

    def rows(self) -> int:
        """See :meth:`qguard.indexes.collection.Collection.rows`."""
        with self._told("counting rows"):
            return int(self._all(f"SELECT count(*) FROM {self._table}")[0][0])

    def insert(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> None:
        """See :meth:`qguard.indexes.collection.Collection.insert`: a block at once or not at all."""
        with self._told("copying rows"), self._connection.cursor() as cursor:
            words = f"COPY {self._table} (id, {BUCKET}, vector) FROM STDIN (FORMAT binary)"
            with cursor.copy(words) as copy:
                copy.write(_COPIED + self._copied(start, vectors, buckets).tobytes() + b"\xff\xff")

    def _copied(self, start: int, vectors: NDArray[Any], buckets: NDArray[np.int64]) -> NDArray[Any]:
        """Rows as PostgreSQL's binary format has them: each number in big endian, after the bytes that it takes."""
        kind = {FLOAT32: ">f4", FLOAT16: ">f2", BINARY: "u1"}[self._vectors]
        rows = np.zeros(
            len(vectors),
            [("fields", ">i2"), ("a", ">i4"), ("id", ">i8"), ("b", ">i4"), ("bucket", ">i8"), ("c", ">i4"), ("head", ">u4"),
             ("vector", kind, vectors.shape[1:])],
        )  # fmt: skip
        rows["fields"], rows["a"], rows["b"] = 3, 8, 8
        rows["id"], rows["bucket"], rows["vector"] = np.arange(start, start + len(vectors)), buckets, vectors
        rows["c"] = 4 + rows["vector"].dtype.itemsize * vectors.shape[1]
        # bits are counted in 4 bytes; values in 2, before 2 that are empty
        rows["head"] = self._dim if self._vectors == BINARY else self._dim << 16
        return rows

    def build(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.build`."""
        kind = self._index.type
        with self._told(f"creating the index {kind}"):
            self._connection.execute(f"DROP INDEX IF EXISTS {self._made}")
            if kind != "FLAT":
                given = ", ".join(f"{_OPTIONS[k]} = {int(v)}" for k, v in self._index.params.items())
                self._connection.execute(
                    f"CREATE INDEX {self._made} ON {self._table} USING {_METHODS[kind]} "
                    f"(vector {_COLUMNS[self._vectors]}_{_CLASSES[self._metric]}){f' WITH ({given})' if given else ''}"
                )
            self._connection.execute(f"ANALYZE {self._table}")

    def held(self) -> Held:
        """See :meth:`qguard.indexes.collection.Collection.held`: what PostgreSQL's catalog says."""
        with self._told("reading back the index"):
            found = self._all(
                "SELECT m.amname, o.opcname, c.reloptions, i.indisvalid AND i.indpred IS NULL, c.relname FROM pg_index i "
                "JOIN pg_class c ON c.oid = i.indexrelid "
                "JOIN pg_am m ON m.oid = c.relam JOIN pg_opclass o ON o.oid = i.indclass[0] "
                "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
                "WHERE i.indrelid = %s::regclass AND a.attname = %s",
                self._table, self._index.vector_field,
            )  # fmt: skip
        if not found:
            return Held(self.rows(), "FLAT", self._metric)
        method, operators, options, valid, self._used = found[0]
        told = dict(o.split("=", 1) for o in options or ())
        params = {k: int(told[v]) for k, v in _OPTIONS.items() if v in told}
        metric = next((m for m, ends in _CLASSES.items() if str(operators).endswith(f"_{ends}")), str(operators))
        return Held(self.rows(), _TYPES.get(method, str(method)) if valid else "", metric, params)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """See :meth:`qguard.indexes.collection.Collection.read`."""
        with self._told("reading rows back"):
            found = dict(self._all(f"SELECT id, vector FROM {self._table} WHERE id = ANY(%s)", rows.tolist(), binary=True))
        return self._arrays(in_order(found, rows, f"index {self._index.name!r}, PostgreSQL"))

    def _arrays(self, told: Iterable[bytes]) -> NDArray[Any]:
        """Vectors of PostgreSQL's binary format."""
        kind, native = {FLOAT32: (">f4", np.float32), FLOAT16: (">f2", np.float16), BINARY: ("u1", np.uint8)}[self._vectors]
        return np.stack([np.frombuffer(row[4:], kind).astype(native) for row in told])

    def scan(self) -> Iterator[tuple[list[str], NDArray[Any]]]:
        """See :meth:`qguard.indexes.collection.Collection.scan`: in one transaction, through a cursor of the server."""
        with (
            self._told("reading the table"),
            self._connection.transaction(),
            self._connection.cursor("qguard", binary=True) as cursor,
        ):
            cursor.execute(f"SELECT {self._key}::text, {self._vector} FROM {self._table}")
            while found := cursor.fetchmany(BLOCK):
                if absent := [key for key, told in found if key is None or told is None]:
                    raise MeasurementProblem(
                        f"index {self._index.name!r}, PostgreSQL: row {absent[0]} has no id or no vector; expected both"
                    )
                yield [str(key) for key, _ in found], self._arrays(told for _, told in found)

    def search(self, queries: NDArray[Any], k: int, params: Parameters, below: int | None = None) -> Hits:
        """See :meth:`qguard.indexes.collection.Collection.search`.

        Raises:
            MeasurementProblem: where PostgreSQL reads the whole table though there is an index, and no filter.
        """
        where = "" if below is None else f"WHERE {BUCKET} < {int(below)} "
        distance = f"{self._vector} {_OPERATORS[self._metric]} %s::{_COLUMNS[self._vectors]}({self._dim})"
        words = f"SELECT {self._key}, {distance} AS d FROM {self._table} {where}ORDER BY d LIMIT {int(k)}"
        found = []
        with self._told("searching"):
            self._sets(params)
            if below is None and self._index.type != "FLAT":
                self._is_used(words, self._text(queries[0]))
            for query in queries:
                found.append([(self.row(row), self._score(float(told))) for row, told in self._all(words, self._text(query))])
        return Hits.of(found, k)

    def _sets(self, params: Parameters) -> None:
        """The settings of the connection that searches look at; those of an earlier search are PostgreSQL's own again."""
        own = {"iterative_scan": f"{_METHODS.get(self._index.type)}.iterative_scan", **_SETTINGS}
        wanted = {own[name]: str(value) for name, value in params.items()}
        if wanted == self._set:
            return
        for setting in self._set.keys() - wanted:
            self._connection.execute(f"RESET {setting}")
        for setting, value in wanted.items():
            self._connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        self._set = wanted
        self._planned.clear()

    def _is_used(self, words: str, query: str) -> None:
        if words in self._planned:
            return
        plan = "\n".join(line for (line,) in self._all(f"EXPLAIN {words}", query))
        if self._used not in plan:
            raise MeasurementProblem(
                f"index {self._index.name!r}: PostgreSQL reads the whole table for {words[words.rindex('LIMIT') :]}: the index "
                "is idle. Its planner finds that cheaper, as it does for few rows; search = { enable_seqscan = false } forbids it"
            )
        self._planned.add(words)

    def _text(self, query: NDArray[Any]) -> str:
        if self._vectors == BINARY:
            return "".join(map(str, np.unpackbits(query, count=self._dim).tolist()))
        return str(query.astype(np.float64).tolist())

    def _score(self, told: float) -> float:
        """A distance of pgvector as a score; its inner product is negative."""
        return 1 - told if self._metric == COSINE.name else -told

    def size(self) -> int | None:
        """See :meth:`qguard.indexes.collection.Collection.size`: of the table with its indexes."""
        with self._told("asking for the size"):
            return int(self._all("SELECT pg_total_relation_size(%s::regclass)", self._table)[0][0])

    def drop(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.drop`."""
        with self._told("dropping the table"):
            self._connection.execute(f"DROP TABLE IF EXISTS {self._table}")

    def close(self) -> None:
        """See :meth:`qguard.indexes.collection.Collection.close`."""
        self._connection.close()
