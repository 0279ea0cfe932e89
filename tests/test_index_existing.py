"""A collection that a user made with the store's own client: new queries search it, and nothing is changed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qguard.config import load_config
from qguard.errors import MeasurementProblem, QguardError, UsageProblem
from qguard.indexes import stores
from qguard.indexes.existing import read
from qguard.indexes.measures import measure
from qguard.indexes.settings import Index
from qguard.judging.index import facts, judge_index
from qguard.judging.session import Session, Target
from qguard.judging.sweep import indexes_of
from qguard.precisions import parse_precision
from qguard.report.indexes import figures, in_words
from tests.test_indexes import DIM, ROWS, recall_of, searches, vectors

NAMES = [f"doc-{i}" for i in range(ROWS)]
NUMBERS = [str(i) for i in range(ROWS)]


def _milvus(place, ids, rows):
    pytest.importorskip("milvus_lite")
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(place / "own.db"))
    schema = MilvusClient.create_schema(auto_id=True)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("doc", DataType.VARCHAR, max_length=99)
    schema.add_field("emb", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection("docs", schema=schema)
    client.insert("docs", [{"doc": i, "emb": v} for i, v in zip(ids, rows, strict=True)])
    client.flush("docs")
    params = MilvusClient.prepare_index_params()
    params.add_index("emb", index_type="HNSW", metric_type="COSINE", params={"params": {"M": 8, "efConstruction": 40}})
    client.create_index("docs", params)
    client.close()
    return Index("own", "milvus", "HNSW", uri=str(place / "own.db"), search={"ef": 32})


def _lancedb(place, ids, rows):
    lancedb = pytest.importorskip("lancedb")
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), DIM)
    table = lancedb.connect(str(place)).create_table("docs", pyarrow.table({"doc": ids, "emb": column}))
    table.create_index("emb", config=lancedb.index.IvfFlat(distance_type="cosine", num_partitions=4))
    return Index("own", "lancedb", "IVF_FLAT", uri=str(place), search={"nprobe": 3})


def _pgvector(place, ids, rows):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(place, autocommit=True) as database:
        database.execute("CREATE EXTENSION IF NOT EXISTS vector")
        database.execute("DROP TABLE IF EXISTS docs")
        database.execute(f"CREATE TABLE docs (doc text PRIMARY KEY, emb vector({DIM}))")
        with database.cursor().copy("COPY docs FROM STDIN") as copy:
            for i, v in zip(ids, rows, strict=True):
                copy.write_row((i, str(v.tolist())))
        database.execute("CREATE INDEX near ON docs USING hnsw (emb vector_cosine_ops) WITH (m = 8, ef_construction = 40)")
        database.execute("ANALYZE docs")
    return Index("own", "pgvector", "HNSW", uri=place, search={"ef": 32, "enable_seqscan": False})


def _faiss(place, ids, rows):
    faiss = pytest.importorskip("faiss")
    made = faiss.index_factory(DIM, "HNSW8,Flat", faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction = 40
    made.add(rows)
    faiss.write_index(made, str(place / "own.faiss"))
    return Index("own", "faiss", "HNSW", uri=str(place / "own.faiss"), search={"ef": 32})


def _usearch(place, ids, rows):
    pytest.importorskip("faiss")  # which is to be loaded first where both are
    usearch = pytest.importorskip("usearch.index")
    made = usearch.Index(ndim=DIM, metric="cos", dtype="f32", connectivity=8)
    made.add(np.arange(len(rows)), rows)
    made.save(str(place / "own.usearch"))
    return Index("own", "usearch", "HNSW", uri=str(place / "own.usearch"), search={"ef": 16})


MAKERS = {"milvus": _milvus, "lancedb": _lancedb, "pgvector": _pgvector, "faiss": _faiss, "usearch": _usearch}


@pytest.fixture(scope="module")
def postgres():
    """The address of a server of this module's own."""
    pytest.importorskip("psycopg")
    from tests.postgres import server

    with server() as address:
        yield address


