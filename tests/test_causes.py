"""A cause is said where it is proved: the file's own graph without its rounding tells a loss by rounding from all else."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.artifacts.layers.weights import matrices
from qguard.artifacts.unrounded import unrounded
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.judging.cause import find_cause
from qguard.judging.rounding import distance, findings
from qguard.judging.session import Session
from qguard.models.model import resolve
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.report.advice import why
from tests import families, faults


def cause_of(project, artifact, precision="int8"):
    """The cause, and its words with what to look at."""
    harness = Session(load_config(project), artifact)
    (target,) = harness.targets([parse_precision(precision)])
    cause = find_cause(harness, target)
    return cause, why(cause)


@pytest.fixture
def folder(int8, tmp_path):
    """A copy of MiniLM's int8 that nobody vouches for."""
    shutil.copytree(int8.folder, tmp_path / "a")
    (tmp_path / "a" / "qguard.json").unlink()
    return tmp_path / "a"


def change_graph(folder, change):
    file = folder / "onnx" / "model.onnx"
    graph = Graph.read(file)
    change(graph)
    graph.save(file)


def change_tensor(folder, name, change):
    def on(graph):
        full = next(n for n in graph.initializers if n.endswith(name))
        graph.put(full, change(graph.array(full).copy()))

    change_graph(folder, on)


def test_a_loss_by_rounding_is_proved_by_the_graph_without_it(small, int8, dynamic):
    for artifact, precision in ((int8, "int8"), (dynamic, "int8-dynamic")):
        cause, text = cause_of(small, artifact.folder, precision)
        assert (cause.kind, cause.facts["quantized"]) == ("loss", ["model"])
        assert cause.facts["unrounded"] < cause.facts["distance"] / 3
        assert text.startswith("loss by quantization: fp32@onnx still reproduces the golden")


def swap_layers(graph):
    """The weights of two layers in each other's place, with their scales, zero points and biases."""
    a, b = "layer.1/intermediate/dense", "layer.4/intermediate/dense"
    pairs = [(n, n.replace(a, b)) for n in graph.initializers if a in n]
    assert pairs
    for one, other in pairs:
        x, y = graph.array(one).copy(), graph.array(other).copy()
        graph.put(one, y)
        graph.put(other, x)


def rows_reversed(folder):
    change_tensor(folder, "word_embeddings.weight_quantized", lambda v: np.ascontiguousarray(v[::-1]))


def positions_moved(folder):
    change_tensor(folder, "position_embeddings.weight", lambda v: np.roll(v, 1, axis=0))


def pooled_by_last(folder):
    file = folder / "1_Pooling" / "config.json"
    said = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("pooling_mode")}
    file.write_text(json.dumps(said | {"pooling_mode_lasttoken": True}))


def not_normalized(folder):
    file = folder / "modules.json"
    file.write_text(json.dumps([m for m in json.loads(file.read_text()) if not m["type"].endswith("Normalize")]))


def layers_swapped(folder):
    change_graph(folder, swap_layers)


def attention_scaled(folder):
    """Each head's scores by another factor, as of an export with the wrong size of a head."""

    def on(graph):
        for node in graph.nodes:
            if node.op_type == "Attention":
                node.attribute.extend(
                    [] if any(a.name == "scale" for a in node.attribute) else [onnx.helper.make_attribute("scale", 0.02)]
                )

    change_graph(folder, on)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (pooled_by_last, "the artifact's files declare something else: pooling is lasttoken, the model's mean"),
        (not_normalized, "the artifact's files declare something else: they do not normalize, the model does"),
        (layers_swapped, "without any rounding the file's vectors still differ"),
        (attention_scaled, "without any rounding the file's vectors still differ"),
        (rows_reversed, "the file's weights are not the model's: network.embeddings.word_embeddings.weight_quantized: "),
        (positions_moved, "position_embeddings.weight: 512 of 512 rows are moved by +1"),
    ],
)
def test_what_is_no_rounding_is_not_called_loss_by_quantization(small, folder, damage, said):
    damage(folder)
    cause, text = cause_of(small, folder)
    assert (cause.kind, "loss by quantization" in text) == ("artifact", False)
    assert said in text, text


def test_cosines_that_no_recipe_leaves_are_called_that_even_where_rounding_makes_them(small, folder):
    for layer in range(6):
        change_tensor(folder, f"layer.{layer}/output/dense/MatMul/x_scale", lambda v: v / 64)
    cause, text = cause_of(small, folder)
    assert cause.kind == "artifact"
    assert re.search(r"its mean cosine to fp32 is 0\.\d+, and rounding to int8 keeps it at 0\.9 or above", text)
    assert "without its rounding the file gives fp32's vectors: look at its scales, zero points and ranges" in text


def test_padding_that_attention_sees_is_called_padding(small, fp32_onnx, tmp_path):
    file = faults.mask_dropped(fp32_onnx, tmp_path / "m.onnx")
    cause, text = cause_of(small, file, "fp32")
    assert cause.kind == "artifact"
    assert cause.facts["alone"] <= cause.facts["distance"] / 3
    assert "each text by itself, without padding, gives fp32's vector: padding, its side or its mask, or the other texts" in text


