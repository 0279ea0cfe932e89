"""What a file computes is read the same from whatever form a tool writes it in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.artifacts.layers import LOOKUP, Contents
from qguard.artifacts.layers.onnx import read
from qguard.artifacts.layers.weights import matrices, overflowing, weight_errors
from qguard.models.model import weight_files
from qguard.precisions.dynamic import quantize


def forms(contents: Contents) -> Counter:
    return Counter(
        (x.operator, x.element, x.bits, x.granularity, x.computes, x.activations) for x in contents.layers if x.computes != LOOKUP
    )


def test_fp32(fp32_onnx):
    assert forms(read(fp32_onnx)) == {
        ("MatMul", "F32", 32, "", "float", ""): 18,
        ("Attention", "F32", 32, "", "float", ""): 6,
    }


@pytest.mark.parametrize(("per_channel", "granularity"), [(True, "per-channel"), (False, "per-tensor")])
def test_dynamic(fp32_onnx, tmp_path, per_channel, granularity):
    quantize(fp32_onnx, tmp_path / "m.onnx", per_channel=per_channel)
    contents = read(tmp_path / "m.onnx")
    assert forms(contents) == {
        ("MatMulInteger", "I8", 8, granularity, "integer", "dynamic per-tensor"): 18,
        ("QAttention", "I8", 8, granularity, "integer", "dynamic per-tensor"): 6,
    }
    assert [x.name for x in contents.layers if x.computes == LOOKUP] == [
        f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")
    ]


def test_what_onnxruntime_fuses_at_load(dynamic, tmp_path):
    """The same layers under the operators that ONNX Runtime's own optimizer writes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    ort.InferenceSession(str(dynamic.file), options, providers=["CPUExecutionProvider"])
    found = forms(read(tmp_path / "m.onnx"))
    assert sum(found.values()) == 24
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & {operator for operator, *_ in found}
    assert {f[1:5] for f in found} == {("I8", 8, "per-channel", "integer")}


def test_static(static):
    contents = read(static)
    assert forms(contents) == {("MatMul", "I8", 8, "per-channel", "integer", "static"): 36}
    assert contents.needs_opset == 13


def blocks(weight, bits: int, block: int):
    """Rounded symmetrically in blocks of inputs: integers around 0 (outputs, inputs), scales (outputs, blocks)."""
    parts = weight.T.reshape(weight.shape[1], -1, block)
    scale = np.abs(parts).max(2) / (2 ** (bits - 1) - 1)
    return np.rint(parts / scale[..., None]).reshape(weight.T.shape).astype(np.int32), scale.astype(np.float32)


def with_weight(fp32_onnx, file, make) -> str:
    """Replace the first MatMul's weight; ``make(graph, node, array)`` returns the nodes that take its place."""
    model = onnx.load(str(fp32_onnx))
    at, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "MatMul")
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == node.input[1])
    made = make(model.graph, node, weight)
    del model.graph.node[at]
    for new in reversed(made):
        model.graph.node.insert(at, new)
    onnx.save(model, str(file))
    return "encoder/layer.0/attention/output/dense"


