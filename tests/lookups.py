"""Small ONNX files that look the rows of a table up, stored in each of the forms that quantizers write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

BLOCK = 16
# what is stored, by name, and the nodes that give "out"
Form = tuple[dict[str, Any], list[Any]]


def _node(kind: str, inputs: str, out: str = "out", domain: str = "", **more: Any) -> Any:
    names = ["" if i == "-" else i for i in inputs.split()]
    return helper.make_node(kind, names, [out], out, domain=domain, **more)


def _cast(table: Any, kind: Any) -> Form:
    return {"table": table.astype(kind)}, [_node("Gather", "table ids", "rows"), _node("Cast", "rows", to=TensorProto.FLOAT)]


def _one(table: Any) -> dict[str, Any]:
    """One scale and zero point."""
    scale = np.float32((table.max() - table.min()) / 255)
    zero = np.uint8(round(-float(table.min()) / scale))
    return {"table": np.clip(np.rint(table / scale) + zero, 0, 255).astype(np.uint8), "scale": scale, "zero": zero}


def _many(table: Any, axis: int) -> dict[str, Any]:
    """One scale a row or a column."""
    scale = np.maximum(np.abs(table).max(axis, keepdims=True) / 127, 1e-12).astype(np.float32)
    return {"table": np.rint(table / scale).astype(np.int8), "scale": scale}


def _flat(stored: dict[str, Any], axis: int) -> Form:
    nodes = [_node("DequantizeLinear", "table scale", "whole", axis=axis), _node("Gather", "whole ids")]
    return stored | {"scale": stored["scale"].reshape(-1)}, nodes


def _blocks(table: Any, bits: int, *, native: bool = False) -> Form:
    most = 2 ** (bits - 1) - 1
    runs = table.reshape(len(table), -1, BLOCK)
    scale = np.maximum(np.abs(runs).max(2) / most, 1e-12).astype(np.float32)
    q = (np.rint(runs / scale[..., None]) + most + 1).astype(np.uint8).reshape(table.shape)
    more = {"block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1} | ({} if native else {"bits": bits})
    stored = {"table": q if bits == 8 else q[:, 0::2] | q[:, 1::2] << 4, "scale": scale}
    if native:
        stored = {
            "table": q.astype(ml_dtypes.uint4),
            "scale": scale,
            "zero": np.full(scale.shape, most + 1).astype(ml_dtypes.uint4),
        }
    return stored, [_node("GatherBlockQuantized", "table ids scale" + " zero" * native, domain="com.microsoft", **more)]


def _standard(table: Any) -> Form:
    """Blocks in ONNX's own operators: rows of scales are looked up as well."""
    stored, _ = _blocks(table, 8)
    count = stored["scale"].shape[1]
    shapes = {"split": [0, 0, count, BLOCK], "one": [0, 0, count, 1], "whole": [0, 0, count * BLOCK]}
    stored |= {"table": (stored["table"].astype(int) - 128).astype(np.int8)} | {k: np.array(v) for k, v in shapes.items()}
    return stored, [
        _node("Gather", "table ids", "rows"),
        _node("Cast", "rows", "floats", to=TensorProto.FLOAT),
        _node("Reshape", "floats split", "blocks"),
        _node("Gather", "scale ids", "scales"),
        _node("Reshape", "scales one", "factors"),
        _node("Mul", "blocks factors", "scaled"),
        _node("Reshape", "scaled whole"),
    ]


def _embed(table: Any) -> Form:
    one = _one(table)
    stored = one | {"other": one["table"][:8], "vector": np.zeros(table.shape[1], np.uint8)}
    inputs = "ids - table other - vector vector -" + " scale" * 5 + " zero" * 5
    return stored, [_node("QEmbedLayerNormalization", inputs, domain="com.microsoft", epsilon=1e-12)]


FORMS = {
    "float": lambda t: ({"table": t}, [_node("Gather", "table ids")]),
    "fp16": lambda t: _cast(t, np.float16),
    "bf16": lambda t: _cast(t, ml_dtypes.bfloat16),
    "before": lambda t: (_one(t), [_node("DequantizeLinear", "table scale zero", "whole"), _node("Gather", "whole ids")]),
    "behind": lambda t: (_one(t), [_node("Gather", "table ids", "rows"), _node("DequantizeLinear", "rows scale zero")]),
    "rows": lambda t: _flat(_many(t, 1), 0),
    "columns": lambda t: _flat(_many(t, 0), 1),
    "looked up": lambda t: (
        _many(t, 1),
        [
            _node("Gather", "table ids", "rows"),
            _node("Gather", "scale ids", "scales"),
            _node("Cast", "rows", "floats", to=TensorProto.FLOAT),
            _node("Mul", "floats scales"),
        ],
    ),
    "8-bit blocks": lambda t: _blocks(t, 8),
    "8-bit blocks in standard operators": _standard,
    "4-bit blocks": lambda t: _blocks(t, 4),
    "4-bit blocks of uint4": lambda t: _blocks(t, 4, native=True),
    "QEmbedLayerNormalization": _embed,
}


def write(form: str, table: Any, file: Path) -> Path:
    """A file of one of :data:`FORMS` over a table (rows, width) of float32; its input is named ``ids``."""
    stored, nodes = FORMS[form](table)
    graph = helper.make_graph(
        nodes, "lookup", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file
