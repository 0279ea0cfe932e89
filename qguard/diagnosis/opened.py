"""Fused operators taken apart, so that a query projection or an embedding table has an output of its own.

The same sums in the same element types; only the operator that holds them is split.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.onnx.edit import Graph, attribute, attributes
from qguard.precisions.attention import PROJECTIONS


def opened(graph: Graph) -> None:
    """Take the attention, embedding and bias operators of a graph apart, in place."""
    graph.rewrite(lambda node: _OPEN[node.op_type](graph, node) if node.op_type in _OPEN else None)
    graph.import_domain("com.microsoft")


def _home(node: Any) -> str:
    """``/network/encoder/layer.0/attention/self`` from an attention's output."""
    return str(node.output[0].rsplit("/", 1)[0] if "/" in node.output[0] else node.name or node.output[0])


def _call(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], f"{output}/opened", domain=domain, **attributes)


def _multi_head(graph: Graph, node: Any, parts: list[str], bias: str, mask: str) -> list[Any]:
    """Biases as additions of their own, then attention without weights."""
    home, nodes = _home(node), []
    for i, part in enumerate(PROJECTIONS):
        out = f"{home}/{part}/Add_output_0"
        if not bias:
            nodes.append(_call("Identity", [parts[i]], out))
            continue
        own = graph.put(f"{home}/{part}/opened_bias", np.split(graph.array(bias), 3)[i])
        nodes.append(_call("Add", [parts[i], own], out))
    known = ("num_heads", "mask_filter_value", "scale")
    kept = attributes(node, known)
    inputs = [f"{home}/{part}/Add_output_0" for part in PROJECTIONS] + ["", mask]
    return [*nodes, _call("MultiHeadAttention", inputs, node.output[0], "com.microsoft", **kept)]


def _attention(graph: Graph, node: Any) -> list[Any]:
    x, packed, bias, mask = [*node.input, "", ""][:4]
    if packed not in graph.initializers or any(node.input[4:]):
        return [node]
    home, nodes, parts = _home(node), [], []
    for part, weight in zip(PROJECTIONS, np.split(graph.array(packed), 3, axis=1), strict=True):
        parts.append(f"{home}/{part}/MatMul_output_0")
        nodes.append(_call("MatMul", [x, graph.put(f"{home}/{part}/opened_weight", weight)], parts[-1]))
    return nodes + _multi_head(graph, node, parts, bias, mask)


def _quantized_attention(graph: Graph, node: Any) -> list[Any]:
    x, weight, bias, x_scale, scale, mask, x_zero, zero = [*node.input, *[""] * 8][:8]
    if weight not in graph.initializers or any(node.input[8:]):
        return [node]
    home = _home(node)
    packed = f"{home}/opened_product"
    parts = [f"{home}/{part}/MatMul_output_0" for part in PROJECTIONS]
    width = graph.put(f"{home}/opened_widths", np.full(3, graph.initializers[weight].dims[1] // 3, np.int64))
    from onnx import helper

    product = _call("MatMulIntegerToFloat", [x, weight, x_scale, scale, x_zero, zero], packed, "com.microsoft")
    split = helper.make_node("Split", [packed, width], parts, f"{packed}/split", axis=-1)
    return [product, split, *_multi_head(graph, node, parts, bias, mask)]


def _with_bias(graph: Graph, node: Any) -> list[Any]:
    parts, bias, mask = list(node.input[:3]), *[*node.input, "", ""][3:5]
    if not all(parts) or any(node.input[5:]) or (bias and bias not in graph.initializers):
        return [node]
    return _multi_head(graph, node, parts, bias, mask)


def _gelu(graph: Graph, node: Any) -> list[Any]:
    x, bias = node.input[:2]
    out = f"{x.rsplit('/', 1)[0]}/Add_output_0" if "/" in x else f"{x}/biased"
    return [_call("Add", [x, bias], out), _call("Gelu", [out], node.output[0], "com.microsoft")]


def _embeddings(graph: Graph, node: Any) -> list[Any]:
    """``EmbedLayerNormalization`` and its quantized form: three look-ups, two additions, LayerNorm."""
    quantized = node.op_type.startswith("Q")
    ids, types, *tables = [*node.input, *[""] * 18][:18]
    tables, rest = tables[:5], tables[6:]
    out = node.output[0]
    positions_given = not quantized and any(node.input[8:])
    if not types or positions_given or not all(t in graph.initializers for t in tables):
        return [node]
    nodes = []

    def value(name: str, i: int, label: str) -> None:
        """The float of what was read from table ``i``."""
        if quantized:
            nodes.append(_call("DequantizeLinear", [name, rest[i], rest[5 + i]], label))
        else:
            nodes.append(_call("Identity", [name], label))

    zero = graph.put(f"{out}/zero", np.array([0], np.int64))
    from onnx import helper

    nodes += [
        _call("Gather", [tables[0], ids], f"{out}/words/read"),
        helper.make_node("Shape", [ids], [f"{out}/length"], f"{out}/length/opened", start=1, end=2),
        _call("Slice", [tables[1], zero, f"{out}/length", zero], f"{out}/positions/read"),
        _call("Gather", [tables[2], types], f"{out}/types/read"),
    ]
    for i, part in enumerate(("words", "positions", "types")):
        value(f"{out}/{part}/read", i, f"{out}/{part}")
    for i, part in ((3, "gamma"), (4, "beta")):
        value(tables[i], i, f"{out}/{part}")
    epsilon = attribute(node, "epsilon", 1e-12)
    nodes += [
        _call("Add", [f"{out}/words", f"{out}/positions"], f"{out}/placed"),
        _call("Add", [f"{out}/placed", f"{out}/types"], f"{out}/sum"),
        _call("LayerNormalization", [f"{out}/sum", f"{out}/gamma", f"{out}/beta"], out, axis=-1, epsilon=epsilon),
    ]
    return nodes


_OPEN = {
    "Attention": _attention,
    "QAttention": _quantized_attention,
    "MultiHeadAttention": _with_bias,
    "BiasGelu": _gelu,
    "EmbedLayerNormalization": _embeddings,
    "QEmbedLayerNormalization": _embeddings,
}
