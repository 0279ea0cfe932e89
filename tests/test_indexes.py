"""Indexes of vector databases: proved to be used before they are measured, with the loss of each part told apart."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.indexes import stores
from qguard.indexes.collection import Hits
from qguard.indexes.fill import fill
from qguard.indexes.measures import Searches, _measured, measure
from qguard.indexes.proof import prove
from qguard.indexes.settings import Index
from qguard.indexes.stored import Rows, buckets_of, stored, values
from qguard.indexes.truth import Exact, Truth, without_own
from qguard.judging.index import judge_index
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.report.terminal import summary_lines

ROWS, DIM, ASKED = 1200, 32, 40
GRAPH = Index("graph", "faiss", "HNSW", params={"M": 8, "efConstruction": 40}, search={"ef": 32})
LISTS = Index("lists", "faiss", "IVF_FLAT", params={"nlist": 24}, search={"nprobe": 8})


@cache
def vectors():
    """Clustered documents of unit length, and queries near some of them."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((40, DIM))
    documents = centers[random.integers(0, 40, ROWS)] + 0.7 * random.standard_normal((ROWS, DIM))
    queries = documents[:ASKED] + 0.1 * random.standard_normal((ASKED, DIM))
    return tuple(np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True), np.float32) for v in (documents, queries))


def searches(kind="float32", metric="cosine", documents=None, queries=None):
    of, asked = vectors()
    documents, queries = of if documents is None else documents, asked if queries is None else queries
    own = np.full(len(queries), -1)
    exact = Exact(queries, documents, "cosine", own)
    rows = Rows(documents, kind, buckets_of([str(i) for i in range(len(documents))]))
    return Searches(rows, queries, metric, own, exact, exact, None, tuple(map(str, range(len(queries)))))


def recall_of(found):
    return found.items.rows[:, 0].mean()


# ---- what is right ----


def test_equal_scores_are_a_set_and_not_an_order():
    truth = Truth(np.array([[4, 7]]), np.array([[1.0, 0.5]]))
    scores = np.array([[0.5, 1.0]])
    assert truth.recall(np.array([[9, 4]]), scores).tolist() == [1.0]  # row 9 ties with row 7
    assert truth.recall(np.array([[9, 4]]), np.array([[0.4999, 1.0]])).tolist() == [0.5]
    assert truth.recall(np.array([[4, 4]]), np.array([[1.0, 1.0]])).tolist() == [0.5]  # a repetition is one hit


