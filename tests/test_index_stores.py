"""Further stores: each passes the proof, an idle or another index does not, and what a store does not do is said."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from qguard.errors import LibraryProblem, MeasurementProblem, UsageProblem
from qguard.indexes import stores
from qguard.indexes.collection import Hits
from qguard.indexes.fill import fill
from qguard.indexes.measures import measure
from qguard.indexes.settings import Index
from tests.test_indexes import DIM, ROWS, Faulty, filled, proved, recall_of, refused, searches, vectors

GRAPH = {"params": {"M": 8, "efConstruction": 40}, "search": {"ef": 32}}


def _needs(package):
    """Looked for, and not imported: the store itself imports it, and what has to come before it."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def turned():
    """Another model's vectors of the same documents."""
    documents, _ = vectors()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0].astype(np.float32)
    return np.ascontiguousarray(documents @ turn)


def few(kind="float32", metric="cosine"):
    """As :func:`searches`, with few queries: what is measured is another module's."""
    return searches(kind, metric, queries=vectors()[1][:8])


def replace_metric(s, metric):
    return replace(s, metric=metric)


def replace_rows(s, documents):
    return replace(s, rows=searches(documents=documents).rows)


def exactly(s, collection):
    """The collection, searched exactly whatever is asked, as an idle index is."""

    def search(queries, k, params, below=None):
        exact = type(s.plain)(queries, s.plain.documents, s.metric, np.full(len(queries), -1)).neighbours(k)
        return Hits(exact.rows, exact.scores)

    return Faulty(collection, search=search)


# ---- usearch ----


@pytest.mark.parametrize(
    ("kind", "stored", "metric"),
    [
        ("HNSW", "float32", "cosine"),
        ("HNSW", "bfloat16", "euclidean"),
        ("HNSW", "binary", "hamming"),
        ("HNSW_E4M3", "float32", "dot"),
    ],
)
def test_usearch_is_proved_and_measured(kind, stored, metric):
    _needs("usearch")
    index = Index("graph", "usearch", kind, filters=(), **GRAPH)
    found = measure(index, searches(stored, metric))
    assert found.proof.missed > 0
    assert found.proof.params == index.params
    assert found.proof.read_back == 64
    assert (found.items.rows[:, 2] == 1).all()
    assert recall_of(found) > (0.9 if kind == "HNSW" else 0.8)
    assert found.bytes > ROWS * DIM / 8
    assert not found.filtered  # its Python package has none


def test_usearch_that_is_idle_or_holds_other_rows_is_found_out():
    _needs("usearch")
    index = Index("graph", "usearch", "HNSW", **GRAPH)
    s, collection = filled(index)
    refused(index, s, exactly(s, collection), "as an exact search does: the index is idle")
    _, other = filled(index, documents=turned())
    refused(index, s, other, "holds other vectors than this model's")
    rounded = replace(index, type="HNSW_I8")
    s, collection = filled(rounded)
    refused(rounded, s, exactly(s, collection), "scores of vectors that are not rounded")
    refused(index, s, collection, "expected an index of type HNSW, found one of type HNSW_I8")


def test_usearch_reads_a_file_which_does_not_keep_how_it_was_built(tmp_path):
    _needs("usearch")
    index = Index("graph", "usearch", "HNSW", params={"M": 8}, search={"ef": 32})
    s, collection = filled(index)
    path = tmp_path / "some.usearch"
    collection._made.save(str(path))
    there = replace(index, uri=str(path), existing=True)
    opened = stores.open_collection(there, "", DIM, "float32", "cosine")
    assert proved(there, s, opened).missed > 0
    built = replace(there, params={"efConstruction": 40})
    refused(built, s, opened, "has no efConstruction: expected 40, and the store tells none")
    with pytest.raises(UsageProblem, match=r"expected a file of usearch at uri, found none at 'none.usearch'"):
        stores.open_collection(replace(there, uri=str(tmp_path / "none.usearch")), "", DIM, "float32", "cosine")


