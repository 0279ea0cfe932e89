"""What a file computes is read the same from whatever form a tool writes it in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from qguard.layers import LOOKUP, Contents
from qguard.layers.onnx import Graph
from qguard.layers.weights import matrices, overflowing, weight_errors
from qguard.models import weight_files
from qguard.precisions.dynamic import quantize
from tests import faults


def forms(contents: Contents) -> Counter:
    return Counter(
        (x.operator, x.element, x.bits, x.granularity, x.computes, x.activations) for x in contents.layers if x.computes != LOOKUP
    )


def test_fp32(fp32_onnx):
    assert forms(Graph(fp32_onnx).contents()) == {
        ("MatMul", "F32", 32, "", "float", ""): 18,
        ("Attention", "F32", 32, "", "float", ""): 6,
    }


@pytest.mark.parametrize(("per_channel", "granularity"), [(True, "per-channel"), (False, "per-tensor")])
def test_dynamic(fp32_onnx, tmp_path, per_channel, granularity):
    quantize(fp32_onnx, tmp_path / "m.onnx", per_channel=per_channel)
    contents = Graph(tmp_path / "m.onnx").contents()
    assert forms(contents) == {
        ("MatMulInteger", "I8", 8, granularity, "integer", "dynamic per-tensor"): 18,
        ("QAttention", "I8", 8, granularity, "integer", "dynamic per-tensor"): 6,
    }
    assert [x.name for x in contents.layers if x.computes == LOOKUP] == [
        f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")
    ]


def test_what_onnxruntime_fuses_at_load(int8, tmp_path):
    """The same layers under the operators that ONNX Runtime's own optimiser writes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    ort.InferenceSession(str(int8.file), options, providers=["CPUExecutionProvider"])
    found = forms(Graph(tmp_path / "m.onnx").contents())
    assert sum(found.values()) == 24
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & {operator for operator, *_ in found}
    assert {f[1:5] for f in found} == {("I8", 8, "per-channel", "integer")}


def test_static(static):
    contents = Graph(static).contents()
    assert forms(contents) == {("MatMul", "I8", 8, "per-channel", "integer", "static"): 36}
    assert contents.needs_opset == 13


@pytest.mark.parametrize(("bits", "level", "computes"), [(4, 0, "float"), (8, 0, "float"), (8, 4, "integer")])
def test_blocks(fp32_onnx, tmp_path, bits, level, computes, minilm):
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with faults.quiet():
        work = MatMulNBitsQuantizer(str(fp32_onnx), bits=bits, block_size=32, is_symmetric=True, accuracy_level=level)
        work.process()
    onnx.save(work.model.model, str(tmp_path / "m.onnx"))
    contents = Graph(tmp_path / "m.onnx").contents()
    found = forms(contents)
    how = "dynamic" if computes == "integer" else ""
    assert found["MatMulNBits", f"I{bits}", bits, "block 32", computes, how] == 18
    errors = [e for x, e in weight_errors(contents.layers, matrices(weight_files(minilm.root))) if x.operator == "MatMulNBits"]
    assert len(errors) == 18
    assert max(errors) < {4: 0.15, 8: 0.01}[bits]  # unpacked as the runtime unpacks them


def test_weights_that_are_dequantized_only(fp32_onnx, tmp_path, minilm):
    """Standard ONNX without blocks is opset 13, with them 21; activations stay float."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with faults.quiet():
        work = MatMulNBitsQuantizer(str(fp32_onnx), bits=4, block_size=64, is_symmetric=True, quant_format=QuantFormat.QDQ)
        work.process()
    onnx.save(work.model.model, str(tmp_path / "m.onnx"))
    contents = Graph(tmp_path / "m.onnx").contents()
    assert forms(contents)["MatMul", "I4", 4, "block 64", "float", ""] == 18
    assert contents.needs_opset == 21
    errors = [e for x, e in weight_errors(contents.layers, matrices(weight_files(minilm.root))) if x.bits == 4]
    assert len(errors) == 18
    assert max(errors) < 0.2


def test_fp16(fp32_onnx, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(fp32_onnx)), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, str(tmp_path / "m.onnx"))
    found = forms(Graph(tmp_path / "m.onnx").contents())
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
    assert {x.granularity for x in Graph(tmp_path / "m.onnx").contents().layers if x.computes != LOOKUP} == {"axis 0"}


def test_weights_of_every_form_are_found_among_the_models_own(fp32_onnx, int8, static, minilm):
    for file, count in ((fp32_onnx, 24), (int8.file, 24), (static, 36)):
        layers = [x for x in Graph(file).contents().layers if x.computes != LOOKUP]
        errors = weight_errors(layers, matrices(weight_files(minilm.root)))
        assert len(errors) == count
        assert max(e for _, e in errors) < 0.03


def test_overflow_equals_the_least_saturating_pair():
    """Every pair of neighbouring 8-bit weights, against the sums of products themselves."""
    weights = np.arange(-128, 128)
    w, v = (a.ravel() for a in np.meshgrid(weights, weights))
    sums = np.stack([a * w + b * v for a in (0, 255) for b in (0, 255)])
    assert (overflowing(np.stack([w, v])) == ((sums > 32767) | (sums < -32768)).any(0)).all()
    assert not overflowing(np.array([[1], [100], [100], [1]])).any()  # inputs 1 and 2 are not of one pair