def test_exact_search_equals_a_flat_index_of_faiss_and_counts_as_by_ids():
    faiss = pytest.importorskip("faiss")
    documents, queries = vectors()
    flat = faiss.IndexFlatIP(DIM)
    flat.add(documents)
    _, near = flat.search(queries, 10)
    exact = Exact(queries, documents, "dot", np.full(ASKED, -1))
    assert exact.neighbours(10).rows.tolist() == near.tolist()
    found = measure(LISTS, searches(metric="dot"))
    by_ids = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.tolist(), found.hits.tolist(), strict=True)])
    assert recall_of(found) == pytest.approx(by_ids, abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_exact_search_of_many_rows_is_that_of_few(monkeypatch, metric):
    from qguard.indexes import truth

    documents, queries = vectors()
    scaled = documents * np.linspace(0.5, 2, ROWS, dtype=np.float32)[:, None]
    exact = Exact(queries, scaled, metric, np.arange(ASKED))
    allowed = np.arange(0, ROWS, 2)
    few = exact.neighbours(10), exact.neighbours(10, allowed)
    monkeypatch.setattr(truth, "_FEW", 100)
    for one, other in zip(few, (exact.neighbours(10), exact.neighbours(10, allowed)), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.scores == pytest.approx(other.scores)
        assert not (other.rows == exact.own[:, None]).any()


def test_a_filter_that_leaves_few_rows_wants_no_more_of_them():
    documents, queries = vectors()
    exact = Exact(queries[:2], documents, "cosine", np.array([5, -1]))
    assert exact.neighbours(10, np.array([3, 5, 9])).wanted.tolist() == [2, 3]


def test_the_query_itself_is_no_hit():
    rows = np.array([[3, 0, 7], [1, 2, -1]])
    assert without_own(rows, np.array([0, -1]), 2)[0].tolist() == [[3, 7], [1, 2]]


def test_bfloat16_is_rounded_as_torch_rounds():
    torch = pytest.importorskip("torch")
    documents, _ = vectors()
    expected = torch.from_numpy(documents).to(torch.bfloat16).float().numpy()
    assert (values(stored(documents, "bfloat16"), "bfloat16", DIM) == expected).all()


# ---- faiss ----


@pytest.mark.parametrize("index", [GRAPH, LISTS, Index("exact", "faiss", "FLAT"), Index("bytes", "faiss", "SQ8")])
def test_faiss_is_proved_and_measured(index):
    pytest.importorskip("faiss")
    found = measure(index, searches())
    again = measure(index, searches())
    assert found.hits.tolist() == again.hits.tolist()  # one thread builds it: the same each time
    assert found.proof.rows == ROWS
    assert (found.proof.missed is None) == (index.type in ("FLAT", "SQ8"))
    assert recall_of(found) > 0.9
    assert found.exact == (index.type == "FLAT")
    assert found.bytes > 0
    assert set(found.filtered) == {0.1, 0.01, 0.001}
    assert found.split[0] == found.split[1] == 1
    assert "fp32 1 → model 1.000" in found.split_words


def test_bits_lose_what_they_lose_and_the_index_is_told_apart():
    pytest.importorskip("faiss")
    found = measure(replace(GRAPH, search={"ef": 200}), searches("binary", "hamming"))
    model, stored_as, index = found.split
    assert model == 1 > stored_as
    assert index == pytest.approx(stored_as, abs=0.05)  # the loss is that of the bits, not of the graph


def test_a_filter_starves_a_graph_and_it_is_said():
    pytest.importorskip("faiss")
    found = measure(LISTS, searches())
    assert found.filtered[0.01].rows[:, 1].mean() < 1
    assert "queries short" in found.split_words
    assert measure(Index("exact", "faiss", "FLAT"), searches()).filtered[0.01].rows.min() == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "HSNW"}, r"unknown type of index 'graph' in faiss: 'HSNW'; did you mean HNSW"),
        ({"params": {"nlist": 3}}, "HNSW in faiss has no nlist among its params; known: M, efConstruction"),
        ({"search": {"nprobe": 3}}, "has no nprobe among its search; known: ef"),
        ({"store": "fiass"}, "unknown store of index 'graph': 'fiass'; did you mean faiss"),
    ],
)
def test_what_a_store_does_not_do_is_told_before_anything_is_built(change, words):
    pytest.importorskip("faiss")
    with pytest.raises(UsageProblem, match=words):
        stores.check(replace(GRAPH, **change), "float32", "cosine")


def test_vectors_and_metrics_that_a_type_does_not_have_are_refused():
    pytest.importorskip("faiss")
    with pytest.raises(UsageProblem, match="stores float32 and binary vectors; found float16"):
        stores.check(GRAPH, "float16", "cosine")
    with pytest.raises(UsageProblem, match="ranks binary vectors by hamming; found metric 'cosine'"):
        stores.check(GRAPH, "binary", "cosine")
    pytest.importorskip("pymilvus")
    with pytest.raises(UsageProblem, match="HNSW in milvus stores float32 vectors; found float16"):  # which a server stores
        stores.check(replace(GRAPH, store="milvus"), "float16", "cosine")
    stores.check(replace(GRAPH, store="milvus", uri="http://localhost:19530"), "float16", "cosine")
    with pytest.raises(UsageProblem, match=r"expected a uri that ends in \.db"):
        stores.check(replace(GRAPH, store="milvus", uri="/somewhere/milvus.sqlite"), "float32", "cosine")


def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    with pytest.raises(UsageProblem, match=r"needs faiss, not installed; run: pip install 'qguard\[faiss\]'"):
        stores.check(GRAPH, "float32", "cosine")


# ---- faults ----