def test_what_cannot_be_tested_is_not_said(small, folder):
    def on(graph):
        """An operator that no one reads the result of."""
        product = next(n for n in graph.nodes if n.op_type == "MatMulIntegerToFloat")
        x, scale, zero = (product.input[i] for i in (0, 2, 4))
        graph.append([onnx.helper.make_node("QLinearSigmoid", [x, scale, zero, scale, zero], ["other"], domain="com.microsoft")])

    change_graph(folder, on)
    harness = Session(load_config(small), folder / "onnx" / "model.onnx")
    (target,) = harness.targets([parse_precision("int8")])
    found = findings(harness, target, tuple(range(8)))
    assert (found.rounding, found.untested) == (False, "operator QLinearSigmoid has no float form here")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small model, its fp32 file, token ids and fp32's vectors."""
    made = resolve("tiny", str(families.write("bert", tmp_path_factory.mktemp("causes") / "tiny")))
    fp32 = parse_precision("fp32").build(made)
    encoder = open_encoder("onnx", fp32.folder, fp32.pipeline, "fp32", fp32.file)
    ids = encoder.tokenizer(["a river in the north", "how do I cook rice", "x", "twenty words of a longer sentence " * 4])
    return made, fp32.file, ids, encoder.encode_ids(ids)


def statically(how, operators):
    def make(source, target, ids):
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        with faults.quiet():
            quantize_static(
                str(source), str(target), faults.Batches(ids), quant_format=getattr(QuantFormat, how), per_channel=how == "QDQ",
                op_types_to_quantize=operators, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )  # fmt: skip

    return make


QDQ, QOPERATOR = statically("QDQ", ["MatMul", "Gather", "Add"]), statically("QOperator", ["Add", "Gather"])


def dynamically(source, target, _):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with faults.quiet():
        quantize_dynamic(
            str(source), str(target), weight_type=QuantType.QUInt8, op_types_to_quantize=["MatMul", "Gather", "Attention"],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip


def in_blocks(source, target, _):
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with faults.quiet():
        made = MatMulNBitsQuantizer(onnx.load(str(source)), block_size=32, is_symmetric=False)
        made.process()
        onnx.save(made.model.model, str(target))


def in_halves(source, target, _):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))


@pytest.mark.parametrize("make", [QDQ, QOPERATOR, dynamically, in_blocks, in_halves])
def test_files_of_other_tools_give_fp32_without_their_rounding(tiny, make, tmp_path):
    model, source, ids, want = tiny
    make(source, tmp_path / "m.onnx", ids)
    artifact = open_artifact(tmp_path / "m.onnx", model)

    def far(file):
        return distance(want, open_encoder("onnx", model.folder, model.pipeline, "fp32", file).encode_ids(ids))

    made = unrounded(artifact, model, tmp_path)
    made.graph.save(tmp_path / "u.onnx")
    before, after = far(artifact.file), far(tmp_path / "u.onnx")
    assert (made.kept, after < before / 3) == ([], True), (before, after)
    # and what is wrong with the graph stays wrong
    graph = Graph.read(artifact.file)
    graph.rewrite(lambda n: [onnx.helper.make_node("Neg", n.input[:1], n.output)] if n.op_type == "Gelu" else None)
    graph.save(tmp_path / "m.onnx")
    unrounded(open_artifact(tmp_path / "m.onnx", model), model, tmp_path).graph.save(tmp_path / "u.onnx")
    assert far(tmp_path / "u.onnx") > far(tmp_path / "m.onnx") / 3


def test_products_of_integers_are_products_of_floats_without_their_rounding(tiny, tmp_path):
    """``QLinearMatMul`` of activations and of a weight, in one small graph."""
    model = tiny[0]
    weight = next(m for m in matrices(model.weight_files) if m.shape == (64, 64))[:, :]
    scale = np.abs(weight).max(0) / 127
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    steps = [np.float32(0.05), np.uint8(120), np.float32(0.1), np.uint8(128)]
    stored = {
        "w": np.rint(weight / scale).astype(np.int8), "ws": scale.astype(np.float32), "wz": np.zeros(64, np.int8),
        **dict(zip(("s", "z", "os", "oz"), steps, strict=True)), "table": np.eye(8, 64, dtype=np.float32) * 3,
    }  # fmt: skip
    nodes = [
        node("Gather", ["table", "input_ids"], ["x"]),
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "os", "oz"], ["p"]),
        node("Transpose", ["p"], ["t"], perm=[0, 2, 1]),
        node("QLinearMatMul", ["p", "os", "oz", "t", "os", "oz", "os", "oz"], ["r"]),
        node("DequantizeLinear", ["r", "os", "oz"], ["out"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "products", [onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, [1, 4])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 4, 4])], [tensor(v, k) for k, v in stored.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    made = unrounded(open_artifact(tmp_path / "m.onnx", model), model, tmp_path)
    (found,) = made.graph.session(ort.SessionOptions()).run(None, {"input_ids": np.arange(4)[None]})
    product = stored["table"][:4] @ weight
    assert made.kept == []
    assert np.abs(found[0] - product @ product.T).max() < 1e-5
