"""Fused attention taken apart: query, key and value as products of their own, then attention without weights.

ONNX Runtime's optimiser packs the three weights into one operator of its own, which multiplies with a form that few tools
can quantize. Apart, every weight of the graph stands in a MatMul.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qguard.precisions.products import drop_unread

PROJECTIONS = ("query", "key", "value")
OPSET = 23  # the first with an Attention of ONNX's own
_MASK = "attention_mask/added"
_LOWEST = float(np.finfo(np.float32).min)


def standard_attention(model: Any) -> None:
    """ONNX's ``Attention`` behind three products and their biases, in place of each fused one; raises the operator set.

    The same sums, computed faster by ONNX Runtime than its own fused operator does. The mask becomes what is added to scores,
    once for all layers.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    fused = [n for n in graph.node if _packed(n)]
    if not fused:
        return
    mask = _origin(graph, fused[0].input[3])

    def attend(node: Any, parts: list[str]) -> list[Any]:
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
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
    graph.initializer.extend([numpy_helper.from_array(value, home + name) for name, value in constants.items()])
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
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*added, *rest])
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OPSET
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([helper.make_opsetid("", OPSET)], True))
    axes_as_inputs(model)


def axes_as_inputs(model: Any) -> None:
    """Write the axes of ReduceMean as operator sets from 18 on want them, in place; nothing to do below."""
    from onnx import numpy_helper

    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 18:
        return
    stored = {t.name for t in model.graph.initializer}
    for node in model.graph.node:
        found = [a for a in node.attribute if node.op_type == "ReduceMean" and a.name == "axes"]
        for attribute in found:
            name = "axes/" + "_".join(map(str, attribute.ints))
            if name not in stored:
                model.graph.initializer.append(numpy_helper.from_array(np.array(attribute.ints, np.int64), name))
                stored.add(name)
            node.attribute.remove(attribute)
            node.input.append(name)


def separate_attention(graph: Any) -> None:
    """Three MatMul and a ``MultiHeadAttention`` in place of each fused ``Attention``: runs in every operator set."""
    from onnx import helper

    def attend(node: Any, parts: list[str]) -> list[Any]:
        kept = {
            a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in ("num_heads", "mask_filter_value", "scale")
        }
        inputs = [*parts, *node.input[2:4]]
        return [helper.make_node("MultiHeadAttention", inputs, [node.output[0]], node.name, domain="com.microsoft", **kept)]

    _separate(graph, attend, biased=False)


def _packed(node: Any) -> bool:
    return bool(node.op_type == "Attention" and node.domain == "com.microsoft")


def _separate(graph: Any, attend: Callable[[Any, list[str]], list[Any]], *, biased: bool) -> None:
    """Products of query, key and value before what ``attend`` puts in the place of each fused operator, in place.

    Args:
        graph: ``onnx.GraphProto``.
        attend: Given the fused operator and the names of the three parts.
        biased: The parts have their bias.
    """
    from onnx import helper, numpy_helper

    tables = {t.name: t for t in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if not _packed(node):
            nodes.append(node)
            continue
        x, weight, bias = node.input[:3]
        weights, biases = (np.split(numpy_helper.to_array(tables[name]), 3, axis=-1) for name in (weight, bias))
        home, parts = node.output[0].rsplit("/", 1)[0], []
        for part, w, b in zip(PROJECTIONS, weights, biases, strict=True):
            name = f"{home}/{part}"
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(w), f"{name}/weight"))
            parts.append(f"{name}/MatMul_output_0")
            nodes.append(helper.make_node("MatMul", [x, f"{name}/weight"], [parts[-1]], f"{name}/MatMul"))
            if biased:
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(b), f"{name}/bias"))
                nodes.append(helper.make_node("Add", [parts[-1], f"{name}/bias"], [f"{name}/Add_output_0"], f"{name}/Add"))
                parts[-1] = f"{name}/Add_output_0"
        nodes += attend(node, parts)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)


def _origin(graph: Any, name: str) -> str:
    """The graph's input behind casts."""
    made = {n.output[0]: n for n in graph.node if n.op_type == "Cast"}
    while name in made:
        name = made[name].input[0]
    return name