@pytest.fixture
def made(request, tmp_path):
    """An index of a store, of rows under ids, as its own client makes it."""

    def make(store, ids=None, rows=None):
        fields = stores.STORES[store].fields
        (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
        place = request.getfixturevalue("postgres") if store == "pgvector" else folder
        index = MAKERS[store](place, ids or NAMES, vectors()[0] if rows is None else rows)
        named = {"collection": "docs", "id_field": "doc", "vector_field": "emb"} if fields else {}
        return replace(index, existing=True, **named), NAMES if fields else NUMBERS

    return make


def state(index):
    """What could have changed: the bytes of files, but those that a store writes when it is only read."""
    if "://" in index.uri:
        return None
    files = [Path(index.uri)] if Path(index.uri).is_file() else sorted(p for p in Path(index.uri).rglob("*") if p.is_file())
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.suffix in (".lance", ".faiss", ".usearch", ".parquet")
    }


@pytest.mark.parametrize("store", MAKERS)
def test_an_index_of_a_user_is_searched_by_new_queries_and_left_as_it_is(made, store):
    index, ids = made(store)
    before = state(index)
    metric = "dot" if store == "faiss" else "cosine"
    s = searches(metric=metric)
    held = read(index, ids, vectors()[0], metric)
    np.testing.assert_allclose(held.rows.floats, vectors()[0], atol=1e-6)
    assert held.cosines.min() > 0.99999
    for _ in range(2):  # the second finds what the first left
        found = measure(index, replace(s, rows=held.rows, ids=tuple(ids)))
        assert recall_of(found) > 0.8
        assert found.proof.rows == found.proof.read_back == ROWS
        assert found.proof.missed > 0
        assert found.filled is None
        assert not found.filtered
        assert "stored vectors 1.000 → index" in found.split_words
        told = found.to_json()
        assert "filled in" not in in_words(told)
        assert figures(told, 1.0)[5] == ""
    assert state(index) == before


def test_vectors_in_half_precision_are_searched_as_they_are_stored(made):
    index, ids = made("lancedb", rows=vectors()[0].astype(np.float16))
    half = replace(index, vectors="float16")
    held = read(half, ids, vectors()[0], "cosine")
    found = measure(half, replace(searches(), rows=held.rows, ids=tuple(ids)))
    assert found.vectors == "float16"
    assert found.proof.score_error < 1e-3
    assert recall_of(found) > 0.8


