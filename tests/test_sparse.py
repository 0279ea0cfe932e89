"""Sparse models: weights of words as sentence-transformers gives them, judged, and each known way to break them told apart."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from qguard.cli import main
from qguard.config import load_config
from qguard.errors import ModelProblem, UsageProblem
from qguard.faults import FAULTS
from qguard.faults.judging import CAUGHT, judge_fault
from qguard.goldens import record
from qguard.judging.session import Session, Target
from qguard.metrics import sparse
from qguard.models.model import resolve
from qguard.models.modules.splade import Largest, SpladePooling
from qguard.outputs import SparseRows
from qguard.precisions import parse_precision
from qguard.vectors.sparse import SparseCosine, SparseDot, similarity
from tests.kinds import TEXTS, tiny_sparse

FAMILIES = ("artifact", "weights", "similarity", "ranking", "task", "invariance")


def suite(folder: Path) -> None:
    """48 documents and 24 queries of the tiny model's words, each query judged."""
    pick, words = random.Random(0), sorted({w.strip("!.,;()").lower() for t in TEXTS for w in t.split()})
    documents = [" ".join(pick.sample(words, pick.randint(4, 14))) for _ in range(48)]
    folder.mkdir()
    lines = [{"_id": f"d{i:02}", "text": t} for i, t in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    queries = [" ".join(pick.sample(documents[2 * i].split(), 3)) for i in range(24)]
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i:02}", "text": t}) + "\n" for i, t in enumerate(queries))
    )
    judged = [f"q{i:02}\td{j:02}\t1" for i in range(24) for j in {2 * i, pick.randrange(48)}]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A tiny sparse model with its golden of a retrieval suite."""
    folder = tmp_path_factory.mktemp("sparse")
    tiny_sparse(folder / "model")
    suite(folder / "own")
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = "model"\n[tool.qguard.suite.own]\npath = "own"\n'
        '[tool.qguard.robustness]\nmode = "off"\n[tool.qguard.latency]\nmode = "off"\n'
        '[tool.qguard.gates.int8]\n"artifact.size_ratio" = "<= 2"\n'
    )
    session = Session(load_config(folder))
    record(session.model("tiny"), session.suite("own"), session.config.golden_root, "first")
    return folder


@pytest.fixture(scope="module")
def session(project) -> Session:
    return Session(load_config(project))


def checks(session: Session, precision: str, families=FAMILIES):
    target = Target(parse_precision(precision), "tiny", "own")
    return {c.name: c for f in families for c in session.checks(target, f) if c.slice is None}


def test_a_golden_holds_the_weights_of_sentence_transformers(session):
    from sentence_transformers import SparseEncoder

    golden, texts = session.golden("tiny", "own"), session.suite("own").texts
    assert golden.kind == "sparse"
    st = SparseEncoder(str(session.model("tiny").folder), device="cpu")
    want = st.encode(list(texts), convert_to_sparse_tensor=False, show_progress_bar=False)
    assert np.abs(golden.vectors.matrix.toarray() - np.asarray(want)).max() < 1e-5
    assert 0 < golden.vectors.counts.mean() < 40  # of 158 words


def test_fp32_scores_what_sentence_transformers_own_evaluator_scores(session):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

    own = session.suite("own")
    queries = {str(i): own.texts[t] for i, t in enumerate(own.queries)}
    corpus = {own.document_ids[i]: own.texts[d] for i, d in enumerate(own.documents)}
    relevant = {str(q): {own.document_ids[d] for d, grade in found.items() if grade > 0} for q, found in own.qrels.items()}
    st = SparseEncoder(str(session.model("tiny").folder), device="cpu")
    theirs = SparseInformationRetrievalEvaluator(queries, corpus, relevant, show_progress_bar=False)(st)
    found = checks(session, "fp32", ("task",))
    for ours, name in (("ndcg@10", "dot_ndcg@10"), ("mrr@10", "dot_mrr@10"), ("recall@10", "dot_recall@10")):
        assert found[f"task.{ours}"].value == pytest.approx(theirs[name], abs=1e-6)
        assert found[f"task.{ours}_fp32"].value == pytest.approx(theirs[name], abs=1e-6)


def test_fp32_loses_nothing_and_int8_little(session):
    fp32 = checks(session, "fp32")
    assert [c.label for c in fp32.values() if c.outcome == "fail"] == []
    assert (fp32["weights.kept"].value, fp32["weights.added"].value, fp32["weights.index_ratio"].value) == (1, 0, 1)
    int8 = checks(session, "int8")
    assert (int8["artifact.quantized_ops"].value, int8["artifact.head"].value) == (1, 1)
    assert int8["artifact.wrong_rows"].value == 0
    assert 0.8 < int8["weights.kept"].value < 1
    assert int8["weights.kept"].bound is not None


def test_the_decoder_is_the_table_of_words_and_stored_once_in_fp32_and_twice_in_int8(session):
    words, wide = session.model("tiny").tensors["bert.embeddings.word_embeddings.weight"]["shape"]

    def matrices(precision: str) -> int:
        file = session.artifact(parse_precision(precision), "tiny").file
        assert file is not None
        stored = [list(t.dims) for t in onnx.load(str(file)).graph.initializer]
        return sum(words in dims and len(dims) == 2 and max(dims) * min(dims) == words * wide for dims in stored)

    assert (matrices("fp32"), matrices("int8"), matrices("int8-dynamic")) == (1, 2, 2)


@pytest.mark.parametrize(
    ("fault", "severity", "words"),
    [
        ("splade-pooled-otherwise", "the sum of tokens", "pooled by 'sum' instead of 'max'"),
        ("splade-pooled-otherwise", "the last token", "of the last token alone"),
        ("splade-pooled-otherwise", "the first token", "of the first token alone"),
        ("splade-activation-lost", "no logarithm", "without its logarithm"),
        ("splade-activation-lost", "raw logits", "as raw logits"),
        ("splade-special-tokens-lost", "full", "without its special tokens' positions"),
        ("decoder-bias-lost", "full", "without the bias of its decoder"),
        ("decoder-in-float", "full", "MatMul computes in float"),
        ("splade-padding-pooled", "full", ""),
    ],
)
def test_a_broken_head_is_named(session, fault, severity, words, tmp_path):
    from qguard.faults.judging import Judge
    from qguard.faults.site import FaultSite

    int8 = parse_precision("int8")
    result = judge_fault(session, int8, "tiny", ["own"], FAULTS[fault], severity)
    assert result.status == CAUGHT, result
    assert any(map(FAULTS[fault].told_by, result.failures)), result.failures
    if words:
        candidate = FAULTS[fault].inject(FaultSite(session, int8, "tiny", ("own",), tmp_path), severity)
        found = Judge.on(session, candidate).checks(Target(int8, "tiny", "own"), "artifact")
        assert any(words in line for c in found if c.outcome == "fail" for line in c.worst), [c.worst for c in found]


def test_pooling_in_the_file_as_the_model_does_is_sound(session, tmp_path):
    from qguard.faults import splade
    from qguard.faults.judging import Judge
    from qguard.faults.site import FaultSite

    int8 = parse_precision("int8")
    judge = Judge.on(session, splade.pooled(FaultSite(session, int8, "tiny", ("own",), tmp_path), "max"))
    found = {c.name: c for f in FAMILIES for c in judge.checks(Target(int8, "tiny", "own"), f) if c.slice is None}
    sound = checks(session, "int8")
    assert found["artifact.head"].value == 1
    assert found["weights.kept"].value == pytest.approx(sound["weights.kept"].value, abs=0.01)


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_pooling_is_that_of_sentence_transformers(strategy, activation):
    import torch
    from sentence_transformers.sparse_encoder.modules import SpladePooling as Theirs

    logits = np.random.default_rng(0).standard_normal((3, 5, 40)).astype(np.float32) * 3
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    given = {"token_embeddings": torch.from_numpy(logits.copy()), "attention_mask": torch.from_numpy(mask)}
    want = Theirs(strategy, activation).eval()(given)["sentence_embedding"].numpy()
    features = {"token_embeddings": logits, "attention_mask": mask}
    SpladePooling("", strategy, activation)(features, {})
    assert np.abs(features["sentence_embedding"] - want).max() < 1e-6


def test_the_largest_weights_are_those_of_max_active_dims():
    import torch
    from sentence_transformers.util import select_max_active_dims

    weights = np.abs(np.random.default_rng(0).standard_normal((4, 30))).astype(np.float32)
    weights[1, 20] = np.nan  # which stays, so that it is seen
    features = {"sentence_embedding": weights}
    Largest(count=7)(features, {})
    found = select_max_active_dims(torch.from_numpy(weights.copy()), 7).numpy()
    assert np.isnan(found[1, 20])
    assert np.array_equal(features["sentence_embedding"], found, equal_nan=True)


def test_sparse_similarities_are_those_of_the_rows_filled_with_zeros():
    rng = np.random.default_rng(0)
    a, b = (rng.random((5, 40)) * (rng.random((5, 40)) < 0.2) for _ in range(2))
    a[2] = b[2] = 0
    x, y = SparseRows.of(a), SparseRows.of(b)
    dot, cosine = SparseDot(), SparseCosine()
    assert np.allclose(dot.scores(x, y), a @ b.T)
    assert np.allclose(dot.pairs(x, y), (a * b).sum(1))
    lengths = np.maximum(np.linalg.norm(a, axis=1), 1e-30)[:, None], np.maximum(np.linalg.norm(b, axis=1), 1e-30)
    assert np.allclose(cosine.scores(cosine.prepared(x), cosine.prepared(y)), a @ b.T / lengths[0] / lengths[1])
    assert np.allclose(dot.agreement(x, x), 1)
    assert np.allclose(cosine.agreement(x, SparseRows.of(2 * a)), 1)
    assert np.allclose(dot.agreement(x, SparseRows.of(2 * a))[[0, 1, 3, 4]], 0.8)
    nothing = SparseRows.of(np.zeros((5, 40)))
    assert dot.agreement(x, nothing).tolist() == [0, 0, 1, 0, 0]
    with pytest.raises(UsageProblem, match="ranks by dot or cosine, found 'manhattan'"):
        similarity("manhattan")


def test_weights_are_counted_per_text(session):
    own = session.suite("own", "tiny")
    golden = session.golden("tiny", "own").vectors
    dense = golden.matrix.toarray().astype(np.float64)
    first = np.flatnonzero(dense[0])
    changed = dense.copy()
    changed[0, first[0]] = 0
    changed[0, np.flatnonzero(dense[0] == 0)[0]] = dense[0].max()
    from qguard.metrics import Comparison

    rows = sparse.items(Comparison.of(own, golden, SparseRows.of(changed), SparseDot())).rows
    assert rows[0, :4].tolist() == [len(first), len(first) - 1, 1, 1]
    assert not rows[1:, 2:4].any()
    assert rows[own.documents[0], 5] == 8 * rows[own.documents[0], 0]
    assert not rows[own.queries[0], 5:].any()


def test_a_text_without_an_active_word_is_kept(session):
    from qguard.metrics import Comparison

    own = session.suite("own", "tiny")
    dense = session.golden("tiny", "own").vectors.matrix.toarray()
    dense[3] = 0
    rows = SparseRows.of(dense)
    found = sparse.items(Comparison.of(own, rows, rows, SparseDot())).rows
    assert found[3, :5].tolist() == [0, 0, 0, 0, 0]
    assert sparse.METRICS[0].reduce(found) == 1


def test_vectors_that_are_quantized_are_refused_in_words(session):
    with pytest.raises(UsageProblem, match="fp32\\+int8: model 'tiny' gives a weight to each word"):
        session.targets([parse_precision("fp32+int8")])


def changed(project: Path, folder: Path, **files: object) -> Path:
    import shutil

    shutil.copytree(project / "model", folder)
    for name, value in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(exist_ok=True)
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **value} if isinstance(value, dict) else value))
    return folder


def module(kind: str, path: str = "") -> dict[str, object]:
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.sparse_encoder.modules.{kind}"}


REFUSED = {
    "SparseStaticEmbedding": ({"modules_json": [module("SparseStaticEmbedding")]}, "it looks weights up and multiplies nothing"),
    "SparseAutoEncoder": (
        {"modules_json": [module("Transformer"), module("SparseAutoEncoder", "1_S")]},
        "'SparseAutoEncoder' of a sparse model cannot be reproduced: it chooses the largest of many learned features",
    ),
    "no pooling": ({"modules_json": [module("Transformer")]}, "expected one SpladePooling behind the Transformer"),
    "hidden states": ({"sentence_bert_config_json": {"transformer_task": None}}, "is not declared to give logits"),
    "another task": (
        {"sentence_bert_config_json": {"transformer_task": "feature-extraction"}},
        "declared to give something else than the logits of its texts",
    ),
    "another similarity": (
        {"config_sentence_transformers_json": {"similarity_fn_name": "manhattan"}},
        "expected dot or cosine of a sparse model, found 'manhattan'",
    ),
    "a pooling of its own": ({"1_SpladePooling__config_json": {"pooling_strategy": "mean"}}, "expected max or sum, found 'mean'"),
    "a limit of words": ({"config_sentence_transformers_json": {"max_active_dims": "x"}}, "max_active_dims of config_sentence"),
    "a Router": ({"modules_json": [module("Router")]}, "inference-free SPLADE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_reproduced_is_refused_by_name(case, project, tmp_path):
    files, words = REFUSED[case]
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(changed(project, tmp_path / "m", **files)))


def test_a_masked_language_model_is_pooled_where_the_project_says_that_it_is_sparse(project, session, tmp_path):
    folder = changed(project, tmp_path / "plain")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_SpladePooling/config.json"):
        (folder / name).unlink()
    model = resolve("m", str(folder), settings={"kind": "sparse"})
    own = session.model("tiny").pipeline
    assert (model.kind, model.pipeline.head, model.pipeline.similarity) == ("sparse", own.head, "dot")
    made = parse_precision("fp32").build(model)
    from sentence_transformers import SparseEncoder

    assert made.pipeline.declared() == model.pipeline.declared()
    assert json.loads((made.folder / "config_sentence_transformers.json").read_text())["model_type"] == "SparseEncoder"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ModelProblem, match=r"is BertModel, and no modules.json says how it weighs words"):
        resolve("m", str(folder), settings={"kind": "sparse"})
    assert SparseEncoder


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["hunt", "--precision", "int8", "--corpus", "own"],
            "a hunt compares one vector a text, and model 'tiny' gives a",
        ),
        (["diagnose", "--precision", "int8"], "a diagnosis follows one vector a text through the layers"),
    ],
)
def test_what_does_not_apply_is_said(command, words, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(command) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_file_alone_is_judged_where_its_folder_declares_the_pooling(project, session, tmp_path):
    """As sentence-transformers saves an ONNX export: logits, and the modules behind them."""
    import shutil

    folder = changed(project, tmp_path / "exported")
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    fp32 = session.fp32("tiny", "onnx").file
    assert fp32 is not None
    shutil.copyfile(fp32, folder / "onnx" / "model.onnx")
    toml = (project / "pyproject.toml").read_text().replace('tiny = "model"', f'tiny = "{folder}"')
    (tmp_path / "pyproject.toml").write_text(toml.replace('path = "own"', f'path = "{project / "own"}"'))
    alone = Session(load_config(tmp_path))
    record(alone.model("tiny"), alone.suite("own"), alone.config.golden_root, "first")
    want, found = (s.golden("tiny", "own").vectors.matrix.toarray() for s in (session, alone))
    assert np.abs(want - found).max() < 1e-5
    assert checks(alone, "fp32", ("artifact", "weights"))["artifact.head"].value == 1
    (folder / "modules.json").unlink()
    with pytest.raises(ModelProblem, match="One weight a token, such as BGE-M3's sparse_vecs, is not judged"):
        resolve("m", str(folder), settings={"kind": "sparse"})


def test_a_report_says_how_words_are_pooled(session):
    from qguard.judging.judged import judged

    parts = {p.name: p.value for p in judged(session, Target(parse_precision("int8"), "tiny", "own"))}
    assert parts["pooling"] == "max of log(1 + relu) over a text's tokens"
    assert "normalization" not in parts


@pytest.mark.parametrize("fault", ["cache-key-too-short", "golden-of-something-else", "golden-too-coarse", "rows-mixed-up"])
def test_faults_of_caches_and_goldens_are_caught_of_weights_too(session, fault):
    result = judge_fault(session, parse_precision("int8"), "tiny", ["own"], FAULTS[fault], FAULTS[fault].full)
    assert result.status == CAUGHT, result


def test_weights_are_not_stored_as_quantized_vectors_are(session):
    result = judge_fault(session, parse_precision("int8"), "tiny", ["own"], FAULTS["vector-codes-wrap"], "ranges of 32 texts")
    assert (result.status, result.reason.startswith("the model gives a weight to each word")) == ("not applicable", True)


@pytest.mark.parametrize("precision", ["int8-legacy", "int8@torch", "int8-weight@torch"])
def test_torchs_quantizers_are_refused_in_words(session, precision):
    with pytest.raises(UsageProblem, match="its decoder shares its weights with the table of words"):
        session.artifact(parse_precision(precision), "tiny")


def test_what_is_refused_later_is_listed_so(project, capsys):
    assert main(["models", str(project / "model")]) == 0
    first, kind, works, refused, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("a tested architecture of dense models")
    assert kind == "  kind: sparse (a weight to each word of the vocabulary)"
    assert not {"int8@torch", "int8-weight@torch", "int8-legacy"} & set(works.removeprefix("  precisions: ").split(", "))
    assert refused.startswith("  int8@torch, int8-weight@torch, int8-legacy: model 'model' is sparse, and its decoder shares")


def test_precisions_are_compared_in_one_table(project, session, monkeypatch, capsys):
    monkeypatch.setattr("qguard.judging.compare.BUCKETS", ())  # what is timed is no matter of its kind
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "200")
    main(["compare", "--precision", "fp32,int8"])
    out = capsys.readouterr().out
    assert "words kept" in out
    counts = session.golden("tiny", "own").vectors.counts
    assert f" {round(8 * counts.mean())} " in out.replace("│", " ").replace("|", " ")


def test_gates_are_proposed_for_weights_too(session):
    from qguard.tolerances import proposals_for

    found = {p.key for p in proposals_for(session, parse_precision("int8"), lambda _: None)}
    assert {"weights.kept", "weights.added", "ranking.overlap@10"} <= found
    assert not any(key.startswith("embedding.") for key in found)


def test_what_is_measured_of_vectors_of_unit_length_alone_has_no_gate(session):
    """A verdict must hold a value for every gate, or ``qguard verify`` refuses it."""
    assert "robustness.norm_error" not in {g.metric for g in session.gates(parse_precision("int8"), "tiny")}
    assert "robustness.cosine_min" in {g.metric for g in session.gates(parse_precision("int8"), "tiny")}
