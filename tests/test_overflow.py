"""Half precision that overflows on a GPU passes on a CPU, which computes it in float32; the range is checked without a GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.errors import MeasurementProblem
from qguard.judging import overflow
from qguard.judging.session import Session, Target
from qguard.metrics.bounds import Bound
from qguard.onnx.edit import Graph
from qguard.onnx.widened import add_maxima, give_sums, typed, widen
from qguard.precisions import parse_precision
from tests import families
from tests.machine import needs_bf16

TEXTS = ("The ferry is late again.", "A gas meter is read once a year.", "Who waters the plants in August, and why not I?")


def massive(folder):
    """One channel inside the first layer above 65,504, and its outgoing weights small, so that float32 loses nothing."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    layer = next(n for n in tensors if n.endswith("layer.0.intermediate.dense.weight")).removesuffix("intermediate.dense.weight")
    tensors[f"{layer}intermediate.dense.weight"][0] *= 40000
    tensors[f"{layer}intermediate.dense.bias"][0] = 60000
    tensors[f"{layer}output.dense.weight"][:, 0] *= 2e-4
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overflow")
    families.write("bert", folder / "usual")
    massive(families.write("bert", folder / "massive"))
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nusual = "./usual"\nmassive = "./massive"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n'
    )
    assert main(["golden", "update", "--config", str(folder), "--reason", "first"]) == 0
    return Session(load_config(folder))


def check(session, precision, model):
    checks = session.checks(Target(parse_precision(precision), model, "own"), "artifact")
    return next((c for c in checks if c.name == "artifact.overflow"), None)


def test_what_the_cpu_hides(session):
    compared = session.comparison(Target(parse_precision("fp16@onnx"), "massive", "own"))
    assert (compared.golden * compared.candidate).sum(1).min() > 0.9999
    found = check(session, "fp16@onnx", "massive")
    assert (found.outcome, found.bound, found.items) == ("fail", Bound("<=", 1), 3)
    assert 1.3 < found.value < 2
    assert "layer.0/intermediate/dense/Add: 1" in found.worst[0]
    assert "in fp32, and fp16 ends at 65,504" in found.worst[0]
    assert "2 of 37 tensors overflow on hardware that computes in fp16" in found.worst[-1]
    assert "use bf16 (its step there is 512)" in found.worst[-1]


def test_torch_names_the_layers_of_its_network(session):
    found = check(session, "fp16@torch", "massive")
    assert found.outcome == "fail"
    assert found.worst[0].startswith("encoder.layer.0.intermediate.dense (output): 1")


@pytest.mark.parametrize("precision", ["fp16@onnx", "fp16@torch"])
def test_a_usual_model_passes(session, precision):
    found = check(session, precision, "usual")
    assert (found.outcome, found.worst) == ("pass", ())
    assert 0 < found.value < 0.001


@pytest.mark.parametrize(("precision", "step"), [("bf16@torch", 512), pytest.param("bf16@openvino", 1024, marks=needs_bf16)])
def test_bf16_has_the_range_and_its_step_is_told(session, precision, step):
    """In OpenVINO's file GELU is spelled out, and twice its value is a tensor of its own."""
    found = check(session, precision, "massive")
    assert found.outcome == "pass"
    assert f"the largest activation; bf16's step there is {step}" in found.worst[0]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8@torch"])
def test_others_are_not_asked(session, precision):
    assert check(session, precision, "usual") is None


def test_another_tools_file_is_judged_whatever_its_precision_is_called(session, tmp_path):
    """fp16 around integer products, as ``model_q4f16.onnx``: found by the types in the file."""
    file = session.artifact(parse_precision("fp16@onnx"), "massive").file
    other = Session(session.config.select(["massive"], []), artifact_path=file)
    (found,) = overflow.of_target(other, Target(parse_precision("int8"), "massive", "own"))
    assert found.value > 1


