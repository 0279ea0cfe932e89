"""Cross-encoders: their scores are sentence-transformers', they are judged, and each known way to break them is told apart."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qguard.artifacts.artifact import copy_layout
from qguard.cli import main
from qguard.config import load_config
from qguard.encoders.tokenizer import types_of
from qguard.errors import DataProblem, GoldenProblem, ModelProblem, UsageProblem
from qguard.faults import FAULTS
from qguard.faults.judging import CAUGHT, Judge, judge_fault
from qguard.faults.site import FaultSite
from qguard.goldens import record
from qguard.judging.cause import find_cause
from qguard.judging.latency import OF_PAIRS, buckets
from qguard.judging.session import Session, Target
from qguard.models.cross_encoder import read
from qguard.models.model import resolve
from qguard.precisions import parse_precision
from qguard.suites.paired import TextPair
from tests.kinds import TEXTS, tiny_cross_encoder

ACCURACY = ("artifact", "score", "order", "invariance")
INT8 = parse_precision("int8")


def suite(folder: Path) -> None:
    """Eight queries of the tiny model's words with eight graded candidates each, and twelve graded pairs."""
    pick, words = random.Random(0), sorted({w.strip("!.,;()").lower() for t in TEXTS for w in t.split()})
    texts = [" ".join(pick.sample(words, pick.randint(3, 9))) for _ in range(40)]
    folder.mkdir()

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("corpus", [{"_id": f"d{i}", "text": t} for i, t in enumerate(texts)])
    write("queries", [{"_id": f"q{i}", "text": " ".join(pick.sample(words, 4))} for i in range(8)])
    chosen = [pick.sample(range(40), 8) for _ in range(8)]
    listed = [[{"document": f"d{d}", "score": int(k < 2)} for k, d in enumerate(some)] for some in chosen]
    write("candidates", [{"query": f"q{i}", "candidates": some} for i, some in enumerate(listed)])
    write("pairs", [{"text_a": texts[i], "text_b": texts[-1 - i], "score": i % 4} for i in range(12)])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny cross-encoders, of one label and of three, with their goldens."""
    folder = tmp_path_factory.mktemp("cross")
    suite(folder / "own")
    for name, labels in (("one", 1), ("three", 3)):
        tiny_cross_encoder(folder / name, labels)
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\none = { ref = "one", threshold = 0.5 }\nthree = "three"\n'
        '[tool.qguard.suite.own]\npath = "own"\n[tool.qguard.robustness]\nexamples = 10\n[tool.qguard.latency]\nmode = "off"\n'
        '[tool.qguard.gates.int8]\n"artifact.size_ratio" = "<= 2"\n"score.p99_error" = "<= 1"\n"order.tau" = ">= 0.7"\n'
        '"order.tau_min" = ">= 0"\n"order.overlap@5" = ">= 0.7"\n"order.top1" = ">= 0.5"\n"score.bias" = "<= 0.5"\n'
        '"score.spearman" = ">= 0.9"\n"score.threshold_flips" = "<= 0.3"\n"score.label_flips" = "<= 0.3"\n'
        '"order.inversions" = "<= 0.2"\n'
    )
    session = Session(load_config(folder))
    for name in ("one", "three"):
        record(session.model(name), session.suite_of("own", name), session.config.golden_root, "first")
    return folder


@pytest.fixture(scope="module")
def session(project: Path) -> Session:
    return Session(load_config(project))


def checks(session: Session, precision: str, model: str = "one", families: tuple[str, ...] = ACCURACY) -> dict[str, Any]:
    target = Target(parse_precision(precision), model, "own")
    return {c.name: c for f in families for c in session.checks(target, f) if c.slice is None}


def predicted(project: Path, session: Session, model: str = "one") -> tuple[Any, list[TextPair]]:
    from sentence_transformers import CrossEncoder

    pairs = [TextPair.of(t) for t in session.suite_of("own", model).texts]
    return CrossEncoder(str(project / model), device="cpu"), pairs


def test_a_golden_holds_the_logits_and_token_types_that_sentence_transformers_computes_with(project, session) -> None:
    st, pairs = predicted(project, session)
    golden = session.golden("one", "own")
    scores = 1 / (1 + np.exp(-golden.vectors[:, 0].astype(np.float64)))
    np.testing.assert_allclose(scores, st.predict([(p.first, p.second) for p in pairs]), atol=1e-6)
    fed = st.preprocess([(pairs[0].first, pairs[0].second)])
    assert golden.token_ids[0] == fed["input_ids"][0].tolist()
    assert types_of(golden.token_ids[0]) == fed["token_type_ids"][0].tolist()
    assert golden.manifest["pipeline"]["scoring"]["activation"] == "Sigmoid"
    assert golden.kind == "cross-encoder"


def test_task_quality_is_what_sentence_transformers_evaluators_say(project, session) -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator, CrossEncoderRerankingEvaluator

    from qguard.metrics import Comparison
    from qguard.metrics.task import labelled_items

    st, pairs = predicted(project, session)
    golden, own = session.golden("one", "own"), session.suite_of("own", "one")
    similar = session.similarity("one")
    found = {
        m.name: float(m.reduce(rows.rows))
        for rows, metrics in labelled_items(Comparison.of(own, golden.vectors, golden.vectors, similar))
        for m in metrics
    }
    samples = [
        {
            "query": g.query,
            "positive": [pairs[i].second for i, grade in zip(g.members, g.grades, strict=True) if grade],
            "negative": [pairs[i].second for i, grade in zip(g.members, g.grades, strict=True) if not grade],
        }
        for g in own.groups
    ]
    said = CrossEncoderRerankingEvaluator(samples, at_k=10, write_csv=False)(st)
    assert found["task.ndcg@10"] == pytest.approx(said["ndcg@10"], abs=1e-6)
    assert found["task.mrr@10"] == pytest.approx(said["mrr@10"], abs=1e-6)
    assert found["task.map"] == pytest.approx(said["map"], abs=1e-6)
    labelled = [(pairs[p.a], p.score) for p in own.pairs]
    judge = CrossEncoderCorrelationEvaluator(
        [(p.first, p.second) for p, _ in labelled], [s for _, s in labelled], write_csv=False
    )
    said = judge(st)
    assert found["task.spearman"] == pytest.approx(said["spearman"], abs=1e-6)
    assert found["task.pearson"] == pytest.approx(said["pearson"], abs=1e-6)


def test_fp32_passes_the_default_gates(session) -> None:
    found = checks(session, "fp32", families=(*ACCURACY, "robustness"))
    assert not [c for c in found.values() if c.outcome == "fail"]
    assert found["score.max_error"].value < 1e-4
    assert found["artifact.head"].value == 1
    assert {"score.threshold_flips", "order.tau"} <= found.keys()


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int8-weight", "int4", "fp16", "bf16", "int8@openvino"])
def test_every_recipe_reaches_the_classifier(session, precision: str) -> None:
    found = checks(session, precision, families=("artifact", "score"))
    failed = [c for c in found.values() if c.outcome == "fail" and c.name != "artifact.size_ratio"]
    assert not [c for c in failed if c.name.startswith("artifact.")], failed
    assert found["score.spearman"].value > (0.8 if precision == "int4" else 0.9)  # 32 values wide: one block a row


def test_of_three_labels_flips_are_counted_and_nothing_is_ordered(session) -> None:
    found = checks(session, "int8", "three", ("artifact", "score"))
    assert "score.label_flips" in found
    assert not {"score.threshold_flips", "score.spearman"} & found.keys()
    names = [f.name for f in session.families(Target(INT8, "three", "own"))]
    assert "score" in names
    assert not {"order", "task", "ranking", "embedding", "similarity"} & set(names)


@pytest.mark.parametrize(
    ("fault", "model", "words"),
    [
        ("labels-reordered", "three", "labels in another order (label 2, label 1, label 0)"),
        ("activation-in-file", "one", "scores after Sigmoid, not logits"),
        ("activation-in-file", "three", "scores after Softmax, not logits"),
        ("token-types-zeroed", "one", "does not tell the two texts of a pair apart"),
        ("pair-exchanged", "one", "texts in the other order"),
        ("head-in-float", "one", "classifier"),
    ],
)
def test_a_broken_head_is_named(session, tmp_path: Path, fault: str, model: str, words: str) -> None:
    result = judge_fault(session, INT8, model, ["own"], FAULTS[fault], FAULTS[fault].full)
    assert result.status == CAUGHT, result
    assert any(map(FAULTS[fault].told_by, result.failures)), result.failures
    candidate = FAULTS[fault].inject(FaultSite(session, INT8, model, ("own",), tmp_path), FAULTS[fault].full)
    found = Judge.on(session, candidate).checks(Target(INT8, model, "own"), "artifact")
    assert any(words in line for c in found if c.outcome == "fail" for line in c.worst), [c.worst for c in found]


def test_a_lost_activation_is_named(session, tmp_path: Path) -> None:
    fault = FAULTS["activation-lost"]
    candidate = fault.inject(FaultSite(session, INT8, "one", ("own",), tmp_path), fault.full)
    with pytest.raises(GoldenProblem, match=r"activation_fn .* is Identity, the model's Sigmoid"):
        Judge.on(session, candidate).token_ids(Target(INT8, "one", "own"))


def test_one_scale_a_matrix_is_seen_in_the_classifier_too(session, tmp_path: Path) -> None:
    from qguard.precisions.dynamic import quantize

    fp32 = session.fp32("three", "onnx").file
    assert fp32 is not None
    quantize(fp32, tmp_path / "model.onnx", per_channel=False)
    coarse = Session(session.config, artifact_path=tmp_path / "model.onnx")
    found = checks(coarse, "int8-dynamic", "three", ("artifact",))["artifact.granularity"]
    assert found.outcome == "fail"
    assert found.value < 0.1  # the classifier's as every other layer


def test_latency_is_that_of_one_pair_and_of_a_hundred_candidates(session) -> None:
    from qguard.config import LatencyConfig

    def timed(**settings: Any) -> list[str]:
        config = session.config.model_copy(update={"latency": LatencyConfig(**settings)})
        return list(map(str, buckets(Session(config), INT8, "one")))

    assert timed() == ["64x1", "64x100"]
    assert timed(tokens=(32,), batches=(8,)) == ["32x8"]
    ids, mask, types = OF_PAIRS[1].fill(session.golden("one", "own").token_ids)
    assert ids.shape == mask.shape == types.shape == (100, 64)
    assert (types[:, 0] == 0).all()
    assert (types[:, -1] == 1).all()


def test_the_cause_of_a_loss_is_told_by_scores(session) -> None:
    cause = find_cause(session, Target(INT8, "one", "own"))
    assert cause.kind == "loss", cause.text


def test_what_a_cross_encoder_has_not_is_refused_in_words(project, session, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(UsageProblem, match="pair of texts"):
        session.targets([parse_precision("int8+binary")])
    for command in ("hunt", "diagnose"):
        extra = ["--corpus", "own"] if command == "hunt" else []
        assert main([command, "--precision", "int8", "--model", "one", *extra]) == 2
        assert "one vector a text" in capsys.readouterr().err
    config = session.config.model_copy(update={"models": {"three": session.config.models["three"]}})
    with pytest.raises(UsageProblem, match="no model has a threshold"):
        Session(config).targets([INT8])


def test_a_first_stage_finds_candidates_where_the_suite_has_none(session) -> None:
    from qguard.goldens.first_stage import with_candidates
    from qguard.suites import Suite
    from qguard.vectors.similarity import COSINE

    whole = Suite(
        "s", ("q", "a", "b", "c"), (None,) * 4, queries=(0,), documents=(1, 2, 3), qrels={0: {1: 2.0}},
        query_ids=("q",), document_ids=("a", "b", "c"),
    )  # fmt: skip
    vectors = np.array([[1, 0], [0, 1], [1, 1], [1, 0.1]], np.float32)
    golden = replace(session.golden("one", "own"), vectors=vectors, manifest={"data_sha256": "0" * 64})
    found = with_candidates(whole, golden, "dense", 2, COSINE)
    assert [(c.text, c.score) for c in found.candidates[0]] == [("c", 0.0), ("b", 2.0)]
    assert found.paired().sha256 != replace(found, first_stage={}).paired().sha256
    with pytest.raises(UsageProblem, match="expected a dense model"):
        with_candidates(whole, session.golden("one", "own"), "one", 2, COSINE)


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(project / "one", tmp_path / "copy"))


def test_activations_are_read_as_sentence_transformers_reads_them(copied: Path) -> None:
    assert read(copied).scoring.activation == "Sigmoid"
    changed(copied, "config_sentence_transformers.json", activation_fn="torch.nn.Identity")
    changed(copied, "config.json", sentence_transformers={"activation_fn": "torch.nn.Tanh"})
    assert read(copied).scoring.activation == "Identity"
    (copied / "modules.json").unlink()
    (copied / "config_sentence_transformers.json").unlink()
    (copied / "sentence_bert_config.json").unlink()
    assert read(copied).scoring.activation == "Tanh"
    changed(
        copied, "config.json", sentence_transformers=None, sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"
    )
    assert read(copied).scoring.activation == "Identity"
    changed(copied, "config.json", sbert_ce_default_activation_function="mine.Own")  # which sentence-transformers ignores
    assert read(copied).scoring.activation == "Sigmoid"
    model = resolve("old", str(copied))
    assert model.kind == "cross-encoder"
    copy_layout(model, copied.parent / "artifact")  # which says in words what sentence-transformers takes for granted
    again = model.pipeline_of(copied.parent / "artifact")
    assert again == replace(model.pipeline, prompts={})


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config_sentence_transformers.json", {"activation_fn": "torch.nn.Nothing"}, "activation_fn .* is not reproduced"),
        (
            "config.json",
            {"architectures": ["BertModel"]},
            "names BertModel; expected one that ends with ForSequenceClassification",
        ),
        ("config.json", {"id2label": {"0": "a", "2": "b"}}, "expected numbers from 0 to 1"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "something else than the logits"),
    ],
)
def test_what_is_not_reproduced_is_refused(copied: Path, file: str, values: dict[str, Any], words: str) -> None:
    changed(copied, file, **values)
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(copied))


def test_a_cross_encoder_as_onnx_alone_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model.onnx")
    with pytest.raises(ModelProblem, match="cross-encoder that comes as ONNX alone"):
        resolve("m", str(copied))


def test_scores_by_the_words_of_a_language_model_are_refused(copied: Path) -> None:
    modules = json.loads((copied / "modules.json").read_text())
    kind = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    (copied / "modules.json").write_text(json.dumps([*modules, {"idx": 1, "name": "1", "path": "1_LogitScore", "type": kind}]))
    with pytest.raises(ModelProblem, match="LogitScore"):
        resolve("m", str(copied))


def test_a_suite_without_pairs_asks_for_candidates(project, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    config = load_config(project)
    config = config.model_copy(
        update={"suites": ("texts",), "suite": {"texts": type(config.suite["own"])(path=str(tmp_path / "texts.txt"))}}
    )
    with pytest.raises(DataProblem, match="neither pairs nor candidates"):
        Session(config).suite_of("texts", "one")
