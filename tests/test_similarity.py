"""What a model declares to rank by is what it is judged by: cosine, dot product, Euclidean and Manhattan distance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.families import measure
from qguard.gates import gates_for
from qguard.gates.check import judge
from qguard.goldens import corpus as recorded
from qguard.goldens.neighbours import nearest
from qguard.hunting.hunt import hunt
from qguard.hunting.pairs import most_moved
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison, ranking, similarity, task
from qguard.metrics.neighbours import Neighbours
from qguard.models.pipeline import SIMILARITIES as DECLARED
from qguard.models.pipeline import Pipeline, read_pipeline
from qguard.precisions import parse_precision
from qguard.robustness.exact import Exact
from qguard.robustness.probe import Probe
from qguard.suites import Pair, Suite, corpus
from qguard.vectors.cosine import cosine
from qguard.vectors.quantized import KINDS
from qguard.vectors.search import VectorFile, top_k
from qguard.vectors.similarity import COSINE, DOT, SIMILARITIES
from tests import families
from tests.conftest import ROOT

COUNTED = [name for name in SIMILARITIES if name != "cosine"]  # those in which lengths count
CORE = ROOT / "qguard" / "suites" / "core"
EVERY = 3  # of core's documents


def vectors(n=60, dim=24, seed=0):
    """Vectors of lengths between 0.2 and 5."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) * np.exp(rng.uniform(-1.6, 1.6, (n, 1))) / np.sqrt(dim)).astype(np.float32)