@pytest.mark.parametrize("store", ["milvus", "lancedb", "pgvector"])
def test_another_collection_than_the_suites_is_found_out(made, store):
    some, other = vectors()[0], np.random.default_rng(7).standard_normal((ROWS, DIM)).astype(np.float32)
    index, ids = made(store)
    fp32 = some.copy()
    fp32[3] = -fp32[3]
    assert np.flatnonzero(read(index, ids, fp32, "cosine").cosines < 0.9).tolist() == [3]
    for ids_of, rows, words in (
        (
            ids[: ROWS * 9 // 10],
            some[: ROWS * 9 // 10],
            "lacks 120 of the suite's 1200 documents, such as 'doc-1080', .*field 'doc'",
        ),
        (["no", *ids[1:]], some, "lacks 1 of the suite's 1200 documents, such as 'doc-0'"),
        ([*ids, "more"], np.concatenate([some, some[:1]]), "holds 1 documents that the suite has not, such as 'more'"),
        (ids, other, r"holds other vectors than this model's: the median cosine .* is -?0\.0"),
    ):
        with pytest.raises(MeasurementProblem, match=words):
            read(made(store, ids_of, rows)[0], ids, some, "cosine")


def test_a_document_in_several_rows_and_what_is_not_there_is_named(made):
    index, ids = made("lancedb", [*NAMES, "doc-5"], np.concatenate([vectors()[0], vectors()[0][5:6]]))
    for changed, words in (
        ({}, "holds document 'doc-5' in several rows"),
        ({"collection": "dosc"}, "unknown table of index 'own': 'dosc'; did you mean docs"),
        ({"id_field": "dok"}, "unknown column of index 'own': 'dok'; did you mean doc"),
        ({"vectors": "float16"}, "column 'emb' is of type .*float.*; expected .*halffloat"),
        ({"uri": index.uri + "x"}, "unknown table"),
    ):
        with pytest.raises(QguardError, match=words):
            read(replace(index, **changed), ids, vectors()[0], "cosine")


@pytest.mark.parametrize(
    ("index", "vectors_of", "words"),
    [
        (Index("own", "qdrant", "HNSW", uri="http://localhost:6333", collection="docs"), "float32", "are read of milvus, faiss"),
        (Index("own", "faiss", "HNSW"), "float32", "exists already: expected uri, found none"),
        (Index("own", "lancedb", "HNSW", uri="some"), "float32", "exists already: expected collection, found none"),
        (
            Index("own", "faiss", "HNSW", uri="some", collection="docs"),
            "float32",
            "an index of faiss is one file and has no coll",
        ),
        (Index("own", "faiss", "HNSW", uri="some"), "binary", "searched with vectors like those that it holds, .* with binary"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_opened(index, vectors_of, words):
    pytest.importorskip(stores.STORES[index.store].packages[0])
    with pytest.raises(UsageProblem, match=words):
        stores.check(replace(index, existing=True), vectors_of, "hamming" if vectors_of == "binary" else "cosine")


def test_only_searches_of_an_existing_index_are_swept():
    pytest.importorskip("faiss")
    index = Index("own", "faiss", "HNSW", uri="some", existing=True)
    assert indexes_of([index], [], {}, {"ef": [16, 32]}) == [(index, [{"ef": 16}, {"ef": 32}])]
    for types, build in ((["FLAT"], {}), ([], {"M": [8]})):
        with pytest.raises(UsageProblem, match="exists already, so only the parameters of its searches can be swept"):
            indexes_of([index], types, build, {})


# ---- in a project ----

TARGET = Target(parse_precision("int8"), "tiny", "own")


@pytest.fixture
def project(judged):
    """The tiny dense model with a file of faiss that holds fp32's vectors of its texts; ``project(changed)``."""
    faiss = pytest.importorskip("faiss")

    def make(place, change=lambda rows: rows):
        config = load_config(judged("dense"))
        session = Session(config)
        rows = change(np.array(session.golden("tiny", "own").vectors))
        made = faiss.IndexFlatIP(rows.shape[1])
        made.add(rows)
        faiss.write_index(made, str(place / "old.faiss"))
        table = {"store": "faiss", "type": "FLAT", "metric": "dot", "uri": str(place / "old.faiss"), "existing": True}
        kind = type(config).model_fields["index"].annotation.__args__[1]
        return Session(config.model_copy(update={"index": {"old": kind(**table)}}), indexes=("old",))

    return make


def test_queries_of_one_precision_search_the_stored_documents_of_another(project, tmp_path):
    session = project(tmp_path)
    checks = {c.label: c for c in judge_index(session, TARGET)}
    assert checks["index.recall@10[old]"].value == 1
    assert checks["index.stale[old]"].outcome == "pass"
    assert "index.build[old]" not in checks
    (told,) = facts(session, TARGET)
    assert told["existing"]
    assert told["build_seconds"] is None
    assert told["split"]["vectors"] == pytest.approx(told["split"]["index"])


def test_a_document_that_was_not_embedded_again_fails_the_gate(project, tmp_path):
    def turn(rows):
        rows[7] = -rows[7]
        return rows

    checks = {c.label: c for c in judge_index(project(tmp_path, turn), TARGET)}
    failed = checks["index.stale[old]"]
    assert failed.outcome == "fail"
    assert failed.items == len(Session(load_config(project(tmp_path).config.folder)).suite("own", "tiny").texts)
    assert failed.worst[0].startswith("cosine -1.000  document '7'")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('collection = "docs"', "this key is for an index with existing = true"),
        ('existing = true\nid_field = "a b"', "expected letters, digits and underscores, found 'a b'"),
    ],
)
def test_fields_of_what_exists_are_for_that_alone(tmp_path, lines, words):
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.index.own]\nstore = "milvus"\ntype = "HNSW"\n{lines}\n')
    with pytest.raises(UsageProblem, match=words):
        load_config(tmp_path)
