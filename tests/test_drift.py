"""A tokenizer upgrade, a torch upgrade and a loss by quantization: three different failures, three different answers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard.config import load_config
from qguard.errors import GoldenProblem, ModelProblem
from qguard.judging.cause import Cause, find_cause
from qguard.judging.facts import changed, holds
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.report.terminal import failure_text
from tests.goldens import project, rewrite
from tests.processes import gate, python


def failure(harness: Session, precision: str, family: str = "embedding") -> str:
    """What a failed gate test prints."""
    (target,) = harness.targets([parse_precision(precision)])
    checks = harness.checks(target, family)
    assert any(c.outcome == "fail" for c in checks)
    cause = find_cause(harness, target)
    text = failure_text(target.precision, target.suite, checks, changed(harness, target), holds(harness, target), cause=cause)
    return " ".join(text.split())  # its first lines are wrapped


@pytest.fixture(scope="module")
def per_tensor(fp32_onnx, tmp_path_factory):
    file = tmp_path_factory.mktemp("per_tensor") / "m.onnx"
    quantize(fp32_onnx, file, per_channel=False)
    return file


def older(harness: Session, **versions: str) -> dict[str, str]:
    return {**harness.golden("minilm", "own").manifest["versions"], **versions}


def perturbed(vectors):
    """As another torch might compute them: every element moved by 1e-3, vectors of unit length again."""
    moved = vectors + np.random.default_rng(0).normal(0, 1e-3, vectors.shape)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def test_a_tokenizer_upgrade_is_said_to_be_one(small, int8, tmp_path):
    """The golden was recorded when the last token of every text was another."""
    harness = project(small, tmp_path)
    ids = [[*i[:-1], 103] for i in harness.golden("minilm", "own").token_ids]
    rewrite(harness, ids=ids, versions=older(harness, tokenizers="0.19.1"))
    harness = Session(load_config(tmp_path))
    (target,) = harness.targets([parse_precision("int8")])
    with pytest.raises(GoldenProblem) as problem:
        harness.token_ids(target)
    text = str(problem.value)
    assert "the tokenizer changed: token ids of 117 of 117 texts change: one special token, [MASK] (103) → [SEP] (102)" in text
    assert "; tokenizers 0.19.1 → " in text
    assert "neither the quantization nor the artifact" in text
    assert "--accept-change tokenizer" in text


def test_a_tokenizer_file_that_changed_is_told_token_by_token(small, minilm, tmp_path):
    shutil.copytree(minilm.folder, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    value = json.loads(file.read_text())
    value["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [103]
    file.write_text(json.dumps(value))
    harness = project(small, tmp_path / "p", tmp_path / "model")
    with pytest.raises(GoldenProblem) as problem:
        harness.golden("minilm", "own")
    text = str(problem.value)
    assert "stale; tokenizer differ" in text
    assert "token ids of 117 of 117 texts change: one special token, [SEP] (102) → [MASK] (103)" in text
    assert text.endswith("--accept-change tokenizer")


def test_a_tokenizer_of_the_artifacts_own_is_the_artifacts_mistake(small, int8, tmp_path):
    shutil.copytree(int8.folder, tmp_path / "a")
    (tmp_path / "a" / "qguard.json").unlink()
    file = tmp_path / "a" / "tokenizer.json"
    value = json.loads(file.read_text())
    value["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [103]
    file.write_text(json.dumps(value))
    harness = Session(load_config(small), tmp_path / "a")
    (target,) = harness.targets([parse_precision("int8")])
    with pytest.raises(GoldenProblem, match="the artifact's tokenizer is not the model's"):
        harness.token_ids(target)


@pytest.fixture(scope="module")
def upgraded(small, tmp_path_factory):
    """A project whose golden another torch recorded."""
    folder = tmp_path_factory.mktemp("upgraded")
    harness = project(small, folder, extra='[tool.qguard.gates.int8]\n"embedding.cosine_mean" = ">= 0.9999"\n')
    vectors = perturbed(harness.golden("minilm", "own").vectors)
    rewrite(harness, vectors=vectors, versions=older(harness, torch="2.1.0"))
    return folder


def test_a_torch_upgrade_is_drift_of_the_stack(upgraded):
    text = failure(Session(load_config(upgraded)), "fp32")
    assert " why: the stack drifted: fp32@onnx as it runs now differs from the golden by up to " in text
    assert "torch 2.1.0 → " in text
    assert "do: review the change, then record the golden again: qguard golden update --model minilm --suite own" in text
    assert "--accept-change stack" in text
    assert "loss by quantization" not in text


def test_drift_under_a_quantized_model_says_what_quantization_adds(upgraded, int8):
    text = failure(Session(load_config(upgraded)), "int8")
    assert "the stack drifted: fp32@onnx as it runs now" in text
    assert "Quantization costs 0.000" in text
    assert " more, the larger part of the loss do: review the change, then record the golden again" in text


def test_a_loss_by_quantization_is_said_to_be_one(small, per_tensor):
    text = failure(Session(load_config(small), per_tensor), "int8-dynamic")
    assert " why: loss by quantization: fp32@onnx still reproduces the golden to " in text
    assert "e-07 on " in text or "e-06 on " in text
    assert "drift" not in text


def test_a_file_that_poses_as_fp32_is_told_from_both(small, per_tensor):
    text = failure(Session(load_config(small), per_tensor), "fp32")
    assert " why: the artifact computes something else: fp32@onnx still reproduces the golden" in text


@pytest.fixture(scope="module")
def of_another_model(fp32_onnx, tmp_path_factory):
    """A file whose word table is that of another vocabulary: every row is the next word's."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(fp32_onnx))
    table = next(t for t in graph.graph.initializer if t.name.endswith("word_embeddings.weight"))
    table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, axis=0), table.name))
    file = tmp_path_factory.mktemp("other") / "m.onnx"
    onnx.save(graph, str(file))
    return file