def test_usearch_cuts_lengths_from_bytes_so_that_only_cosine_ranks_them():
    _needs("usearch")
    with pytest.raises(UsageProblem, match="HNSW_I8 in usearch ranks float32 vectors by cosine; found metric 'dot'"):
        stores.check(Index("graph", "usearch", "HNSW_I8"), "float32", "dot")


def test_faiss_searches_after_usearch():
    """In one process, whichever is asked first. A crash would end the gate without a word."""
    _needs("usearch")
    _needs("faiss")
    found = [stores.open_collection(Index("one", store, "HNSW"), "rows", 8, "float32", "dot") for store in ("usearch", "faiss")]
    assert [c.rows() for c in found] == [0, 0]
    for collection in found:
        collection.close()


# ---- LanceDB ----


@pytest.mark.parametrize(
    ("kind", "stored", "metric", "params", "search"),
    [
        ("FLAT", "float32", "cosine", {}, {}),
        ("IVF_FLAT", "float16", "euclidean", {"nlist": 24}, {"nprobe": 12}),
        ("IVF_FLAT", "binary", "hamming", {"nlist": 8}, {"nprobe": 4}),
        ("IVF_SQ8", "float32", "cosine", {"nlist": 24}, {"nprobe": 12}),
        ("HNSW", "float32", "dot", {"M": 8, "efConstruction": 40}, {"ef": 32}),
    ],
)
def test_lancedb_is_proved_and_measured(tmp_path, kind, stored, metric, params, search):
    _needs("lancedb")
    index = Index("some", "lancedb", kind, uri=str(tmp_path / "lance"), params=params, search=search, filters=(0.1,))
    found = measure(index, few(stored, metric))
    assert (found.proof.missed is None) == (kind == "FLAT")
    assert found.proof.params.items() >= params.items()
    assert found.proof.read_back == 64
    assert recall_of(found) > (0.9 if kind in ("FLAT", "HNSW") else 0.7)
    assert found.bytes > ROWS * DIM / 8
    assert not list((tmp_path / "lance").glob("*.lance"))  # it is removed again


def test_lancedb_that_is_idle_or_of_another_metric_is_found_out():
    _needs("lancedb")
    index = Index("some", "lancedb", "IVF_SQ8", search={"nprobe": 12})
    s, collection = filled(index)
    collection._metric = "euclidean"  # which LanceDB searches exactly, without a word
    refused(index, replace_metric(s, "euclidean"), collection, "ranks by cosine; expected euclidean")
    held = collection.held()
    said = Faulty(collection, held=lambda: replace(held, metric="euclidean"))
    refused(index, replace_metric(s, "euclidean"), said, "scores of vectors that are not rounded .* the index is idle")
    collection._metric = "cosine"
    collection.insert(ROWS, s.rows.block(0, 1), s.rows.buckets[:1])  # after the index was made
    refused(index, s, collection, "holds 1201 rows; expected 1200")
    more = replace_rows(s, np.concatenate([vectors()[0], vectors()[0][:1]]))
    refused(index, more, collection, "expected an index of type IVF_SQ8, found none that covers all rows")
    collection.close()


def test_lancedb_makes_no_product_codes_of_few_rows_nor_all_lists_of_more():
    _needs("lancedb")
    index = Index("some", "lancedb", "IVF_PQ", params={"nlist": 24, "m": 8})
    with pytest.raises(UsageProblem, match="makes IVF_PQ of 256 rows or more, and lists an empty one of fewer; found 200"):
        filled(index, documents=vectors()[0][:200])
    s, collection = filled(index)
    refused(index, s, collection, "has nlist = 4; expected 24. The parameter did not arrive")
    collection.close()
    many = Index("some", "lancedb", "IVF_FLAT", params={"nlist": 1024})
    s, collection = filled(many)
    assert collection.held().params == {"nlist": 1024}
    collection._index = other = replace(many, params={"nlist": 1100})
    refused(other, s, collection, "has nlist = 1020; expected 1100")
    collection.close()
    with pytest.raises(UsageProblem, match="LanceDB's cloud and object stores are not supported"):
        stores.check(replace(index, uri="db://some"), "float32", "cosine")