def suite_of(n=60):
    pairs = tuple(Pair(i, n - 1 - i, float(i % 7), None) for i in range(n // 2))
    return Suite("s", tuple(f"text {i}" for i in range(n)), (None,) * n, pairs)


def compared(name, change=lambda v: v, n=60):
    v = vectors(n)
    return Comparison.of(suite_of(n), v, np.asarray(change(v), np.float32), SIMILARITIES[name])


def plain(name, a, b):
    """Scores (q, d) by the formula."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if name == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    if name in ("cosine", "dot"):
        return np.asarray([[sum(x * y) for y in b] for x in a])
    order = 2 if name == "euclidean" else 1
    return np.asarray([[-np.linalg.norm(x - y, order) for y in b] for x in a])


def values(c, family):
    return {m.name: m.value for m in measure(c, family) if m.slice is None}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_scores_are_those_of_the_formula_and_of_sentence_transformers(name):
    from sentence_transformers.util import SimilarityFunction

    one, (a, b) = SIMILARITIES[name], (vectors(9, seed=1), vectors(7, seed=2))
    found = one.scores(one.prepared(a), one.prepared(b))
    assert np.allclose(found, plain(name, a, b), atol=1e-12)
    assert np.allclose(one.pairs(one.prepared(a[:7]), one.prepared(b)), np.diag(found), atol=1e-12)
    theirs = SimilarityFunction.to_similarity_fn(name)(a, b).numpy()
    assert np.allclose(found, theirs, atol=1e-5)
    assert list(SIMILARITIES) == list(DECLARED)


@pytest.mark.parametrize("name", COUNTED)
def test_the_scale_of_cosines_keeps_the_order_and_puts_a_text_at_one(name):
    one, v = SIMILARITIES[name], vectors(40)
    scale = one.scale(v)
    scores = one.scores(one.prepared(v), one.prepared(v))
    on_scale = one.relative(scores, scale)
    assert np.array_equal(np.argsort(scores, 1, kind="stable"), np.argsort(on_scale, 1, kind="stable"))
    assert (np.diag(on_scale).mean() if name == "dot" else np.diag(on_scale)) == pytest.approx(1)
    assert np.allclose(one.relative(one.scores(one.prepared(3 * v), one.prepared(3 * v)), one.scale(3 * v)), on_scale)
    if name != "manhattan":
        u = v / np.linalg.norm(v, axis=1, keepdims=True) * 7
        scores = one.scores(one.prepared(u), one.prepared(u))
        assert np.allclose(one.relative(scores, one.scale(u)), plain("cosine", u, u), atol=1e-6)


def test_agreement_is_the_cosine_of_equal_lengths_and_falls_as_they_move_apart():
    a, b = vectors(30), vectors(30, seed=1)
    b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    assert np.allclose(DOT.agreement(a, b), cosine(a, b), atol=1e-6)
    assert DOT.agreement(a, 2 * a) == pytest.approx(0.8)
    assert COSINE.agreement(a, 2 * a) == pytest.approx(1)
    assert np.isnan(DOT.agreement([[np.inf, 1.0], [np.nan, 1.0]], [[1.0, 1.0]] * 2)).all()


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("own", [False, True])
def test_a_search_of_a_file_finds_what_all_scores_find(name, own, tmp_path):
    documents, queries = vectors(1500, 16), vectors(30, 16, seed=3)
    documents[700:710] = documents[40]  # ties go by the order of documents
    queries[0] = documents[40]
    (tmp_path / "v").write_bytes(documents.tobytes())
    leave = np.arange(30) * 40 if own else None
    rows, scores = top_k(queries, VectorFile(tmp_path / "v", 1500, 16), 12, leave, similarity=SIMILARITIES[name])
    every = plain(name, queries, documents)
    if own:
        every[np.arange(30), leave] = -np.inf
    order = np.argsort(-np.round(every, 10), axis=1, kind="stable")[:, :12]
    assert np.array_equal(rows, order)
    assert np.allclose(scores, np.take_along_axis(every, order, 1), atol=1e-9)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_metrics_rank_and_score_by_it(name):
    rng = np.random.default_rng(5)
    c = compared(name, lambda v: v + 0.1 * rng.normal(size=v.shape))
    sides = [plain(name, v, v) for v in (c.golden, c.candidate)]
    for s in sides:
        np.fill_diagonal(s, -np.inf)
    best = [np.argsort(-s, axis=1)[:, :10] for s in sides]
    overlap = np.mean([len({*a} & {*b}) / 10 for a, b in zip(*best, strict=True)])
    assert values(c, "ranking")["ranking.overlap@10"] == pytest.approx(overlap)
    by_pair = [[plain(name, v[[p.a]], v[[p.b]])[0, 0] for p in c.suite.pairs] for v in (c.golden, c.candidate)]
    from scipy.stats import pearsonr, spearmanr

    labels = [p.score for p in c.suite.pairs]
    rows = task.labelled_items(c)[0][0].rows
    assert np.allclose(rows[:, 1:].T, by_pair, atol=1e-9)
    assert values(c, "similarity")["similarity.spearman"] == pytest.approx(spearmanr(*by_pair)[0])
    found = {m.name: float(m.reduce(rows)) for m in task.GRADED}
    assert found["task.pearson"] == pytest.approx(pearsonr(labels, by_pair[1])[0])
    scored = similarity.items(c).rows
    assert np.allclose(scored[:, 0], c.relative(by_pair[0]))
    for kind in KINDS:
        stored = c.quantize(kind, np.stack((c.candidate.min(0), c.candidate.max(0))).astype(np.float32))
        codes = stored.vectors.values()
        by = name if kind in ("int8", "uint8") and name in ("euclidean", "manhattan") else "dot"
        assert np.allclose(stored.vectors.scores(np.arange(60)), plain(by, codes, codes))
        assert 0 < values(stored, "ranking")["ranking.rescored_overlap@10"] <= 1


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int8-dynamic", "int4"])
def test_vectors_that_double_in_length_fail_where_lengths_count(name, precision):
    c = compared(name, lambda v: 2 * v)
    gates = gates_for(parse_precision(precision), {}, normalized=False, by_length=SIMILARITIES[name].by_length)
    checks = judge([m for f in ("embedding", "similarity", "ranking") for m in measure(c, f)], gates, "s")
    failed = {c.name for c in checks if c.outcome == "fail"}
    wanted = {"embedding.norm_error"} | {"similarity.bias", "similarity.max_error"} & {g.metric for g in gates}
    assert (not failed) if name == "cosine" else (len(wanted) > 1 and wanted <= failed)
    halved = compared(name, lambda v: v * np.where(np.arange(len(v)) == 7, 0.4, 1)[:, None])
    failed = {c.name for c in judge(measure(halved, "embedding"), gates, "s") if c.outcome == "fail"}
    assert ("embedding.norm_error" in failed) is (name != "cosine")


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_hunt_looks_for_pairs_by_it_and_for_texts_whose_length_moves(name):
    one, v = SIMILARITIES[name], vectors(40, 8)
    w = v + 0.05 * np.random.default_rng(1).normal(size=v.shape).astype(np.float32)
    before, after = (one.relative(plain(name, x, x), one.scale(v)) for x in (v, w))
    moved = np.sort(np.abs(after - before)[np.tril_indices(40, -1)])[::-1][:5]
    given = (v, w) if name != "cosine" else [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, w)]
    found = most_moved(*given, 5, similarity=one, scale=one.scale(v))
    assert [m.size for m in found] == pytest.approx(moved, abs=1e-4)

    def encode(texts):
        rows = np.stack([np.random.default_rng(len(t)).normal(size=8) * 30 for t in texts]).astype(np.float32)
        return rows, rows * np.where([t.startswith("loud") for t in texts], 1.5, 1)[:, None]

    texts = [f"{'loud' if i == 11 else 'calm'} {'x' * i}" for i in range(20)]
    hunted = hunt(encode, texts, 0, similarity=one, generations=1)
    assert hunted.plain_text.cosine == pytest.approx(1 if name == "cosine" else 2 * 1.5 / (1 + 1.5**2), abs=1e-5)
    if name != "cosine":
        assert "loud" in hunted.plain_text.text
        assert "loud" in hunted.plain_pair.text_a + hunted.plain_pair.text_b


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("name", [None, *DECLARED])
def test_a_pipeline_says_what_ranks_and_old_hashes_stay(name, unit, tmp_path):
    types = ["Transformer", "Pooling", *(["Normalize"] if unit else [])]
    entries = [{"path": f"{i}_{t}" if i else "", "type": f"sentence_transformers.models.{t}"} for i, t in enumerate(types)]
    for file, content in {
        "modules.json": entries, "config.json": {"max_position_embeddings": 64},
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "config_sentence_transformers.json": {"similarity_fn_name": name},
    }.items():  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(content))
    found = read_pipeline(tmp_path)
    same_order = name in (None, "cosine") or (unit and name in ("dot", "euclidean"))
    assert found.similarity == ("cosine" if same_order else name)
    assert ("similarity" in found.declared()) is not same_order
    assert (found.sha256() == replace(found, similarity="cosine").sha256()) is same_order
    assert Pipeline().similarity == "cosine"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny model without Normalize under each similarity, and a third of core's documents with its queries."""
    folder = tmp_path_factory.mktemp("similarity")
    families.write("bert", folder / "cosine", normalize=False)
    for name in COUNTED:
        shutil.copytree(folder / "cosine", folder / name)
        (folder / name / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": name}))
    (folder / "own").mkdir()
    lines = (CORE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[::EVERY]
    kept = {json.loads(line)["_id"] for line in lines}
    judged = [r for r in (CORE / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:] if r.split("\t")[1] in kept]
    asked = {r.split("\t")[0] for r in judged}
    queries = (CORE / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "own" / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "own" / "queries.jsonl").write_text("\n".join(q for q in queries if json.loads(q)["_id"] in asked) + "\n")
    (folder / "own" / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\n' + "".join(f'{n} = "{n}"\n' for n in SIMILARITIES)
        + '[tool.qguard.suite.own]\npath = "own"\n[tool.qguard.robustness]\nexamples = 4\n'
    )  # fmt: skip
    session = Session(load_config(folder))
    for name in SIMILARITIES:
        golden.record(session.model(name), session.suite("own"), session.config.golden_root, "tests")
    return session


def test_golden_neighbours_are_those_of_the_models_own_similarity(project):
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer

    lists = {}
    for name in SIMILARITIES:
        st = SentenceTransformer(str(project.model(name).folder), device="cpu", local_files_only=True)
        held, suite = project.golden(name, "own"), project.suite("own", name)
        queries, documents = (st.encode([suite.texts[i] for i in rows]) for rows in (suite.queries, suite.documents))
        theirs = st.similarity(queries, documents).numpy()
        (file,) = held.folder.glob("*.safetensors")
        arrays = load_file(file)
        ids, scores = arrays["topk_ids"], arrays["topk_scores"]
        # as sets with room for float32's ties: sentence-transformers computes in float32
        tenth = np.sort(theirs, axis=1)[:, -10]
        slack = 1e-5 * np.abs(theirs).max()
        assert (np.take_along_axis(theirs, ids.astype(int), 1) >= tenth[:, None] - slack).all()
        assert np.allclose(np.take_along_axis(theirs, ids.astype(int), 1), scores, atol=10 * slack)
        lists[name] = ids
        near, _ = nearest(held.vectors, np.arange(len(held.vectors)), SIMILARITIES[name])
        every = plain_scores(name, held.vectors)
        assert (every[np.arange(len(near)), near] >= every.max(1) - 2e-6 * np.abs(every[np.isfinite(every)]).max()).all()
        assert f"{name} to the nearest" in held.summary.decode()
        assert held.manifest["pipeline"].get("similarity") == (None if name == "cosine" else name)
    shared = (lists["cosine"][:, :, None] == lists["dot"][:, None, :]).any(2).mean()
    assert shared < 0.9
    assert project.golden("cosine", "own").manifest["data_sha256"] != project.golden("dot", "own").manifest["data_sha256"]


def plain_scores(name, v):
    one = SIMILARITIES[name]
    scores = one.scores(one.prepared(v), one.prepared(v))
    np.fill_diagonal(scores, -np.inf)
    return scores


@pytest.mark.parametrize("name", SIMILARITIES)
def test_fp32_passes_every_gate_and_a_doubled_length_fails_where_it_counts(project, name):
    target = Target(parse_precision("fp32@onnx"), name, "own")
    sampled = ("embedding", "similarity", "ranking", "task", "invariance", "robustness")
    checks = [c for family in sampled for c in project.checks(target, family)]
    assert [c.label for c in checks if c.outcome == "fail"] == []
    bound = next(c.bound for c in checks if c.name == "embedding.norm_error")
    assert (bound is None) is (name == "cosine")
    broken = project.compared(target, 2 * project.embeddings(target))
    gates = project.gates(target.precision, name)
    failed = {c.name for c in judge([m for f in sampled[:4] for m in measure(broken, f)], gates, "own") if c.outcome == "fail"}
    assert (not failed) if name == "cosine" else {"embedding.norm_error", "similarity.max_error"} <= failed


class Louder:
    """A runtime whose vectors are longer the longer the batch is: directions stay."""

    def __init__(self, runtime):
        self.runtime, self.batch_tokens, self.workers = runtime, runtime.batch_tokens, runtime.workers

    def __call__(self, input_ids, attention_mask):
        return self.runtime(input_ids, attention_mask) * (1 + 0.05 * input_ids.shape[1])


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_a_length_that_depends_on_the_batch_is_found_where_it_counts(project, name):
    from qguard.encoders import Encoder
    from qguard.judging.invariance import measure_invariance

    target, one = Target(parse_precision("fp32@onnx"), name, "own"), SIMILARITIES[name]
    sound = project.encoder(target.precision, name)
    loud = Encoder(sound.tokenizer, Louder(sound.runtime), sound.head)
    found = {
        m.name: m.value
        for m in measure_invariance(loud, project.suite("own", name), project.token_ids(target), one)
    }  # fmt: skip
    assert (found["invariance.batch_cosine_min"] < 0.99) is one.by_length
    tried = Probe(loud, Exact.of(lambda: sound), sound.tokenizer, False, 128, one)(["a", "an apple a day keeps the doctor away"])
    for what in ("cosine_min", "batch_cosine_min", "padding_cosine_min"):
        worst = min(t.values.get(f"robustness.{what}", 1) for t in tried)
        assert (worst < 0.995) is one.by_length, what


@pytest.mark.parametrize("name", ["dot", "euclidean"])
def test_a_large_suite_is_searched_by_it(project, name, monkeypatch):
    """The same values as of the suite that is held in memory."""
    target = Target(parse_precision("fp32@onnx"), name, "own")
    held = project.comparison(target)
    monkeypatch.setattr(corpus, "LARGE", 40)
    monkeypatch.setattr(recorded, "BLOCK", 64)
    session = Session(load_config(project.config.golden_root.parent))
    suite, model = session.suite("own"), session.model(name)
    assert suite.corpus is not None
    rows = [held.suite.texts.index(t) for t in suite.texts]
    fp32 = held.golden[rows].astype(np.float32)
    retrieved = recorded.retrieve(model, suite, fp32)
    queries = [suite.texts[q] for q in suite.queries]
    full = [held.suite.texts.index(q) for q in queries]
    documents = list(held.suite.documents)
    wanted = plain(name, held.golden[full], held.golden[documents])
    for found, scores, want in zip(retrieved.rows, retrieved.scores, wanted, strict=True):
        assert np.allclose(scores[:10], np.sort(want)[::-1][:10], rtol=1e-4)
        assert np.allclose(want[found[:10]], scores[:10], rtol=1e-4)
    documents_file, _ = recorded.encode_corpus(suite.corpus, recorded.fp32_coder(model), 64)
    kept = np.empty((documents_file.rows, documents_file.dim), np.float32)
    documents_file.read(0, kept)
    assert np.ptp(np.linalg.norm(kept, axis=1)) > 0.01  # not scaled to unit length
    golden_rows = retrieved.rows.astype(np.int64), retrieved.scores
    c = Comparison.of(suite, fp32, fp32, SIMILARITIES[name])
    c = replace(c, neighbours=Neighbours.of(suite, golden_rows, fp32[list(suite.queries)], documents_file, c.similarity))
    columns = ranking.items(c).rows
    assert columns[:, :4] == pytest.approx(1)
    assert columns[:, 4].max() == 0