def test_what_no_rounding_explains_is_no_loss_by_quantization(small, of_another_model):
    harness = Session(load_config(small), of_another_model)
    (target,) = harness.targets([parse_precision("int8-dynamic")])
    text = failure(harness, "int8-dynamic")
    assert "why: the artifact computes something else: fp32@onnx still reproduces the golden to " in text
    assert "which include the worst ones, but its mean cosine to fp32 is 0." in text
    assert "and rounding to int8-dynamic keeps it at 0.9 or above; the file's weights are not the model's: " in text
    assert "word_embeddings.weight: 30522 of 30522 rows are moved by +1; token '[PAD]' (0) holds the row of token" in text
    assert "loss by quantization" not in text
    assert "relax the gate" not in text
    cause = find_cause(harness, target)
    assert cause.kind == "artifact"
    assert cause.facts["mean_cosine"] < cause.facts["least_cosine"] == 0.9
    assert Cause.from_json(json.loads(json.dumps(cause.to_json()))) == cause


@pytest.mark.long
@pytest.mark.parametrize("layers_only", [False, True])
def test_a_diagnosis_does_not_call_another_model_sound(small, of_another_model, layers_only):
    from qguard.diagnosis.examination import Examination

    harness = Session(load_config(small), of_another_model)
    (target,) = harness.targets([parse_precision("int8-dynamic")])
    found = Examination(harness, target, 16).run(layers_only=layers_only)
    assert found.fault
    assert found.conclusion.startswith("It is the tables: ")
    assert "rows are moved by +1" in found.conclusion
    assert "make the file again from this model" in found.conclusion
    assert "No stage is wrong" not in found.conclusion


def test_where_fp32_cannot_be_run_the_question_stays_open(small, per_tensor, monkeypatch):
    harness = Session(load_config(small), per_tensor)

    def absent(*_):
        raise ModelProblem("no torch here")

    monkeypatch.setattr(harness, "fp32", absent)
    text = failure(harness, "int8-dynamic")
    assert "the cause is not known: fp32 could not be run here (no torch here); " in text
    assert "; to tell drift of the stack from loss: pytest --precision fp32@torch" in text


def test_a_gate_test_and_the_report_say_it(small, per_tensor, tmp_path):
    report = tmp_path / "r.json"
    code, out = gate(small, f"--artifact={per_tensor}", f"--qguard-report={report}", "-k", "embeddings or ranking")
    assert code == 1
    assert out.count("loss by quantization: fp32@onnx still reproduces the golden") >= 3  # both tests and the summary
    cause = json.loads(report.read_text())["runs"][0]["cause"]
    assert (cause["kind"], cause["facts"]["fp32"], cause["facts"]["quantized"]) == ("loss", "fp32@onnx", ["model"])
    assert cause["facts"]["change"] < 1e-4
    assert cause["text"].startswith("loss by quantization: fp32@onnx still reproduces the golden")


def test_neither_torch_nor_transformers_is_needed_to_tell(small, per_tensor):
    code = (
        "import sys; from pathlib import Path; from qguard.config import load_config\n"
        "from qguard.judging.session import Session\n"
        "from qguard.precisions import parse_precision\n"
        f"h = Session(load_config(Path({str(small)!r})), Path({str(per_tensor)!r}))\n"
        "(t,) = h.targets([parse_precision('int8-dynamic')])\n"
        "from qguard.judging.cause import find_cause; print(find_cause(h, t).kind)\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    assert python(code).split() == ["loss", "[]"]
