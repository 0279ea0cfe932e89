"""Word embeddings in 8 bits: half of a small model's bytes are this one table."""

from __future__ import annotations

from typing import Any

from qguard.encoders.ports import role_of
from qguard.onnx.edit import Graph, attribute

BLOCK = 128  # values of a row that share a scale; one scale for the whole table loses several times as much
SMALLEST = 16  # the least that ONNX Runtime's kernel takes; it takes powers of two alone
AT_ONCE = 8192  # rows of a table that are quantized at once
_SAME_IDS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def quantize_embeddings(graph: Graph, block: int = BLOCK) -> None:
    """Replace the tables that token ids are looked up in by 8-bit blocks with a scale each, in place.

    Rows come from ONNX Runtime's ``GatherBlockQuantized``. A fused ``EmbedLayerNormalization`` is taken apart first. Tables of
    positions and token types stay in float: they are a hundredth of the size. So does a table that is no float32 matrix
    read by a plain ``Gather`` of the token ids; the proof of the file then names it.

    Args:
        graph: Is changed.
        block: Values that share a scale at the most, a power of two; a row is filled up to a whole number of blocks.
    """
    fused = [n for n in graph.nodes if n.op_type == "EmbedLayerNormalization"]
    for node in fused:
        graph.replace(node, _apart(graph, node))
    lookups = _word_lookups(graph)
    for node in lookups:
        graph.replace(node, lookup_in_8_bits(graph, node, block))
    if lookups:
        graph.import_domain("com.microsoft")
    graph.drop_tensors(n.input[0] for n in lookups)
    if fused:
        from qguard.precisions.norms import axes_as_inputs

        axes_as_inputs(graph)


def _apart(graph: Graph, embed: Any) -> list[Any]:
    """The fused embedding layer as three lookups, their sum, and the same LayerNorm as everywhere in the export."""
    import numpy as np
    from onnx import helper

    from qguard.precisions.norms import layer_norm

    ids, types, words, positions, kinds, gamma, beta = embed.input[:7]
    out = embed.output[0]
    graph.put(f"{out}/zero", np.array([0], np.int64))
    graph.put(f"{out}/one", np.array([1], np.int64))
    epsilon = attribute(embed, "epsilon", 1e-12)
    places = [f"{out}/words", f"{out}/positions"]
    typed = [helper.make_node("Add", places, [f"{out}/sum"], f"{embed.name}/Sum")]
    if types:  # DistilBERT has none
        typed = [
            helper.make_node("Gather", [kinds, types], [f"{out}/types"], f"{embed.name}/Types"),
            helper.make_node("Add", places, [f"{out}/placed"], f"{embed.name}/Place"),
            helper.make_node("Add", [f"{out}/placed", f"{out}/types"], [f"{out}/sum"], f"{embed.name}/Sum"),
        ]
    return [
        helper.make_node("Gather", [words, ids], [f"{out}/words"], f"{embed.name}/Words"),
        helper.make_node("Shape", [ids], [f"{out}/length"], f"{embed.name}/Length", start=1, end=2),
        helper.make_node(
            "Slice", [positions, f"{out}/zero", f"{out}/length", f"{out}/zero"], [f"{out}/positions"], f"{embed.name}/Positions"
        ),
        *typed,
        *layer_norm(f"{out}/sum", gamma, beta, out, epsilon, embed.name),
    ]  # fmt: skip


def _word_lookups(graph: Graph) -> list[Any]:
    """Every ``Gather`` of the rows that belong to the token ids, in a stored float32 matrix."""
    tables = {t.name for t in graph.initializers.values() if len(t.dims) == 2 and t.data_type == 1}
    inputs = {i.name for i in graph.model.graph.input if role_of(i.name) == "input_ids"}
    rows = (n for n in graph.nodes if n.op_type == "Gather" and n.input[0] in tables and not attribute(n, "axis", 0))
    return [n for n in rows if graph.behind(n.input[1], _SAME_IDS) in inputs]


