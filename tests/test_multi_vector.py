"""Multi-vector models, from their folder to the verdict: tiny ones that sentence-transformers itself saved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qguard import goldens
from qguard.artifacts.artifact import PROVENANCE
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ArtifactProblem, GoldenProblem, MeasurementProblem, ModelProblem, QguardError, UsageProblem
from qguard.faults import FAULTS
from qguard.faults.judging import CAUGHT, judge_fault
from qguard.gates import gates_for
from qguard.judging.cause import find_cause
from qguard.judging.families import checks
from qguard.judging.session import Session
from qguard.kinds import MULTI_VECTOR
from qguard.metrics import Comparison, ranking, task, tokens
from qguard.models.model import resolve
from qguard.models.modules.masking import MultiVectorMask
from qguard.models.multi_vector import read
from qguard.models.pipeline import Late
from qguard.outputs import TokenVectors
from qguard.precisions import parse_precision
from qguard.vectors.multi_vector import MaxSim, StoredTokens, similarity
from qguard.vectors.quantized import quantize, ranges_of
from tests import kinds

QUERIES = (*kinds.QUERIES, "soak the beans", "bake at noon", "meeting on the island")
DOCUMENTS = (
    *kinds.TEXTS, "The board meets at noon on the island.", "Bake rye bread for an hour.", "Cook beans; soak them overnight!",
    "The ferry leaves within three days.", "Minutes are read by the board.", "Dough rests in cold water.",
    "An hour at noon, three days later.", "Rye and beans are cooked in water.",
)  # fmt: skip
RELEVANT = {0: (0, 7), 1: (1, 5), 2: (2, 8), 3: (3, 6), 4: (5,), 5: (4,)}


def outputs(*counts: int, seed: int = 0, dim: int = 6) -> TokenVectors:
    drawn = np.random.default_rng(seed).normal(size=(sum(counts), dim))
    return TokenVectors(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.cumsum([0, *counts]))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return kinds.tiny_multi_vector(tmp_path_factory.mktemp("multi") / "model")


@pytest.fixture(scope="module")
def session(model, tmp_path_factory) -> Session:
    """A project with queries and documents, and its golden."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "suite" / "qrels").mkdir(parents=True)
    for name, prefix, texts in (("corpus", "d", DOCUMENTS), ("queries", "q", QUERIES)):
        lines = (json.dumps({"_id": f"{prefix}{i}", "text": text}) + "\n" for i, text in enumerate(texts))
        (folder / "suite" / f"{name}.jsonl").write_text("".join(lines))
    judged = "".join(f"q{q}\td{d}\t1\n" for q, found in RELEVANT.items() for d in found)
    (folder / "suite" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nmulti = {json.dumps(str(model))}\n'
        '[tool.qguard.suite.own]\npath = "suite"\n[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nexamples = 10\n'
    )
    made = Session(load_config(folder))
    goldens.record(made.model("multi"), made.suite("own"), made.config.golden_root, "tests")
    return made


def target(session: Session, precision: str = "fp32@onnx") -> Any:
    (found,) = session.targets([parse_precision(precision)])
    return found


def values(session: Session, precision: str, *families: str) -> dict[str, float]:
    found = target(session, precision)
    return {c.name: c.value for family in families for c in checks(session, found, family) if c.slice is None}


def changed(source: Path, folder: Path, file: str, **settings: Any) -> Path:
    """A copy of a model or artifact in which a JSON file says something else; ``None`` removes a key."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(PROVENANCE))
    old = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({k: v for k, v in (old | settings).items() if v is not None}))
    return folder


def without(source: Path, folder: Path, kind: str) -> Path:
    """A copy in which ``modules.json`` does not name a module."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(PROVENANCE))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([m for m in modules if not m["type"].endswith(f".{kind}")]))
    return folder


def test_the_pipeline_is_what_the_folder_declares(model):
    pipeline = resolve("m", str(model)).pipeline
    assert pipeline.kind == MULTI_VECTOR
    assert pipeline.late == Late(None, kinds.DOCUMENT_LENGTH, "fixed", kinds.QUERY_LENGTH)
    assert pipeline.similarity == "maxsim"
    assert [type(m).__name__ for m in pipeline.head] == ["Dense", "MultiVectorMask", "Normalize"]
    assert [pipeline.prefix(role) for role in ("query", "document", None)] == ["[unused0] ", "[unused1] ", ""]