# ---- pgvector ----


@pytest.fixture(scope="module")
def postgres():
    """The address of a server of this module's own."""
    _needs("psycopg")
    from tests.postgres import server

    with server() as address:
        yield address


@pytest.mark.parametrize(
    ("kind", "stored", "metric", "params", "search"),
    [
        ("FLAT", "float16", "dot", {}, {}),
        ("IVF_FLAT", "float32", "euclidean", {"nlist": 24}, {"nprobe": 12}),
        ("HNSW", "float32", "cosine", {"M": 8, "efConstruction": 40}, {"ef": 32, "iterative_scan": "strict_order"}),
        ("HNSW", "binary", "hamming", {"M": 8, "efConstruction": 40}, {"ef": 32}),
    ],
)
def test_pgvector_is_proved_and_measured_on_a_real_server(postgres, kind, stored, metric, params, search):
    search = search | ({} if kind == "FLAT" else {"enable_seqscan": False})
    index = Index("some", "pgvector", kind, uri=postgres, params=params, search=search, filters=(0.1,))
    found = measure(index, few(stored, metric))
    assert (found.proof.missed is None) == (kind == "FLAT")
    assert found.proof.params.items() >= params.items()
    assert found.proof.read_back == 64
    assert recall_of(found) > (0.9 if kind != "IVF_FLAT" else 0.7)
    assert found.bytes > ROWS * DIM / 8
    assert found.versions.keys() == {"psycopg", "postgresql", "pgvector"}


def test_pgvector_whose_index_is_not_used_or_holds_other_rows_is_found_out(postgres):
    index = Index("some", "pgvector", "HNSW", uri=postgres, search={"ef": 32, "enable_seqscan": False})
    s, collection = filled(index)
    try:
        planned = replace(index, search={"ef": 32})  # as PostgreSQL plans it for so few rows
        refused(planned, s, collection, r"PostgreSQL reads the whole table for LIMIT 10: the index is idle")
        refused(index, s, exactly(s, collection), "as an exact search does: the index is idle")
        collection._connection.execute("DROP INDEX some_vector")
        refused(index, s, collection, "expected an index of type HNSW, found one of type FLAT")
        said = Faulty(collection, held=lambda: replace(collection.held(), type="HNSW"))
        refused(index, replace_rows(s, turned()), said, "holds other vectors than this model's")
    finally:
        collection.drop()
        collection.close()


def test_pgvector_says_what_it_does_not_do_before_anything_is_built(postgres):
    index = Index("some", "pgvector", "HNSW", uri=postgres)
    with pytest.raises(UsageProblem, match="HNSW in pgvector takes float32 vectors of up to 2000 values, found 2001"):
        stores.open_collection(index, "some", 2001, "float32", "cosine")
    with pytest.raises(UsageProblem, match=r"expected the address of a PostgreSQL server at uri, such as .*, found none"):
        stores.check(replace(index, uri=""), "float32", "cosine")
    with pytest.raises(UsageProblem, match="stores float32 and float16 and binary vectors; found int8"):
        stores.check(index, "int8", "cosine")
    away = replace(index, uri=postgres.replace("qguard-pg-", "gone-"))
    with pytest.raises(LibraryProblem, match=r"PostgreSQL: connecting failed .*Check the address"):
        stores.open_collection(away, "some", DIM, "float32", "cosine")


@pytest.mark.parametrize("store", ["lancedb", "pgvector"])
def test_a_collection_that_is_left_is_resumed(store, request, tmp_path):
    _needs({"lancedb": "lancedb", "pgvector": "psycopg"}[store])
    uri = str(tmp_path) if store == "lancedb" else request.getfixturevalue("postgres")
    index, s = Index("some", store, "FLAT", uri=uri), few()
    left = stores.open_collection(index, "left", DIM, "float32", "cosine")
    left.insert(0, s.rows.block(0, 500), s.rows.buckets[:500])
    left.close()
    again = stores.open_collection(index, "left", DIM, "float32", "cosine")
    try:
        assert fill(again, index, s.rows).resumed == 500
        assert proved(index, s, again).read_back == 64
    finally:
        again.drop()
        again.close()