def test_inputs_that_the_project_states_are_fed(session, tmp_path):
    artifact = session.artifact(parse_precision("fp16@onnx"), "massive")
    graph = Graph.read(artifact.file)
    graph.model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT16, []))
    made = graph.model.graph.output[0].name
    graph.rename_outputs({made: "before"})
    graph.append([node("Cast", "before", "half", to=TensorProto.FLOAT16), node("Mul", "half scale", "scaled")])
    graph.append([node("Cast", "scaled", made, to=TensorProto.FLOAT)])
    graph.save(tmp_path / "model.onnx")
    stated = replace(artifact, file=tmp_path / "model.onnx", feeding=replace(artifact.feeding, inputs={"scale": 60000}))
    found = dict(overflow.measure(overflow.Layers.of_file(stated, overflow.FP16), [[2, 40, 41, 3]]))
    assert found["scaled"] > 65504


def tiny(*nodes, weights=(), kind=TensorProto.FLOAT16, loose=False):
    """A graph over ``input_ids`` and ``attention_mask`` (batch, length), whose output is ``y``, of any shape if ``loose``."""
    ends = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask")]
    out = helper.make_tensor_value_info("y", kind, None if loose else ["b", "l"])
    stored = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights]
    made = helper.make_model(
        helper.make_graph(nodes, "g", ends, [out], stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return Graph(made)


def maxima(graph, ids=((3, 4, 5),), mask=((1, 1, 0),)):
    import onnxruntime as ort

    give_sums(graph)
    names = typed(graph, "tensor(float16)")
    widen(graph, TensorProto.FLOAT16)
    outputs = add_maxima(graph, names)
    found = graph.session(ort.SessionOptions()).run(
        list(outputs.values()), {"input_ids": np.asarray(ids), "attention_mask": np.asarray(mask)}
    )
    return {name: float(value) for name, value in zip(outputs, found, strict=True)}


def node(kind, given, out, **attributes):
    return helper.make_node(kind, given.split(), [out], out, **attributes)


def test_values_beyond_the_range_are_computed_and_constants_in_nodes_too():
    thousand = numpy_helper.from_array(np.array(1000, np.float16))
    graph = tiny(
        node("Cast", "input_ids", "x", to=TensorProto.FLOAT16), node("Constant", "", "k", value=thousand),
        node("Mul", "x k", "a"), node("Mul", "a a", "b"), node("Sqrt", "b", "y"),
    )  # fmt: skip
    assert maxima(graph) == {"x": 5, "a": 5000, "b": 25e6, "y": 5000}


def test_masks_are_no_activations_and_scores_may_fall_to_minus_infinity():
    """``finfo.min`` of half precision plus a negative score is minus infinity there, and Softmax makes 0 of both."""
    graph = tiny(
        node("Cast", "input_ids", "x", to=TensorProto.FLOAT16), node("Neg", "x", "score"),
        node("Cast", "attention_mask", "m", to=TensorProto.FLOAT16), node("Sub", "one m", "hidden"),
        node("Mul", "hidden least", "bias"), node("Mul", "score many", "wide"), node("Add", "wide bias", "sum"),
        node("Softmax", "sum", "y", axis=-1),
        weights=[("one", np.float16(1)), ("least", np.float16(-65504)), ("many", np.float16(100))],
    )  # fmt: skip
    found = maxima(graph)
    assert set(found) == {"x", "score", "wide", "sum", "y"}
    assert (found["score"], found["wide"], found["sum"]) == (5, -300, -300)


def test_a_sum_inside_a_fused_norm_counts():
    wide = np.ones(4, np.float16)
    skip = helper.make_node("SkipLayerNormalization", ["e", "e", "wide", "wide"], ["y"], "norm", domain="com.microsoft")
    graph = tiny(
        node("Gather", "table input_ids", "e"),
        weights=[("table", np.full((6, 4), 40000, np.float16)), ("wide", wide)],
        loose=True,
    )
    graph.import_domain("com.microsoft")
    graph.append([skip])
    assert maxima(graph)["y/sum"] == 80000


def test_what_is_not_finite_in_float32_is_not_measured():
    layers = overflow.Layers(lambda *_: None, {"a": float("inf")})
    with pytest.raises(MeasurementProblem, match="a is not finite in float32 either"):
        overflow.measure(layers, [[1, 2]])


def test_the_gate_can_be_replaced_and_is_named(session):
    from qguard.families import metric_names

    assert overflow.METRIC in metric_names()
    assert golden.was_folder(session.config.golden_root, "usual", "./usual")