def test_the_golden_holds_queries_as_they_are_filled_up(session):
    golden, suite = session.golden("multi", "own"), session.suite("own", "multi")
    of = {text: i for i, text in enumerate(suite.texts)}
    query, document = of[QUERIES[0]], of[DOCUMENTS[0]]
    assert golden.kind == MULTI_VECTOR
    assert [len(golden.token_ids[query]), golden.vectors.counts[query]] == [kinds.QUERY_LENGTH] * 2
    assert len(golden.token_ids[document]) - golden.vectors.counts[document] == 1  # its full stop does not count
    tokenizer = TextTokenizer.open(session.model("multi").root, session.model("multi").pipeline)
    rows = tokenizer.told(golden.token_ids, suite.roles)
    assert rows == tokenizer(suite.texts, suite.roles) == golden.token_ids
    filled = golden.token_ids[query].index(tokenizer.filling)
    assert [rows[query].attended, rows[document].attended] == [filled, len(rows[document])]


@pytest.mark.parametrize("expansion", [
    None, {"strategy": "min", "length": 12, "attend": True}, {"strategy": "fixed", "length": 5, "token": "[SEP]"},
])  # fmt: skip
def test_other_settings_give_the_outputs_of_sentence_transformers(session, model, tmp_path, expansion):
    from qguard.goldens.reference import confirm, fp32_outputs

    folder = changed(
        model, tmp_path / "m", "sentence_bert_config.json", query_expansion=expansion, query_length=12, document_length=None
    )
    mask = {"skiplist_words": [".", "the", "no such word"], "skiplist_tasks": ["query", "document"]}
    (folder / "2_MultiVectorMask" / "config.json").write_text(json.dumps(mask))
    other = resolve("m", str(folder))
    suite = session.suite("own")
    suite = replace(
        suite, texts=(*suite.texts, "Of no role: soak the rye dough, the beans and the board at noon. " * 2), slices=(None,) * 19
    )
    found = fp32_outputs(other, suite)
    confirm(other, found.suite, found.vectors, found.token_ids)  # raises where the independent path gives others
    longest = max(len(ids) for ids, role in zip(found.token_ids, suite.roles, strict=True) if role == "query")
    assert longest == (9 if expansion is None else expansion["length"])


def test_fp32_and_int8_in_onnx_runtime(session):
    exact = values(session, "fp32@onnx", "tokens", "ranking", "task", "similarity", "invariance", "artifact")
    assert exact["tokens.cosine_min"] > 0.99999
    assert exact["ranking.overlap@10"] == exact["artifact.head"] == 1
    int8 = values(session, "int8", "tokens", "ranking", "artifact")
    assert 0.99 < int8["tokens.cosine_mean"] < 0.99999
    assert int8["tokens.cosine_min"] <= int8["tokens.cosine_p01"] <= int8["tokens.cosine_mean"]
    assert int8["tokens.lost"] == int8["tokens.gained"] == 0
    assert 0 < int8["tokens.maxsim_p99_error"] < 0.1
    assert int8["artifact.quantized_ops"] == 1
    assert len(task.parts(session.comparison(target(session)))[0][0].rows) == len(RELEVANT)
    assert ranking.items(session.comparison(target(session))).noun == "queries"


def test_generated_texts_are_tried(session):
    found = values(session, "fp32@onnx", "robustness")
    assert found["robustness.cosine_min"] > 0.9999
    assert found["robustness.token_mismatches"] == 0


def test_the_scores_of_the_evaluator_of_sentence_transformers(session, model):
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator

    evaluator = MultiVectorInformationRetrievalEvaluator(
        {f"q{i}": t for i, t in enumerate(QUERIES)}, {f"d{i}": t for i, t in enumerate(DOCUMENTS)},
        {f"q{q}": {f"d{d}" for d in found} for q, found in RELEVANT.items()}, precision_recall_at_k=[10],
    )  # fmt: skip
    theirs = evaluator(MultiVectorEncoder(str(model), device="cpu"))
    ours = values(session, "fp32@onnx", "task")
    for name, key in (("ndcg@10", "ndcg@10"), ("mrr@10", "mrr@10"), ("recall@10", "recall@10"), ("map", "map@100")):
        assert ours[f"task.{name}_fp32"] == pytest.approx(theirs[f"maxsim_{key}"], abs=1e-6), name
        assert ours[f"task.{name}"] == pytest.approx(theirs[f"maxsim_{key}"], abs=1e-6), name


