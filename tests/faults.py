"""Seeded faults: what goes wrong when a real model is quantized, made from the real model's own files.

Each function writes one ONNX file. Numbers in brackets are those of the faults that people reported for such files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTED = ["MatMul", "Gather"]  # what static quantization of a sentence encoder should touch


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime.quantization warns of a pre-processing step that these graphs do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class Batches:
    """Token ids in padded batches of eight, as onnxruntime.quantization reads them."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self.left = [ids[i : i + 8] for i in range(0, len(ids), 8)]

    def get_next(self) -> dict[str, Any] | None:
        if not self.left:
            return None
        rows = self.left.pop()
        ids, mask = np.zeros((2, len(rows), max(map(len, rows))), np.int64)
        for k, row in enumerate(rows):
            ids[k, : len(row)], mask[k, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def static(source: Path, target: Path, ids: Sequence[Sequence[int]], operators: list[str] | None) -> Path:
    """Static MinMax, per-channel weights, ``QuantizeLinear``/``DequantizeLinear``; ``operators=None`` takes all of them."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with quiet():
        quantize_static(
            str(source), str(target), Batches(ids), quant_format=QuantFormat.QDQ, op_types_to_quantize=operators,
            per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": operators is not None, "DefaultTensorType": TensorProto.FLOAT},
        )  # fmt: skip
    return target


def random_ids(texts: int, length: int, vocabulary: int) -> list[list[int]]:
    """Token ids that no tokenizer would give: what somebody calibrates with who has no texts at hand."""
    draw = np.random.default_rng(0).integers(0, vocabulary, (texts, length))
    return [[int(i) for i in row] for row in draw]


def layer_left_out(source: Path, target: Path, layer: str) -> Path:
    """[21] Dynamic int8 that leaves one MatMul in float."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    node = next(n.name for n in onnx.load(str(source)).graph.node if n.op_type == "MatMul" and layer in n.name)
    with quiet():
        quantize_dynamic(
            str(source), str(target), per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=[node],
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )  # fmt: skip
    return target


def wrong_zero_point(source: Path, target: Path, layer: str, by: int = 32) -> Path:
    """[27] One integer layer whose weight zero point is off."""
    model = onnx.load(str(source))
    node = next(n for n in model.graph.node if n.op_type == "MatMulInteger" and layer in n.name)
    for tensor in model.graph.initializer:
        if tensor.name == node.input[3]:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((value + by).astype(value.dtype), tensor.name))
    onnx.save(model, str(target))
    return target


def older_opset(source: Path, target: Path, version: int) -> Path:
    """[17] The same graph under an operator set in which a scale is one number."""
    model = onnx.load(str(source))
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    onnx.save(model, str(target))
    return target


def saturating(source: Path, target: Path) -> Path:
    """[9] Dynamic int8 as x86 without VNNI computes it, in plain ONNX operators, for every ``MatMulInteger``.

    ``vpmaddubsw`` adds the products of inputs 2i and 2i + 1 in int16 and saturates. Only pairs of weights whose sum is
    beyond 128 can do that: the excess of exactly those is taken from the exact product.
    """
    model = onnx.load(str(source))
    tensors = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "MatMulInteger":
            nodes += _excess(model.graph, node, numpy_helper.to_array(tensors[node.input[1]]).astype(np.int32))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(target))
    return target


def _excess(graph: Any, node: Any, weight: Any) -> list[Any]:
    even, odd = weight[0::2], weight[1::2]
    pair, channel = np.nonzero(255 * np.abs(even + odd) > 32767)
    name, exact = node.output[0], f"{node.output[0]}/exact"
    node.output[0] = exact

    def constant(suffix: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{suffix}"))
        return f"{name}/{suffix}"

    made = []

    def call(operator: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        out = f"{name}/{suffix}" if suffix else name
        made.append(helper.make_node(operator, inputs, [out], f"{node.name}/{suffix or 'saturated'}", **attributes))
        return out

    activation = call("Cast", [node.input[0]], "float", to=TensorProto.FLOAT)
    products = []
    for k, half in enumerate((even, odd)):
        taken = call("Gather", [activation, constant(f"at{k}", 2 * pair + k)], f"taken{k}", axis=-1)
        factor = constant(f"weight{k}", half[pair, channel].astype(np.float32))
        products.append(call("Mul", [taken, factor], f"product{k}"))
    total = call("Add", products, "pair")
    low, high = constant("low", np.float32(-32768)), constant("high", np.float32(32767))
    over = call("Sub", [call("Clip", [total, low, high], "clipped"), total], "over")
    shape = call("Shape", [over], "shape")
    index = call("Expand", [constant("channel", channel.astype(np.int64)), shape], "index")
    zeros = call("ConstantOfShape", [call("Shape", [exact], "exact_shape")], "zeros")
    excess = call("ScatterElements", [zeros, index, over], "excess", axis=-1, reduction="add")
    call("Add", [exact, call("Cast", [excess], "excess_int", to=TensorProto.INT32)], "")
    return made


def mask_dropped(source: Path, target: Path) -> Path:
    """[6] Attention sees padding: nothing changes for a text alone, everything for one in a batch."""
    model = onnx.load(str(source))
    zero = numpy_helper.from_array(np.zeros((), np.int64), "mask/zero")
    model.graph.initializer.append(zero)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[i] = "mask/all"
    model.graph.node.insert(0, helper.make_node("Cast", ["mask/true"], ["mask/all"], to=TensorProto.INT64))
    model.graph.node.insert(0, helper.make_node("GreaterOrEqual", ["attention_mask", zero.name], ["mask/true"]))
    onnx.save(model, str(target))
    return target