def lookup_in_8_bits(graph: Graph, lookup: Any, block: int) -> list[Any]:
    """The nodes that give what ``lookup`` gives, from 8-bit tables that are stored beside the others."""
    import numpy as np
    from onnx import helper

    words, ids = lookup.input
    out, name = lookup.output[0], lookup.name or lookup.output[0]
    table = graph.array(words)
    count, width = table.shape
    filled = -(-width // SMALLEST) * SMALLEST
    while filled % block:
        block //= 2
    if f"{words}_quantized" not in graph.initializers:
        data, scale = np.empty((count, filled), np.uint8), np.empty((count, filled // block), np.float32)
        for start in range(0, count, AT_ONCE):
            part = table[start : start + AT_ONCE]
            rows, at = np.pad(part, ((0, 0), (0, filled - width))).reshape(len(part), -1, block), slice(start, start + len(part))
            scale[at] = np.maximum(np.abs(rows).max(2) / 127, 1e-12)
            data[at] = (np.rint(rows / scale[at, :, None]) + 128).clip(0, 255).astype(np.uint8).reshape(len(part), filled)
        graph.put(f"{words}_quantized", data)
        graph.put(f"{words}_scale", scale)
    whole = f"{out}/filled" if filled > width else out
    nodes = [
        helper.make_node(
            "GatherBlockQuantized", [f"{words}_quantized", ids, f"{words}_scale"], [whole], name,
            domain="com.microsoft", bits=8, block_size=block, gather_axis=0, quantize_axis=1,
        )
    ]  # fmt: skip
    if filled > width:
        ends = [graph.put(f"{out}/{k}", np.array([v], np.int64)) for k, v in (("from", 0), ("to", width), ("axis", -1))]
        nodes.append(helper.make_node("Slice", [whole, *ends], [out], f"{name}/Cut"))
    return nodes


def standard_lookups(graph: Graph) -> bool:
    """Replace every ``GatherBlockQuantized`` of 8 bits by ONNX's own operators that give the same values, in place.

    onnxruntime-web has no such operator on WebAssembly.

    Returns:
        Whether there was one.
    """
    blocks = [n for n in graph.nodes if n.op_type == "GatherBlockQuantized" and attribute(n, "bits", 4) == 8]
    for node in blocks:
        graph.replace(node, _in_standard_operators(graph, node))
    graph.drop_tensors(n.input[0] for n in blocks)
    return bool(blocks)


def _in_standard_operators(graph: Graph, node: Any) -> list[Any]:
    """Rows of signed integers, and of scales by the same ids; each block of a row times its scale."""
    import numpy as np
    from onnx import TensorProto, helper

    words, ids, scales = node.input
    out, name, block = node.output[0], node.name, attribute(node, "block_size", BLOCK)
    signed, count = f"{words}/signed", graph.initializers[scales].dims[1]
    if signed not in graph.initializers:
        graph.put(signed, (graph.array(words).astype(np.int16) - 128).astype(np.int8))
    shapes = {"blocks": [0, 0, count, block], "one": [0, 0, count, 1], "row": [0, 0, count * block]}
    shape = {key: graph.put(f"{out}/{key}", np.array(value, np.int64)) for key, value in shapes.items()}
    return [
        helper.make_node("Gather", [signed, ids], [f"{out}/stored"], name, axis=0),
        helper.make_node("Cast", [f"{out}/stored"], [f"{out}/float"], f"{name}/Float", to=TensorProto.FLOAT),
        helper.make_node("Reshape", [f"{out}/float", shape["blocks"]], [f"{out}/split"], f"{name}/Blocks"),
        helper.make_node("Gather", [scales, ids], [f"{out}/scales"], f"{name}/Scales", axis=0),
        helper.make_node("Reshape", [f"{out}/scales", shape["one"]], [f"{out}/factors"], f"{name}/Factors"),
        helper.make_node("Mul", [f"{out}/split", f"{out}/factors"], [f"{out}/scaled"], f"{name}/Scale"),
        helper.make_node("Reshape", [f"{out}/scaled", shape["row"]], [out], f"{name}/Row"),
    ]