@pytest.mark.parametrize("name", ["maxsim", "meanmaxsim"])
def test_maxsim_is_the_sum_of_the_best(name):
    from sentence_transformers.util import similarity as theirs
    from torch import from_numpy

    queries, documents = outputs(3, 1, 7), outputs(5, 2, 0, 900, 4, seed=1)
    found = similarity(name).scores(queries, documents)
    for q, d in np.ndindex(found.shape):
        each = (queries.text(q) @ documents.text(d).T).max(1, initial=-np.inf)
        exact = -1e9 if not len(documents.text(d)) else each.sum()
        assert found[q, d] == pytest.approx(exact / (len(each) if name == "meanmaxsim" else 1), abs=1e-12)
    score = theirs.maxsim if name == "maxsim" else theirs.mean_maxsim
    some = [0, 1, 3, 4]
    expected = score(*([from_numpy(v.text(i)).float() for i in rows] for v, rows in ((queries, range(3)), (documents, some))))
    np.testing.assert_allclose(found[:, some], expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(similarity(name).pairs(queries, documents[some[:3]]), np.diag(found[:, some[:3]]), rtol=1e-12)


def test_agreement_is_the_mean_cosine_of_the_tokens_and_falls_with_their_length():
    a = outputs(3, 1, 4)
    assert MaxSim().agreement(a, a).tolist() == pytest.approx([1, 1, 1])
    turned = outputs(3, 1, 4, seed=1)
    np.testing.assert_allclose(
        MaxSim().agreement(a, turned), [(a.text(i) * turned.text(i)).sum(1).mean() for i in range(3)], rtol=1e-12
    )
    assert MaxSim().agreement(a, TokenVectors(2 * a.vectors, a.offsets)).tolist() == pytest.approx([0.8] * 3)
    assert MaxSim().agreement(a, outputs(3, 2, 3)).tolist()[1:] == [-1, -1]


def test_tokens_that_come_and_go_are_counted(session):
    found = session.comparison(target(session))
    cut = TokenVectors(found.candidate.vectors[1:], np.maximum(found.candidate.offsets - 1, 0))
    more = TokenVectors(
        np.vstack([found.candidate.vectors[:1], found.candidate.vectors]),
        found.candidate.offsets + (np.arange(len(found.candidate) + 1) > 0),
    )
    for moved, lost, gained in ((cut, 1, 0), (more, 0, 1)):
        by = {
            m.name: m.reduce(items.rows)
            for items, metrics in tokens.parts(replace(found, candidate=moved))
            for m in metrics
            if m.vectors[0] == "float32"
        }
        assert (by["tokens.lost"], by["tokens.gained"], by["tokens.cosine_min"]) == (lost, gained, -1)


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_stored_tokens_are_quantized_one_by_one(kind):
    texts = outputs(40, 60, 30).astype(np.float32)
    ranges = ranges_of(texts.vectors) if kind == "int8" else None
    stored = StoredTokens.of(texts, kind, ranges, MaxSim())
    codes = quantize(texts.vectors, kind, ranges)
    assert stored.size_ratio == codes.nbytes / texts.vectors.nbytes
    values = codes.astype(np.float64) if kind == "int8" else np.where(texts.vectors > 0, 1.0, -1.0)
    expected = MaxSim().scores(*(TokenVectors(values, texts.offsets)[[i]] for i in (0, 1)))
    np.testing.assert_allclose(stored.scores(np.asarray([1]), np.asarray([0])), expected, rtol=1e-12)
    rescored = stored.rescores(np.asarray([1]), np.asarray([0]))
    np.testing.assert_allclose(rescored, MaxSim().scores(texts[[0]], stored.dequantized()[[1]]), rtol=1e-12)


def test_vectors_of_tokens_are_judged_as_they_are_stored(session):
    found = values(session, "fp32@onnx+binary", "tokens", "ranking")
    assert found["tokens.cosine_mean"] < 0.95
    assert found["ranking.rescored_overlap@10"] <= 1
    assert found["tokens.text_bytes"] < values(session, "fp32@onnx", "tokens")["tokens.text_bytes"] / 20
    with pytest.raises(UsageProblem, match="model 'multi' gives a vector to each token, which is not cut"):
        session.targets([parse_precision("int8:8")])


LENGTHS, MASK, CONFIG = "sentence_bert_config.json", "2_MultiVectorMask/config.json", "config_sentence_transformers.json"
SETTINGS = {
    "query padding lost": (LENGTHS, {"query_expansion": None}, "query_expansion in .* is missing, the model's \"fixed\""),
    "attention to the filling": (
        LENGTHS, {"query_expansion": {"strategy": "fixed", "attend": True, "length": kinds.QUERY_LENGTH}},
        "attend of query_expansion in .* is true, the model's false",
    ),
    "longer queries": (
        LENGTHS, {"query_expansion": {"strategy": "fixed", "attend": False, "length": 20}},
        "length of query_expansion in .* is 20, the model's 16",
    ),
    "another document length": (LENGTHS, {"document_length": 20}, "document_length in .* is 20, the model's 24"),
    "skiplist lost": (MASK, {"skiplist_words": []}, "skiplist_words of .* is empty"),
    "marks lost": (CONFIG, {"prompts": {}}, "prompt 'document' in .* is missing"),
    "another score": (CONFIG, {"similarity_fn_name": "meanmaxsim"}, "similarity_fn_name in .* is meanm"),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
def test_an_artifact_with_another_setting_is_named(session, tmp_path, what):
    file, settings, words = SETTINGS[what]
    sound = session.artifact(parse_precision("fp32@onnx"), "multi").folder
    other = Session(session.config, artifact_path=changed(sound, tmp_path / "artifact", file, **settings))
    with pytest.raises(GoldenProblem, match=words):
        other.token_ids(target(other))


def test_an_artifact_without_its_modules_is_named(session, tmp_path):
    sound = session.artifact(parse_precision("fp32@onnx"), "multi").folder
    bare = Session(session.config, artifact_path=without(sound, tmp_path / "bare", "Normalize"))
    assert values(bare, "fp32@onnx", "tokens")["tokens.norm_error"] > 0.1
    assert "they do not normalize, the model does" in find_cause(bare, target(bare)).text
    narrow = Session(session.config, artifact_path=without(sound, tmp_path / "narrow", "Dense"))
    (head,) = (c for c in checks(narrow, target(narrow), "artifact") if c.name == "artifact.head")
    assert head.outcome == "fail"
    assert "the model's vectors without its Dense head" in " ".join(head.worst)
    with pytest.raises(MeasurementProblem, match="wrong shape"):
        narrow.comparison(target(narrow))
    masked = Session(session.config, artifact_path=without(sound, tmp_path / "masked", "MultiVectorMask"))
    with pytest.raises(ArtifactProblem, match="no MultiVectorMask that"):
        masked.token_ids(target(masked))


def test_the_default_gates_are_those_of_tokens():
    gates = {g.key: g.bound.number for g in gates_for(parse_precision("int8"), {}, kind=MULTI_VECTOR)}
    assert not [key for key in gates if key.startswith("embedding.")]
    # one scale a matrix leaves .80 of the tokens' cosines and .56 of the neighbors; docs/multi-vector.md
    for name in ("int8", "int8-dynamic", "int8@torch", "int8@openvino", "int8-legacy", "int4"):
        gates = {g.key: g.bound.number for g in gates_for(parse_precision(name), {}, kind=MULTI_VECTOR)}
        assert gates["ranking.overlap@10"] > 0.6
        # with one scale a matrix a model that is trained for longer still has these
        assert gates["tokens.cosine_p01"] > 0.802
        assert gates["ranking.inversions"] < 0.085
        assert gates["tokens.lost"] == gates["tokens.gained"] == 0
    stored = {g.key for g in gates_for(parse_precision("fp32@onnx+int8"), {}, kind=MULTI_VECTOR)}
    assert {"tokens.clipped", "ranking.rescored_overlap@10", "tokens.lost"} <= stored


FAULTY = {
    ("filling-changed", "to half of the length"): "golden",
    ("filling-changed", "attended to"): "golden",
    ("filling-changed", "not at all"): "golden",
    ("filling-zeroed", "full"): "tokens",
    ("skiplist-lost", "full"): "golden",
    ("normalize-missing", "full"): "tokens",
    ("dense-missing", "full"): "artifact",
    ("mask-dropped", "every layer"): "invariance",
    ("rows-mixed-up", "2 texts of every batch"): "tokens",
    ("cache-key-too-short", "the same length"): "tokens",
    ("lengths-kept-sorted", "where they differ"): "tokens",
    ("golden-too-coarse", "1 decimal"): "tokens",
    ("golden-of-something-else", "other weights"): "golden",
}


@pytest.mark.parametrize(("fault", "severity"), FAULTY)
def test_a_fault_is_caught_for_the_right_reason(session, fault, severity):
    precision = parse_precision("fp32@onnx")
    result = judge_fault(session, precision, "multi", ["own"], FAULTS[fault], severity)
    assert result.status == CAUGHT, result
    assert any(map(FAULTS[fault].told_by, result.failures)), result.failures
    assert FAULTY[fault, severity] in {f.gate for f in result.failures}


def test_a_text_without_a_token_that_counts_is_left_out_of_no_score():
    mask = MultiVectorMask(skipped=(".",), kept=(7,))
    assert mask.counted([5, 7, 9], "document", {".": 9}.get) == [False, True, False]
    assert mask.counted([5, 7, 9], "query", {".": 9}.get) == [True, True, True]
    assert MultiVectorMask(skipped=(".", "none")).counted([5, 9], None, {".": 9}.get) == [True, False]


def test_shapes_that_do_not_fit_are_refused(session):
    found = session.comparison(target(session))
    with pytest.raises(MeasurementProblem, match="wrong shape"):
        Comparison.of(found.suite, found.golden, found.golden[:5], MaxSim())


REFUSED = {
    "expansion": (LENGTHS, {"query_expansion": {"strategy": "most"}}, "query_expansion of .*: expected strategy"),
    "no length": (LENGTHS, {"query_expansion": {"strategy": "min"}}, "length of .*: expected a number"),
    "attend": (LENGTHS, {"query_expansion": {"strategy": "min", "length": 9, "attend": 1}}, "attend true or false"),
    "query_length": (LENGTHS, {"query_length": 8}, "query_length 8 is less than the length of query_expansion, 16"),
    "document_length": (LENGTHS, {"document_length": "24"}, "document_length .*: expected a number"),
    "positions": (LENGTHS, {"document_length": 65}, "may have 65 tokens .* positions for 64"),
    "padding": ("tokenizer_config.json", {"padding_side": "left"}, "pads on the left"),
    "skiplist": (MASK, {"skiplist_words": ".,"}, "expected skiplist_words to be a list of str"),
    "dense": ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "'Dense' in 1_Dense reads sentence_embedding"),
    "pylate": (CONFIG, {"model_type": "ColBERT"}, r"layout of PyLate .*MultiVectorEncoder as M"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_reproduced_is_refused(model, tmp_path, what):
    file, settings, words = REFUSED[what]
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(changed(model, tmp_path / "m", file, **settings)))


def test_token_pooling_and_older_layouts_are_refused(model, tmp_path):
    pooled = shutil.copytree(model, tmp_path / "pooled")
    modules = json.loads((pooled / "modules.json").read_text())
    kind = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    (pooled / "4_Pooling").mkdir()
    (pooled / "modules.json").write_text(json.dumps([*modules, {"idx": 4, "name": "4", "path": "4_Pooling", "type": kind}]))
    with pytest.raises(ModelProblem, match=r"'HierarchicalTokenPooling' .*merges a document's vectors"):
        resolve("m", str(pooled))
    stanford = changed(model, tmp_path / "stanford", "config.json", architectures=["HF_ColBERT"])
    (stanford / "modules.json").unlink()
    (stanford / CONFIG).unlink()
    with pytest.raises(ModelProblem, match="or of Stanford's library"):
        resolve("m", str(stanford))
    pylate = shutil.copytree(model, tmp_path / "pylate")
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (pylate / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelProblem, match="layout of PyLate"):
        resolve("m", str(pylate))


def test_a_filling_that_the_vocabulary_has_not_is_refused(model, tmp_path):
    expansion = {"strategy": "fixed", "length": 16, "token": "[FILL]"}
    folder = changed(model, tmp_path / "m", LENGTHS, query_expansion=expansion)
    with pytest.raises(ModelProblem, match=r"filled up with \[FILL\], and the tokenizer has no such token"):
        TextTokenizer.open(folder, read(folder))(["a"], ["query"])


def test_a_file_that_pools_its_vectors_is_refused(session):
    encoder = open_encoder("torch", session.model("multi").folder, session.model("multi").pipeline, "fp32")
    with pytest.raises(QguardError, match="one vector to a text"):
        encoder.head(np.ones((1, 32), np.float32), np.ones((1, 3)))