class Faulty:
    """A collection of which one thing is broken."""

    def __init__(self, whole, **broken):
        self.whole, self.broken = whole, broken

    def __getattr__(self, name):
        return self.broken[name] if name in self.broken else getattr(self.whole, name)


def filled(index, kind="float32", metric="cosine", **how):
    s = searches(kind, metric, **how)
    collection = stores.open_collection(index, "some", DIM, kind, metric)
    fill(collection, index, s.rows)
    return s, collection


def proved(index, s, collection):
    return prove(collection, index, stores.check(index, s.rows.kind, s.metric), s.rows, s.metric)


def refused(index, s, collection, words):
    with pytest.raises(MeasurementProblem, match=words):
        proved(index, s, collection)


def test_an_index_that_is_idle_is_found_out():
    pytest.importorskip("faiss")
    s, collection = filled(GRAPH)
    _, flat = filled(Index("exact", "faiss", "FLAT"))
    idle = Faulty(collection, search=lambda queries, k, params, below=None: flat.search(queries, k, {}, below))
    refused(GRAPH, s, idle, "all 256 random directions even with ef = 1, as an exact search does: the index is idle")
    rounded = Index("rounded", "faiss", "HNSW_SQ", params=GRAPH.params, search=GRAPH.search)
    s, collection = filled(rounded)
    idle = Faulty(collection, search=lambda queries, k, params, below=None: flat.search(queries, k, {}, below))
    refused(rounded, s, idle, "scores of vectors that are not rounded .* the index is idle")


def test_parameters_that_do_not_arrive_are_found_out():
    pytest.importorskip("faiss")
    s, collection = filled(GRAPH)
    held = collection.held()
    of = Faulty(collection, held=lambda: replace(held, params={}))
    refused(GRAPH, s, of, "has no M: expected 8, and the store tells none. The parameter did not arrive")
    of = Faulty(collection, held=lambda: replace(held, params={"M": 32, "efConstruction": 40}))
    refused(GRAPH, s, of, "has M = 32; expected 8")
    narrow = Faulty(collection, search=lambda queries, k, params, below=None: collection.search(queries, k, {"ef": 1}, below))
    found = Faulty(
        narrow, search=lambda q, k, p, below=None: Hits(*(a[:, :1].repeat(k, 1) for a in vars(narrow.search(q, 1, p)).values()))
    )
    refused(GRAPH, s, found, "same answers with ef = 32 and with ef = 1: the parameters of the search did not arrive")
    of = Faulty(collection, held=lambda: replace(held, type=""))
    refused(GRAPH, s, of, "expected an index of type HNSW, found none that covers all rows")
    of = Faulty(collection, held=lambda: replace(held, type="FLAT"))
    refused(GRAPH, s, of, "expected an index of type HNSW, found one of type FLAT")


