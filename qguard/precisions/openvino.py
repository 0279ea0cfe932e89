"""fp32, bf16 and int8 in OpenVINO: the plain export, its weights rewritten in ONNX, and how OpenVINO is to compute them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.encoders.openvino import PROPERTIES, PROPERTIES_FILE, STATIC, import_openvino
from qguard.files import dump_json
from qguard.models.model import Model
from qguard.onnx.edit import Graph, attribute, copy
from qguard.precisions.export import check, export_plain, onnx_file
from qguard.precisions.gptq import compensated
from qguard.precisions.integer import Observer, rewrite, standard, token_ids
from qguard.precisions.norms import axes_as_inputs
from qguard.precisions.products import MOVES
from qguard.precisions.tuning import Tuning

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact
    from qguard.precisions.calibration import Sample

Encode = Callable[[Graph, str, Any, Any], list[Any]]

BLOCK = 64  # values of an embedding that share a scale; for 1 % of the size the worst text rises from .9953 to .9960


def fp32(model: Model, folder: Path) -> None:
    """The plain export: OpenVINO fuses standard operators better than those that ONNX Runtime's optimizer writes."""
    import_openvino()
    if model.onnx is None:
        export_plain(model.root, onnx_file(model, folder), model.kind)
    else:
        copy(model.onnx, onnx_file(model, folder))
    declare(model, folder, "fp32")
    if model.onnx is None:
        check(model, folder, "openvino")


def bf16(model: Model, folder: Path, source: Artifact, sample: Sample) -> None:
    """Weight matrices stored and everything computed in bfloat16."""
    _rewrite(model, folder, source, sample, _bfloat16)
    declare(model, folder, "bf16")


def int8(model: Model, folder: Path, source: Artifact, sample: Sample) -> None:
    """Weight matrices in 8 bits, one scale an output channel; activations quantized as they come, one scale a group.

    A group is a run of neighboring values of one token's vector, so that no text changes another's vector.
    """
    _rewrite(model, folder, source, sample, _uint8)
    declare(model, folder, "int8")


def static(model: Model, folder: Path, source: Artifact, sample: Sample, tuning: Tuning | None = None) -> None:
    """``int8`` of ONNX Runtime in ONNX's own operators: 8-bit weights, activations of fixed ranges, the rest in bfloat16.

    Processors without VNNI add products of unsigned and signed 8 bits in 16 bits, which may overflow: ``artifact.saturation``
    says how many channels could, and the gate there what comes of it.
    """
    assert source.file is not None
    graph = Graph.read(source.file)
    rewrite(graph, model, source, sample, standard, tuning)
    made, known = list[Any](), set[str]()
    for node in graph.nodes:
        name = node.input[0] if node.op_type == "Gather" else ""
        table = graph.initializers.get(name)
        if table is None or len(table.dims) != 2 or table.data_type != 1:
            continue
        if name not in known:
            known.add(name)
            made += quantized_table(graph, f"{name}/rows", graph.array(name))
        graph.set_input(node, 0, f"{name}/rows")
    graph.prepend(made)
    axes_as_inputs(graph)
    graph.drop_unread(MOVES)
    graph.save(onnx_file(model, folder))
    declare(model, folder, STATIC)


def declare(model: Model, folder: Path, precision: str) -> None:
    """Write the properties down: OpenVINO's own defaults differ by CPU (bf16 where it has it)."""
    onnx_file(model, folder).with_name(PROPERTIES_FILE).write_bytes(dump_json(PROPERTIES[precision]))


