"""LayerNorm in the form that ONNX Runtime computes fastest."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.onnx.edit import Graph, attribute


def rms_layer_norm(graph: Graph) -> None:
    """Write LayerNorm(x) as RMSNorm(x - mean(x)), which is the same formula.

    ONNX Runtime's LayerNormalization kernels take several times as long as its RMS kernel and a subtraction together
    (benchmarks/layer_norm.py), which is a tenth of an int8 model's time.
    """
    from onnx import helper

    def plain(node: Any) -> list[Any] | None:
        if node.op_type != "SkipLayerNormalization" or len(node.output) > 1:
            return None
        nodes = []
        add, skip, gamma, beta, *bias = node.input
        epsilon, out = attribute(node, "epsilon", 1e-12), node.output[0]
        if bias:
            nodes.append(helper.make_node("Add", [skip, bias[0]], [f"{out}/biased"], f"{node.name}/Bias"))
            skip = f"{out}/biased"
        nodes.append(helper.make_node("Add", [add, skip], [f"{out}/sum"], f"{node.name}/Skip"))
        return [*nodes, *layer_norm(f"{out}/sum", gamma, beta, out, epsilon, node.name)]

    graph.rewrite(plain)


def layer_norm(x: str, gamma: str, beta: str, out: str, epsilon: float, name: str) -> list[Any]:
    """LayerNorm of ``x`` over its last axis as nodes; see :func:`rms_layer_norm`. ``beta`` is empty where nothing is added."""
    from onnx import helper

    normed = f"{out}/normed" if beta else out
    nodes = [
        helper.make_node("ReduceMean", [x], [f"{out}/mean"], f"{name}/Mean", axes=[-1]),
        helper.make_node("Sub", [x, f"{out}/mean"], [f"{out}/centred"], f"{name}/Centre"),
        helper.make_node(
            "SimplifiedLayerNormalization", [f"{out}/centred", gamma], [normed], f"{name}/RMS", epsilon=epsilon, axis=-1
        ),
    ]
    return [*nodes, helper.make_node("Add", [normed, beta], [out], f"{name}/Beta")] if beta else nodes


def axes_as_inputs(graph: Graph) -> None:
    """Write the axes of reductions as operator sets from 18 on want them, in place; nothing to do below."""
    if graph.opset < 18:
        return
    for node in graph.nodes:
        found = [a for a in node.attribute if node.op_type.startswith("Reduce") and a.name == "axes"]
        for axes in found:
            name = graph.put("axes/" + "_".join(map(str, axes.ints)), np.array(axes.ints, np.int64))
            node.attribute.remove(axes)
            graph.set_input(node, len(node.input), name)
