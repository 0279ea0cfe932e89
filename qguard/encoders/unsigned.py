"""Signed 8-bit weights as unsigned ones: the same sums, without saturation on x86 without VNNI.

ONNX Runtime does this itself where the session option of :data:`qguard.encoders.onnx.EXACT` is set, but only together with its
extended optimizations, which fuse away what an opened graph is to give.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.graph import read_names

# operator → inputs: weight, its zero point
_PRODUCTS = {
    "MatMulInteger": (1, 3),
    "DynamicQuantizeMatMul": (1, 3),
    "MatMulIntegerToFloat": (1, 5),
    "QAttention": (1, 7),
    "QLinearMatMul": (3, 5),
    "QGemm": (3, 5),
}


def unsigned_weights(model: Any) -> None:
    """Add 128 to the signed weights of integer products and to their zero points, in place; the sums stay the same.

    Args:
        model: An ``onnx.ModelProto`` with its weights in it.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    stored = {t.name: t for t in graph.initializer}
    added: dict[str, str] = {}

    def moved(name: str) -> str:
        if name not in added:
            value = numpy_helper.to_array(stored[name]) if name else np.int8(0)
            added[name] = f"{name}/unsigned"
            graph.initializer.append(numpy_helper.from_array((np.int16(128) + value).astype(np.uint8), added[name]))
        return added[name]

    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        weight, zero = _PRODUCTS[node.op_type]
        tensor = stored.get(node.input[weight])
        if tensor is None or tensor.data_type != TensorProto.INT8:
            continue
        node.input.extend([""] * (zero + 1 - len(node.input)))
        if node.input[zero] and node.input[zero] not in stored:
            continue  # computed: not ours to change
        node.input[weight], node.input[zero] = moved(node.input[weight]), moved(node.input[zero])
    read = read_names(graph)
    for name in set(added) - read - {""}:
        graph.initializer.remove(stored[name])
