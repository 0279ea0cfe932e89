"""fp32, bf16 and int8 in OpenVINO: the plain export, its weights rewritten in ONNX, and how OpenVINO is to compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qguard.encoders.openvino import GROUP, PRECISION, PROPERTIES_FILE, import_openvino
from qguard.files import dump_json
from qguard.models import Model
from qguard.precisions import parse_precision
from qguard.precisions.export import check, export_plain, onnx_file


def fp32(model: Model, folder: Path) -> None:
    """The plain export: OpenVINO fuses standard operators better than those that ONNX Runtime's optimiser writes."""
    import_openvino()
    export_plain(model.root, onnx_file(model, folder))
    _declare(model, folder, "f32", 0)
    check(model, folder, "openvino")


def bf16(model: Model, folder: Path) -> None:
    """Weight matrices stored and everything computed in bfloat16."""
    _rewrite(model, folder, _bfloat16)
    _declare(model, folder, "bf16", 0)


def int8(model: Model, folder: Path) -> None:
    """Weight matrices in 8 bits, one scale an output channel; activations quantized as they come, one scale a group.

    A group is a run of neighbouring values of one token's vector, so that no text changes another's vector.
    """
    _rewrite(model, folder, _int8)
    _declare(model, folder, "f32", 64)


def _declare(model: Model, folder: Path, precision: str, group: int) -> None:
    """Write the properties down: OpenVINO's own defaults differ by CPU (bf16 where it has it)."""
    properties = {PRECISION: precision, GROUP: group}
    onnx_file(model, folder).with_name(PROPERTIES_FILE).write_bytes(dump_json(properties))


def _rewrite(model: Model, folder: Path, encode: Callable[[str, Any, int], Iterator[Any]]) -> None:
    """Replace every weight matrix and embedding table of the fp32 file by what ``encode`` makes of it.

    Args:
        model: The fp32 model.
        folder: The artifact folder to fill.
        encode: (name of the float32 value, array, axis of the output channels) → its initializers and one node.
    """
    import onnx
    from onnx import numpy_helper

    source = parse_precision("fp32@openvino").build(model)
    assert source.file is not None
    whole = onnx.load(str(source.file))
    graph = whole.graph
    tables = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2}
    made: dict[str, Any] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            axis = _channel_axis(node, i)
            if axis is None or name not in tables:
                continue
            value = f"{name}/{axis}"
            if value not in made:
                made[value] = list(encode(value, numpy_helper.to_array(tables[name]), axis))
            node.input[i] = value
    read = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in read]
    nodes = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *(t for parts in made.values() for t in parts[:-1])])
    graph.node.extend([*(parts[-1] for parts in made.values()), *nodes])
    onnx.save(whole, str(onnx_file(model, folder)))


def _channel_axis(node: Any, i: int) -> int | None:
    """The axis of a 2-D weight along which output channels (rows of an embedding table) lie; ``None`` for other inputs."""
    if node.op_type == "Gather" and i == 0:
        return 0
    if node.op_type == "MatMul" and i == 1:
        return 1
    if node.op_type == "Gemm" and i == 1:
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return None


def _bfloat16(value: str, weight: Any, axis: int) -> Iterator[Any]:
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    yield numpy_helper.from_array(weight.astype(ml_dtypes.bfloat16), f"{value}/bf16")  # rounds to nearest, ties to even
    yield helper.make_node("Cast", [f"{value}/bf16"], [value], f"{value}/Cast", to=TensorProto.FLOAT)


def _int8(value: str, weight: Any, axis: int) -> Iterator[Any]:
    """Symmetric: the largest weight of a channel becomes ±127."""
    import numpy as np
    from onnx import helper, numpy_helper

    largest = np.abs(weight).max(1 - axis, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    yield numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{value}/int8")
    yield numpy_helper.from_array(scale.reshape(-1), f"{value}/scale")
    inputs = [f"{value}/int8", f"{value}/scale"]
    yield helper.make_node("DequantizeLinear", inputs, [value], f"{value}/Dequantize", axis=axis)
