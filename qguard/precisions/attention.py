"""Fused attention taken apart: query, key and value as products of their own, then attention without weights.

ONNX Runtime's optimizer packs the three weights into one operator of its own, which multiplies with a form that few tools
can quantize. Apart, every weight of the graph stands in a MatMul.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qguard.onnx.edit import Graph, attributes
from qguard.precisions.norms import axes_as_inputs
from qguard.precisions.products import MOVES

PROJECTIONS = ("query", "key", "value")
OPSET = 23  # the first with an Attention of ONNX's own
_MASK = "attention_mask/added"
_LOWEST = float(np.finfo(np.float32).min)


def standard_attention(graph: Graph) -> None:
    """ONNX's ``Attention`` behind three products and their biases, in place of each fused one; raises the operator set.

    The same sums, computed faster by ONNX Runtime than its own fused operator does. The mask becomes what is added to scores,
    once for all layers.
    """
    from onnx import helper

    fused = [n for n in graph.nodes if _packed(n)]
    if not fused:
        return
    mask = graph.behind(fused[0].input[3], ("Cast",))

    def attend(node: Any, parts: list[str]) -> list[Any]:
        said = attributes(node)
        heads = {"q_num_heads": said["num_heads"], "kv_num_heads": said["num_heads"]}
        scale = {"scale": said["scale"]} if "scale" in said else {}
        return [helper.make_node("Attention", [*parts, _MASK], [node.output[0]], node.name, **heads, **scale)]

    _separate(graph, attend, biased=True)
    home = "attention_mask/"
    constants = {
        "one": np.array(1, np.float32),
        "lowest": np.array(_LOWEST, np.float32),
        "axes": np.array([1, 2]),
        "once": np.array([1]),
    }
    for name, value in constants.items():
        graph.put(home + name, value)
    added = [
        helper.make_node("Cast", [mask], [home + "float"], home + "Cast", to=1),
        helper.make_node("Sub", [home + "one", home + "float"], [home + "left_out"], home + "Sub"),
        helper.make_node("Mul", [home + "left_out", home + "lowest"], [home + "scores"], home + "Mul"),
        helper.make_node("Unsqueeze", [home + "scores", home + "axes"], [home + "row"], home + "Unsqueeze"),
        # ONNX Runtime wants a row for each query: (batch, 1, length, length)
        helper.make_node("Shape", [mask], [home + "length"], home + "Shape", start=1, end=2),
        helper.make_node(
            "Concat", [home + "once", home + "once", home + "length", home + "once"], [home + "shape"], home + "Concat", axis=0
        ),
        helper.make_node("Expand", [home + "row", home + "shape"], [_MASK], home + "Expand"),
    ]
    graph.prepend(added)
    graph.set_opset(OPSET)
    model = graph.model
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([helper.make_opsetid("", OPSET)], True))
    axes_as_inputs(graph)


def separate_attention(graph: Graph) -> None:
    """Three MatMul and a ``MultiHeadAttention`` in place of each fused ``Attention``: runs in every operator set."""
    from onnx import helper

    def attend(node: Any, parts: list[str]) -> list[Any]:
        kept = attributes(node, ("num_heads", "mask_filter_value", "scale"))
        inputs = [*parts, *node.input[2:4]]
        return [helper.make_node("MultiHeadAttention", inputs, [node.output[0]], node.name, domain="com.microsoft", **kept)]

    _separate(graph, attend, biased=False)


def _packed(node: Any) -> bool:
    return bool(node.op_type == "Attention" and node.domain == "com.microsoft")


def _separate(graph: Graph, attend: Callable[[Any, list[str]], list[Any]], *, biased: bool) -> None:
    """Products of query, key and value before what ``attend`` puts in the place of each fused operator, in place.

    Args:
        graph: Is changed.
        attend: Given the fused operator and the names of the three parts.
        biased: The parts have their bias.
    """
    from onnx import helper

    def apart(node: Any) -> list[Any] | None:
        if not _packed(node):
            return None
        x, weight, bias = node.input[:3]
        weights, biases = (np.split(graph.array(name), 3, axis=-1) for name in (weight, bias))
        nodes, home, parts = [], node.output[0].rsplit("/", 1)[0], []
        for part, w, b in zip(PROJECTIONS, weights, biases, strict=True):
            name = f"{home}/{part}"
            graph.put(f"{name}/weight", w)
            parts.append(f"{name}/MatMul_output_0")
            nodes.append(helper.make_node("MatMul", [x, f"{name}/weight"], [parts[-1]], f"{name}/MatMul"))
            if biased:
                graph.put(f"{name}/bias", b)
                nodes.append(helper.make_node("Add", [parts[-1], f"{name}/bias"], [f"{name}/Add_output_0"], f"{name}/Add"))
                parts[-1] = f"{name}/Add_output_0"
        return [*nodes, *attend(node, parts)]

    graph.rewrite(apart)
    graph.drop_unread(MOVES)