def test_missing_rows_and_rows_of_another_model_are_found_out():
    pytest.importorskip("faiss")
    documents, _ = vectors()
    s, _ = filled(GRAPH)
    _, part = filled(GRAPH, documents=documents[: ROWS * 9 // 10])
    refused(GRAPH, s, part, "holds 1080 rows; expected 1200")
    turned = documents @ np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0].astype(np.float32)
    _, stale = filled(GRAPH, documents=np.ascontiguousarray(turned))
    refused(GRAPH, s, stale, "holds other vectors than this model's: row .* has the cosine")


def test_rows_with_nan_are_not_given_to_a_store():
    documents, _ = vectors()
    broken = documents.copy()
    broken[7, 3] = np.nan
    with pytest.raises(MeasurementProblem, match="1 of 1200 rows hold NaN or infinite values, the first is row 7"):
        Rows(broken, "float32", buckets_of(["x"]))
    s = searches()
    back = Faulty(None, read=lambda rows: broken[rows])
    from qguard.indexes.proof import _rows_back

    broken[0, 0] = np.nan
    with pytest.raises(MeasurementProblem, match="holds NaN or infinite values in row 0"):
        _rows_back(back, GRAPH, stores.check(GRAPH, "float32", "cosine"), s.rows)


def test_scores_of_squared_distances_are_found_out():
    pytest.importorskip("faiss")
    s, collection = filled(GRAPH, metric="euclidean")
    assert proved(GRAPH, s, collection).score_error < 1e-4

    def squared(queries, k, params, below=None):
        hits = collection.search(queries, k, params, below)
        return Hits(hits.rows, -np.square(hits.scores))

    refused(GRAPH, s, Faulty(collection, search=squared), "other scores than those of euclidean: they are squared distances")


def test_a_metric_that_does_not_fit_is_measured_and_said():
    pytest.importorskip("faiss")
    documents, _ = vectors()
    long = documents * np.random.default_rng(0).uniform(0.5, 2, (ROWS, 1)).astype(np.float32)
    found = measure(LISTS, searches(metric="dot", documents=long))
    assert found.metric_fit < 0.9
    assert "ranks by dot and the model by cosine" in found.fit_words
    assert 'Set metric = "cosine"' in found.fit_words
    assert measure(LISTS, searches(metric="dot")).metric_fit == 1  # of unit length both rank alike


def test_a_collection_that_is_left_is_resumed_and_not_more_than_full():
    pytest.importorskip("faiss")
    s = searches()
    collection = stores.open_collection(GRAPH, "some", DIM, "float32", "cosine")
    collection.insert(0, s.rows.block(0, 500), s.rows.buckets[:500])
    assert fill(collection, GRAPH, s.rows).resumed == 500
    found = _measured(collection, GRAPH, stores.check(GRAPH, "float32", "cosine"), s, fill(collection, GRAPH, s.rows))
    assert recall_of(found) > 0.9
    collection.insert(0, s.rows.block(0, 1), s.rows.buckets[:1])
    with pytest.raises(MeasurementProblem, match="holds 1201 rows; expected 1200"):
        fill(collection, GRAPH, s.rows)


# ---- Milvus ----


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_milvus_lite_is_proved_and_measured(tmp_path, metric):
    pytest.importorskip("milvus_lite")
    index = replace(GRAPH, store="milvus", uri=str(tmp_path / "m.db"), type="HNSW_SQ" if metric == "cosine" else "IVF_FLAT")
    index = index if metric == "cosine" else replace(index, params={"nlist": 24}, search={"nprobe": 12})
    found = measure(index, searches(metric=metric))
    assert found.proof.missed > 0
    assert found.proof.params == index.params
    assert recall_of(found) > 0.85
    assert found.bytes > 0
    assert found.versions.keys() == {"pymilvus", "milvus-lite", "faiss-cpu"}


def test_milvus_lite_whose_index_is_made_too_early_is_found_out(tmp_path, monkeypatch):
    """Parameters that are not nested are dropped; an index without a load is not searched."""
    pytest.importorskip("milvus_lite")
    from pymilvus.milvus_client.index import IndexParams

    add = IndexParams.add_index

    def without(self, *args, params, **more):
        add(self, *args, **more)

    monkeypatch.setattr(IndexParams, "add_index", without)
    index = replace(GRAPH, store="milvus", uri=str(tmp_path / "m.db"))
    with pytest.raises(MeasurementProblem, match="has no M: expected 8, and the store tells none"):
        measure(index, searches())


@pytest.fixture(scope="module")
def milvus(tmp_path_factory):
    """The address of a server of the Milvus protocol: milvus-lite's own."""
    pytest.importorskip("milvus_lite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--data-dir", str(tmp_path_factory.mktemp("milvus")), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "milvus_lite", "server", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert "listening" in server.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        server.terminate()


@pytest.mark.parametrize("kind", ["FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "HNSW_SQ"])
def test_a_server_of_milvus_is_searched_by_its_address(milvus, kind):
    params, search = {"F": ({}, {}), "I": ({"nlist": 24}, {"nprobe": 8}), "H": (GRAPH.params, GRAPH.search)}[kind[0]]
    index = Index("some", "milvus", kind, uri=milvus, params=params, search=search, filters=(0.1,))
    found = measure(index, searches(metric="dot" if kind == "IVF_FLAT" else "cosine"))
    assert (found.proof.missed is None) == (kind == "FLAT")
    assert found.proof.params == params
    assert found.proof.read_back == 64
    assert recall_of(found) > 0.95
    assert found.versions["milvus"].startswith("milvus_lite-")
    assert found.bytes is None  # a server does not tell


def test_a_server_that_does_less_than_milvus_is_named(milvus):
    for index, vectors_of in (
        (Index("some", "milvus", "FLAT", uri=milvus), "float16"),
        (Index("some", "milvus", "IVF_PQ", uri=milvus), "float32"),
    ):
        with pytest.raises(UsageProblem, match=f"the server is milvus-lite, .*; found {index.type} of {vectors_of} vectors"):
            stores.open_collection(index, "some", DIM, vectors_of, "cosine")


# ---- the family ----


@pytest.fixture(scope="module")
def project(judged):
    """The tiny dense model, with indexes."""
    config = load_config(judged("dense"))
    tables = {
        "exact": {"store": "faiss", "type": "FLAT"},
        "one list": {"store": "faiss", "type": "IVF_FLAT", "params": {"nlist": 1}},  # which a search always looks at
    }
    index = {name: type(config).model_fields["index"].annotation.__args__[1](**table) for name, table in tables.items()}
    return config.model_copy(update={"index": index})


TARGET = Target(parse_precision("fp32@onnx"), "tiny", "own")


def test_an_exact_index_holds_and_one_that_nothing_proves_is_not_measured(project):
    pytest.importorskip("faiss")
    session = Session(project, indexes=("exact",))
    assert "index" in [f.name for f in session.families(TARGET)]
    checks = {c.label: c for c in judge_index(session, TARGET)}
    assert checks["index.recall@10[exact]"].outcome == "pass"
    assert str(checks["index.recall@10[exact]"].bound) == ">= 1"
    assert checks["index.overlap@10[exact]"].outcome == "pass"
    assert checks["index.p50[exact]"].outcome == "reported"
    assert "index" not in [f.name for f in Session(project).families(TARGET)]
    from qguard.gates.check import PartlyMeasured

    with pytest.raises(PartlyMeasured, match="the index is idle, or 24 rows are too few to tell") as told:
        judge_index(Session(project, indexes=("exact", "one list")), TARGET)
    assert {c.slice.split()[0] for c in told.value.checks} == {"exact"}


def test_a_gate_of_the_project_wins_and_the_narrowest_of_them(project):
    pytest.importorskip("faiss")
    from qguard.config.tables import GateConfig

    gates = {"index.recall@10": GateConfig(bound=">= 0.5"), "index.hits[exact]": GateConfig(bound=">= 0.25")}
    session = Session(project.model_copy(update={"gates": {"fp32": gates}}), indexes=("exact",))
    bounds = {c.label: str(c.bound) for c in judge_index(session, TARGET)}
    assert bounds["index.recall@10[exact]"] == ">= 0.5"
    assert bounds["index.hits[exact]"] == ">= 0.25"
    lost = {"index.hits[exakt]": GateConfig(bound=">= 0.25")}
    session = Session(project.model_copy(update={"gates": {"fp32": lost}}), indexes=("exact",))
    with pytest.raises(UsageProblem, match=r"index.hits\[exakt\] would never be judged: unknown index 'exakt'"):
        session.targets([TARGET.precision])


def test_an_index_that_nobody_configured_is_named(project):
    with pytest.raises(UsageProblem, match="unknown index 'exakt'; did you mean exact"):
        Session(project, indexes=("exakt",)).targets([TARGET.precision])
    with pytest.raises(UsageProblem, match=r"no index is configured; add \[tool.qguard.index.some\]"):
        Session(project.model_copy(update={"index": {}}), indexes=("some",)).targets([TARGET.precision])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('uri = "http://user:secret@host"', "holds a password"),
        ('token = "abc def!"', "which is not shown because it may be the secret"),
        ("filters = [0.0001]", "expected shares of the rows from 0.001"),
        ('stroe = "faiss"', "unknown key 'index.own.stroe'"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_their_secret(tmp_path, line, words):
    table = f'[tool.qguard.index.own]\nstore = "milvus"\ntype = "HNSW"\n{line}\n'
    (tmp_path / "pyproject.toml").write_text(table)
    with pytest.raises(UsageProblem, match=words) as told:
        load_config(tmp_path)
    assert "abc def!" not in str(told.value)
    assert "secret@host" not in str(told.value)


def test_reports_name_the_index_its_proof_and_the_loss_of_each_part(judged, tmp_path):
    pytest.importorskip("faiss")
    import json
    import shutil

    from tests.processes import gate

    folder = shutil.copytree(judged("dense"), tmp_path / "project")
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.index.exact]\nstore = "faiss"\ntype = "FLAT"\n')
    options = ["--index=exact", "-k", "current or index", "--no-qguard-strict"]
    reports = [f"--qguard-report={tmp_path / name}" for name in ("r.json", "r.html", "r.md")]
    _, out = gate(folder, *options, *reports, precision="fp32@onnx")
    assert "index exact: overlap@10: fp32 1 → model" in out
    report = json.loads((tmp_path / "r.json").read_text())
    (found,) = report["runs"][0]["index"]
    assert (found["store"], found["type"], found["rows"]) == ("faiss", "FLAT", 24)
    assert found["proof"]["read_back"] == 24
    assert any("index exact" in line for line in summary_lines(report))
    for name in ("r.html", "r.md"):
        assert "exact: faiss FLAT" in (tmp_path / name).read_text()


# ---- the sweep ----


def test_a_sweep_shows_what_no_other_index_beats_and_the_cheapest_that_holds(judged, tmp_path):
    pytest.importorskip("faiss")
    import json
    import shutil

    from qguard.cli import main

    folder = shutil.copytree(judged("dense"), tmp_path / "project")
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.index.exact]\nstore = "faiss"\ntype = "FLAT"\n')
    page, data = tmp_path / "sweep.html", tmp_path / "sweep.json"
    asked = ["index", "sweep", "--index", "exact", "--precision", "fp32@onnx", "--config", str(folder)]
    assert main([*asked, "--type", "FLAT,SQ8,IVF_FLAT", "--param", "nlist=1,4", f"--html={page}", f"--json={data}"]) == 3
    rows = json.loads(data.read_text())["rows"]
    assert [r["index"] for r in rows] == ["FLAT", "SQ8", "IVF_FLAT nlist=1", "IVF_FLAT nlist=4"]
    assert rows[0]["recall"] == 1
    assert "24 rows are too few to tell" in rows[2]["error"]
    text = page.read_text()
    assert "<svg" in text
    assert "faiss FLAT" in text
    assert "<script" not in text
    assert main([*asked, "--search", "nprobe=3"]) == 2  # which FLAT does not have


# ---- a mixed index, without a store ----


def test_a_mixed_index_is_that_of_one_side_and_the_other():
    from qguard.metrics import Comparison, mixed
    from qguard.suites import Suite

    random = np.random.default_rng(0)
    golden = random.standard_normal((40, 16)).astype(np.float32)
    candidate = golden + 0.3 * random.standard_normal((40, 16)).astype(np.float32)
    suite = Suite("own", tuple(map(str, range(40))), (None,) * 40)
    ((items, _),) = mixed.parts(Comparison.of(suite, golden, candidate))

    def top(queries, documents):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries.astype(float), documents.astype(float)))
        scores = a @ b.T
        np.fill_diagonal(scores, -np.inf)
        return np.argsort(-scores, axis=1)[:, :10]

    want = top(golden, golden)
    for column, found in ((0, top(candidate, golden)), (2, top(golden, candidate))):
        overlap = [len(set(a) & set(b)) / 10 for a, b in zip(want.tolist(), found.tolist(), strict=True)]
        assert items.rows[:, column].tolist() == pytest.approx(overlap)
        assert items.rows[:, column + 1].tolist() == (want[:, 0] == found[:, 0]).tolist()
    assert 0 < items.rows[:, 0].mean() < 1
    (same, _) = mixed.parts(Comparison.of(suite, golden, golden))[0]
    assert same.rows.min() == 1
    assert mixed.parts(Comparison.of(suite, golden, candidate).quantize("binary")) == []
