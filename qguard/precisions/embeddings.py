"""Word embeddings in 8 bits: half of a small model's bytes are this one table."""

from __future__ import annotations

from typing import Any

BLOCK = 128  # values of a row that share a scale; one scale for the whole table loses several times as much


def quantize_embeddings(model: Any, block: int = BLOCK) -> None:
    """Replace the fused embedding layer's word table by 8-bit blocks with a scale each, in place.

    ``EmbedLayerNormalization`` is taken apart: word rows through ONNX Runtime's ``GatherBlockQuantized``, positions and
    types as float tables (a hundredth of the size), then the same LayerNorm as everywhere in the export.

    Args:
        model: An ``onnx.ModelProto`` of :mod:`qguard.precisions.export`.
        block: Values that share a scale; divides the hidden size.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    from qguard.precisions.attention import axes_as_inputs
    from qguard.precisions.export import layer_norm

    graph = model.graph
    embed = next(n for n in graph.node if n.op_type == "EmbedLayerNormalization")
    ids, types, words, positions, kinds, gamma, beta = embed.input[:7]
    tables = {t.name: t for t in graph.initializer}
    table = numpy_helper.to_array(tables[words])
    while table.shape[1] % block:
        block //= 2
    rows = table.reshape(len(table), -1, block)
    scale = np.maximum(np.abs(rows).max(2) / 127, 1e-12).astype(np.float32)
    data = (np.rint(rows / scale[..., None]) + 128).clip(0, 255).astype(np.uint8).reshape(table.shape)
    graph.initializer.remove(tables[words])
    out = embed.output[0]
    graph.initializer.extend([
        numpy_helper.from_array(data, f"{words}_quantized"),
        numpy_helper.from_array(scale, f"{words}_scale"),
        numpy_helper.from_array(np.array([0], np.int64), f"{out}/zero"),
        numpy_helper.from_array(np.array([1], np.int64), f"{out}/one"),
    ])  # fmt: skip
    epsilon = next((a.f for a in embed.attribute if a.name == "epsilon"), 1e-12)
    nodes = [
        helper.make_node(
            "GatherBlockQuantized", [f"{words}_quantized", ids, f"{words}_scale"], [f"{out}/words"], f"{embed.name}/Words",
            domain="com.microsoft", bits=8, block_size=block, gather_axis=0, quantize_axis=1,
        ),
        helper.make_node("Shape", [ids], [f"{out}/length"], f"{embed.name}/Length", start=1, end=2),
        helper.make_node(
            "Slice", [positions, f"{out}/zero", f"{out}/length", f"{out}/zero"], [f"{out}/positions"], f"{embed.name}/Positions"
        ),
        helper.make_node("Gather", [kinds, types], [f"{out}/types"], f"{embed.name}/Types"),
        helper.make_node("Add", [f"{out}/words", f"{out}/positions"], [f"{out}/placed"], f"{embed.name}/Place"),
        helper.make_node("Add", [f"{out}/placed", f"{out}/types"], [f"{out}/sum"], f"{embed.name}/Sum"),
        *layer_norm(f"{out}/sum", gamma, beta, out, epsilon, embed.name),
    ]  # fmt: skip
    at = list(graph.node).index(embed)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*rest[:at], *nodes, *rest[at + 1 :]])
    axes_as_inputs(model)
