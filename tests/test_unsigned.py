"""Unsigned weights give the sums of signed ones, in every integer operator."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from qguard.encoders import padded
from qguard.encoders.onnx import OnnxRuntime
from qguard.onnx.edit import Graph
from qguard.onnx.unsigned import unsigned_weights

WEIGHTS = np.random.default_rng(0).integers(-60, 60, (8, 4)).astype(np.int8)  # too small to saturate anywhere
SCALES = {"s": np.float32(0.1), "ws": np.full(4, 0.2, np.float32), "z": np.uint8(120), "ys": np.float32(3), "yz": np.uint8(128)}
# operator → its domain and inputs; wz is the weights' zero point
OPERATORS = {
    "MatMulInteger": ("", ["x", "w", "z", "wz"]),
    "MatMulIntegerToFloat": ("com.microsoft", ["x", "w", "s", "ws", "z", "wz"]),
    "QLinearMatMul": ("", ["x", "s", "z", "w", "ws", "wz", "ys", "yz"]),
    "DynamicQuantizeMatMul": ("com.microsoft", ["f", "w", "ws", "wz"]),
}


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("operator", OPERATORS)
def test_sums_stay_the_same(operator, zero):
    domain, inputs = OPERATORS[operator]
    if not zero:  # left out, it is 0
        if operator == "QLinearMatMul":
            pytest.skip("its zero points are required")
        inputs = inputs[: inputs.index("wz")]
    stored = {"w": WEIGHTS, "wz": np.full(4, 3, np.int8), **SCALES}
    info = helper.make_tensor_value_info
    out = {"MatMulInteger": 6, "QLinearMatMul": 2}.get(operator, 1)
    given = info("f", 1, [2, 8]) if operator == "DynamicQuantizeMatMul" else info("x", 2, [2, 8])
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items() if k in inputs]
    node = helper.make_node(operator, inputs, ["y"], domain=domain)
    graph = helper.make_graph([node], "g", [given], [info("y", out, [2, 4])], tensors)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    x = np.random.default_rng(1).integers(90, 160, (2, 8))
    feed = {given.name: x.astype(np.uint8 if given.name == "x" else np.float32)}
    before = ort.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    unsigned_weights(Graph(model))
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds[model.graph.node[0].input[inputs.index("w")]] == 2
    assert "w" not in kinds
    assert np.allclose(ort.InferenceSession(model.SerializeToString()).run(None, feed)[0], before, rtol=1e-6)


def test_an_artifact_computes_the_same_with_optimizations_and_without(int8, token_ids):
    """Without them ONNX Runtime does not heed the option that avoids saturation on x86 without VNNI."""
    batch = padded(token_ids[:4])
    a, b = (OnnxRuntime(int8.file, optimise=o)(*batch)[batch[1].astype(bool)] for o in (True, False))
    assert np.abs(a - b).max() < 1e-3 * np.abs(a).max()