# ---- Qdrant: the calls of its client, against a stub ----


def test_the_calls_of_qdrant_are_those_of_its_interface():
    _needs("qdrant_client")
    from tests.qdrant_stub import server

    with server() as (address, state):
        index = Index(
            "some", "qdrant", "HNSW", uri=address, params={"M": 8, "efConstruction": 40}, search={"ef": 32}, filters=(0.1,)
        )
        found = measure(index, few())
        assert found.proof.params.items() >= index.params.items()
        assert found.proof.missed > 0
        assert found.bytes is None
        calls = [(method, re.sub("qguard_[0-9a-f]+", "NAME", path)) for method, path in state.calls]
        assert list(dict.fromkeys(calls)) == [
            ("GET", "/"),
            ("GET", "/collections/NAME/exists"),
            ("PUT", "/collections/NAME"),
            ("PUT", "/collections/NAME/index?wait=true"),
            ("POST", "/collections/NAME/points/count"),
            ("PUT", "/collections/NAME/points?wait=true"),
            ("PATCH", "/collections/NAME"),
            ("GET", "/collections/NAME"),
            ("POST", "/collections/NAME/points"),
            ("POST", "/collections/NAME/points/query/batch"),
            ("DELETE", "/collections/NAME"),
        ]
        state.idle = True
        with pytest.raises(MeasurementProblem, match="as an exact search does: the index is idle"):
            measure(index, few())


def test_qdrant_that_indexes_only_some_rows_is_found_out(monkeypatch):
    _needs("qdrant_client")
    from qguard.indexes.stores import qdrant
    from tests.qdrant_stub import server

    monkeypatch.setattr(qdrant, "_STILL", 0.05)
    monkeypatch.setattr(qdrant, "_PAUSE", 0.02)
    with server() as (address, state):
        index = Index("some", "qdrant", "HNSW_SQ", uri=address)
        state.indexed = False
        with pytest.raises(MeasurementProblem, match="expected an index of type HNSW_SQ, found none that covers all rows"):
            measure(index, few())
        state.indexed = True
        with pytest.raises(MeasurementProblem, match="scores of vectors that are not rounded"):
            measure(index, few())


@pytest.mark.parametrize("uri", ["", ":memory:", "some/folder"])
def test_the_local_mode_of_qdrant_is_refused(uri):
    _needs("qdrant_client")
    with pytest.raises(UsageProblem, match="local mode searches exactly, whatever index or quantization is asked for"):
        stores.check(Index("some", "qdrant", "HNSW", uri=uri), "float32", "cosine")


CALLS = {
    "faiss": ("faiss.index_factory", ""), "milvus": ("pymilvus.MilvusClient", ""), "usearch": ("usearch.index.Index", ""),
    "lancedb": ("lancedb.connect", ""), "pgvector": ("psycopg.connect", "postgresql://localhost/rows"),
    "qdrant": ("qdrant_client.QdrantClient", "http://localhost:6333"),
}  # fmt: skip


@pytest.mark.parametrize("store", CALLS)
def test_what_a_store_throws_is_told_in_words(store, monkeypatch):
    name, uri = CALLS[store]
    _needs(name.partition(".")[0])
    boom = type("Boom", (Exception,), {"__module__": "other"})

    def throw(*_, **__):
        raise boom("broken\nsecond line")

    if store == "usearch":
        _needs("faiss")
        import_module("faiss")
    monkeypatch.setattr(name, throw)
    index = Index("one", store, {"lancedb": "IVF_FLAT"}.get(store, "HNSW"), uri)
    with pytest.raises(LibraryProblem, match=r"index 'one'.* failed in other: Boom: broken\.") as told:
        stores.open_collection(index, "rows", 8, "float32", "dot")
    assert "second line" not in str(told.value)