@pytest.mark.parametrize(("bits", "level", "computes"), [(4, 0, "float"), (8, 0, "float"), (8, 4, "integer")])
def test_blocks_are_unpacked_as_onnxruntime_unpacks_them(fp32_onnx, tmp_path, minilm, bits, level, computes):
    def make(graph, node, weight):
        integers, scale = blocks(weight, bits, 32)
        raw = (integers + 2 ** (bits - 1)).astype(np.uint8)
        packed = raw[:, 0::2] | raw[:, 1::2] << 4 if bits == 4 else raw
        names = [f"{node.input[1]}_Q{bits}", f"{node.input[1]}_scales"]
        arrays = (packed.reshape(len(raw), -1, 32 * bits // 8), scale)
        graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
        shape = {"K": weight.shape[0], "N": weight.shape[1], "bits": bits, "block_size": 32, "accuracy_level": level}
        inputs = [node.input[0], *names]
        return [helper.make_node("MatMulNBits", inputs, node.output, f"{node.name}_Q{bits}", domain="com.microsoft", **shape)]

    name = with_weight(fp32_onnx, tmp_path / "m.onnx", make)
    (layer,) = (x for x in read(tmp_path / "m.onnx").layers if x.operator == "MatMulNBits")
    assert (layer.name, layer.element, layer.bits, layer.granularity) == (name, f"I{bits}", bits, "block 32")
    assert layer.computes == computes
    assert layer.fine_enough(32)
    assert layer.fine_enough("per-channel")
    assert not layer.fine_enough(16)
    ((_, error),) = weight_errors([layer], matrices(weight_files(minilm.root)))
    assert error < {4: 0.15, 8: 0.01}[bits]

    model = onnx.load(str(tmp_path / "m.onnx"))
    node = next(n for n in model.graph.node if n.op_type == "MatMulNBits")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [384, 384])],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)],
        [t for t in model.graph.initializer if t.name in node.input],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    session = ort.InferenceSession(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    (rows,) = session.run(None, {node.input[0]: np.eye(384, dtype=np.float32)})
    assert np.abs(rows - layer.read()[1]).max() < (1e-6 if level == 0 else 1e-2)


@pytest.mark.parametrize(("block", "opset"), [(64, 21), (0, 13)])
def test_weights_that_are_dequantized_only(fp32_onnx, tmp_path, minilm, block, opset):
    """Standard ONNX: int4 with blocks is of opset 21, int8 per channel of 13; activations stay float."""
    bits = 4 if block else 8

    def make(graph, node, weight):
        integers, scale = blocks(weight, bits, block or len(weight))
        kind = TensorProto.INT4 if block else TensorProto.INT8
        graph.initializer.append(helper.make_tensor("w", kind, weight.shape, integers.T.ravel().tolist()))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scale.T) if block else scale[:, 0], "s"))
        how = {"axis": 0, "block_size": block} if block else {"axis": 1}
        return [
            helper.make_node("DequantizeLinear", ["w", "s"], ["w/float"], "dequantize", **how),
            helper.make_node("MatMul", [node.input[0], "w/float"], node.output, node.name),
        ]

    with_weight(fp32_onnx, tmp_path / "m.onnx", make)
    contents = read(tmp_path / "m.onnx")
    (layer,) = (x for x in contents.layers if x.weight == "w")
    granularity = f"block {block}" if block else "per-channel"
    assert (layer.element, layer.granularity, layer.computes) == (f"I{bits}", granularity, "float")
    assert contents.needs_opset == opset
    ((_, error),) = weight_errors([layer], matrices(weight_files(minilm.root)))
    assert error < {4: 0.2, 8: 0.02}[bits]


def test_fp16(fp32_onnx, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(fp32_onnx)), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, str(tmp_path / "m.onnx"))
    found = forms(read(tmp_path / "m.onnx"))
    assert found["MatMul", "F16", 16, "", "float", ""] == 18


def test_scales_along_the_inputs_are_not_per_channel(static, tmp_path):
    """MiniLM's attention matrices are square: the number of scales alone would not tell."""
    model = onnx.load(str(static))
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            for attribute in node.attribute:
                if attribute.name == "axis":
                    attribute.i = 0
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert {x.granularity for x in read(tmp_path / "m.onnx").layers if x.computes != LOOKUP} == {"axis 0"}


def test_weights_of_every_form_are_found_among_the_models_own(fp32_onnx, int8, static, minilm):
    # of int8, six layers in two parts, and as many in float beside them
    for file, count in ((fp32_onnx, 24), (int8.file, 48), (static, 36)):
        layers = [x for x in read(file).layers if x.computes != LOOKUP]
        errors = weight_errors(layers, matrices(weight_files(minilm.root)))
        assert len(errors) == count
        assert max(e for _, e in errors) < 0.03


def test_overflow_equals_the_least_saturating_pair():
    """Every pair of neighboring 8-bit weights, against the sums of products themselves."""
    weights = np.arange(-128, 128)
    w, v = (a.ravel() for a in np.meshgrid(weights, weights))
    sums = np.stack([a * w + b * v for a in (0, 255) for b in (0, 255)])
    assert (overflowing(np.stack([w, v])) == ((sums > 32767) | (sums < -32768)).any(0)).all()
    assert not overflowing(np.array([[1], [100], [100], [1]])).any()  # inputs 1 and 2 are not of one pair