def _rewrite(model: Model, folder: Path, source: Artifact, sample: Sample, encode: Encode) -> None:
    """Replace every weight matrix and embedding table of the fp32 file by what ``encode`` makes of it.

    Weights of multiplications are rounded by GPTQ: a tenth fewer neighbors change than by rounding to nearest.

    Args:
        model: The fp32 model.
        folder: The artifact folder to fill.
        source: fp32.
        sample: Texts whose activations say which errors of rounding make up for others.
        encode: (graph, name of the float32 value, array with output channels or rows first, mean of the outer products of what it
            multiplies, ``None`` for an embedding table) → nodes that make the value, whose tensors it has stored in the graph.
    """
    import numpy as np
    from onnx import TensorProto, helper

    assert source.file is not None
    graph = Graph.read(source.file)
    tables = {t.name for t in graph.initializers.values() if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    # what is stored anew, by its name: the stored matrix, whether it is transposed, and what it multiplies
    found = dict[str, tuple[str, bool, str]]()
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            transposed = _transposed(node, i)
            if transposed is None or name not in tables:
                continue
            rows = f"{name}/{'columns' if transposed else 'rows'}"
            found.setdefault(rows, (name, transposed, "" if node.op_type == "Gather" else node.input[0]))
            graph.set_input(node, i, f"{rows}/T" if transposed else rows)
    products = [(name, transposed, x) for name, transposed, x in found.values() if x]
    seen = Observer(source.file, (x for _, _, x in products), token_ids(model, sample), source.feeding).in_groups(
        ([x], int(graph.initializers[name].dims[0 if transposed else 1])) for name, transposed, x in products
    )
    made = list[Any]()
    for rows, (name, transposed, x) in found.items():
        hessian = next(seen)[x].hessian() if x else None
        array = graph.array(name)
        made += encode(graph, rows, np.ascontiguousarray(array.T if transposed else array), hessian)
        if transposed:  # OpenVINO joins it with the multiplication, and reads the weight as it computes with it
            made.append(helper.make_node("Transpose", [rows], [f"{rows}/T"], f"{rows}/Transpose", perm=[1, 0]))
    graph.prepend(made)
    graph.drop_tensors(list(graph.initializers))
    graph.save(onnx_file(model, folder))


def _transposed(node: Any, i: int) -> bool | None:
    """Whether output channels are the columns of this 2-D input (rows, for an embedding table); ``None`` if it is no weight."""
    if node.op_type == "Gather" and i == 0:
        return False
    if node.op_type == "MatMul" and i == 1:
        return True
    if node.op_type == "Gemm" and i == 1:
        return not attribute(node, "transB", 0)
    return None


def quantized_table(graph: Graph, value: str, table: Any) -> list[Any]:
    """The nodes that give an embedding table (rows, dim) under the name ``value``, from 8 bits that are stored in the graph."""
    return _uint8(graph, value, table, None)


def _bfloat16(graph: Graph, value: str, weight: Any, hessian: Any) -> list[Any]:
    """Rounded to nearest, ties to even, or by GPTQ."""
    import ml_dtypes
    import numpy as np
    from onnx import TensorProto, helper

    if hessian is not None:
        weight = compensated(weight.T, hessian, lambda row: row.astype(ml_dtypes.bfloat16).astype(np.float64)).T
    stored = graph.put(f"{value}/bf16", np.asarray(weight, ml_dtypes.bfloat16))
    return [helper.make_node("Cast", [stored], [value], f"{value}/Cast", to=TensorProto.FLOAT)]


def _uint8(graph: Graph, value: str, weight: Any, hessian: Any) -> list[Any]:
    """Each row from its smallest to its largest weight in 256 steps, zero being one; rows of a table in blocks of :data:`BLOCK`.

    Signed and symmetric weights waste part of the range: the embeddings' mean error is 30 to 60 % larger.
    """
    import numpy as np
    from onnx import helper

    shape, blocks = weight.shape, hessian is None and weight.shape[1] % BLOCK == 0
    if blocks:
        weight = weight.reshape(-1, BLOCK)
    low, high = np.minimum(weight.min(1, keepdims=True), 0), np.maximum(weight.max(1, keepdims=True), 0)
    scale = np.where(high > low, (high - low) / np.float32(255), np.float32(1))
    zero = np.rint(-low / scale)
    if hessian is not None:
        step, base = scale[:, 0], zero[:, 0]
        weight = compensated(weight.T, hessian, lambda row: (np.clip(np.rint(row / step) + base, 0, 255) - base) * step).T
    quantized = np.clip(np.rint(weight / scale) + zero, 0, 255).astype(np.uint8)
    inputs = [f"{value}/uint8", f"{value}/scale", f"{value}/zero_point"]
    for name, array in zip(inputs, (quantized, scale.reshape(-1), zero.reshape(-1).astype(np.uint8)), strict=True):
        graph.put(name, array)
    out = f"{value}/blocks" if blocks else value
    nodes = [helper.make_node("DequantizeLinear", inputs, [out], f"{value}/Dequantize", axis=0)]
    if blocks:
        form = graph.put(f"{value}/shape", np.asarray(shape, np.int64))
        nodes.append(helper.make_node("Reshape", [out, form], [value], f"{value}/Reshape"))
    return nodes
