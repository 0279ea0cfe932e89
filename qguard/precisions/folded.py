"""Products of stored tensors alone are stored themselves: such as those of DeBERTa's relative positions with a layer's weights.

No text changes them. ONNX Runtime computes such a product once in float, when it loads a file, but an integer one on every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qguard.onnx.edit import Graph
from qguard.onnx.read import reads


def reached(graph: Graph) -> set[str]:
    """The tensors that depend on an input of the graph."""
    found = {i.name for i in graph.model.graph.input} - set(graph.initializers)
    for node in graph.nodes:  # in the order in which they run
        if not found.isdisjoint(reads(node)):
            found.update(node.output)
    return found


def store(graph: Graph, values: Mapping[str, Any]) -> None:
    """Store tensors (…, channels) in 8 bits with a scale for each channel, in place of the nodes that make them."""
    from onnx import TensorProto, helper

    by = dict[str, list[Any]]()
    for name, value in values.items():
        scale = np.maximum(np.abs(value).max(axis=tuple(range(value.ndim - 1))) / 127, np.float32(1e-12))
        stored = graph.put(f"{name}/stored", np.rint(value / scale).astype(np.int8))
        # not DequantizeLinear, which ONNX Runtime computes on every call
        by[name] = [
            helper.make_node("Cast", [stored], [f"{name}/float"], f"{name}/Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/float", graph.put(f"{name}/scale", scale)], [name], f"{name}/Scale"),
        ]
    graph.rewrite_by_output(by)
    graph.drop_unread()
