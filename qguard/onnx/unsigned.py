"""Signed 8-bit weights as unsigned ones: the same sums, without saturation on x86 without VNNI.

ONNX Runtime does this itself where the session option of :data:`qguard.encoders.onnx.EXACT` is set, but only together with its
extended optimizations, which fuse away what an opened graph is to give.
"""

from __future__ import annotations

import numpy as np

from qguard.onnx.edit import INTEGER, Graph


def unsigned_weights(graph: Graph) -> None:
    """Add 128 to the signed weights of integer products and to their zero points, in place; the sums stay the same.

    Args:
        graph: Of a model with its weights in it.
    """
    from onnx import TensorProto

    added: dict[str, str] = {}

    def moved(name: str) -> str:
        if name not in added:
            value = graph.array(name) if name else np.int8(0)
            added[name] = graph.put(f"{name}/unsigned", (np.int16(128) + value).astype(np.uint8))
        return added[name]

    for node in graph.nodes:
        if node.op_type not in INTEGER:
            continue
        weight, zero = INTEGER[node.op_type].weight, INTEGER[node.op_type].zero
        tensor = graph.initializers.get(node.input[weight])
        if tensor is None or tensor.data_type != TensorProto.INT8:
            continue
        point = node.input[zero] if zero < len(node.input) else ""
        if point and point not in graph.initializers:
            continue  # computed: not ours to change
        graph.set_input(node, weight, moved(node.input[weight]))
        graph.set_input(node, zero, moved(point))
    graph.drop_tensors(added)
