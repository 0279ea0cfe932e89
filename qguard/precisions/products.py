"""Products with stored matrices in one form, whichever exporter wrote them: what a recipe does not see, it leaves in float."""

from __future__ import annotations

from typing import Any

from qguard.onnx.edit import Graph, attribute

MOVES = ("Cast", "Identity", "Transpose")  # what recipes leave behind; other tools would load it and warn


def plain_products(graph: Graph) -> None:
    """Write every product with a stored matrix as a MatMul whose second input is that matrix as it is stored, in place.

    Exporters write a linear layer as ``Gemm``, put the matrix behind a ``Transpose``, keep it in a ``Constant``, or let
    layers that share it read it through an ``Identity``.
    """
    from onnx import TensorProto, helper

    graph.store_constants(lambda tensor: len(tensor.dims) in (1, 2) and tensor.data_type == TensorProto.FLOAT)

    def source(name: str) -> str:
        """The stored tensor that ``name`` is equal to; transposed ones are stored on the way. ``name`` itself for others."""
        node = graph.producers.get(name)
        if node is None or node.op_type not in ("Identity", "Transpose"):
            return name
        behind = source(node.input[0])
        if node.op_type == "Identity":
            return behind if behind in graph.initializers else name
        turned = behind in graph.initializers and len(graph.initializers[behind].dims) == 2
        return transposed(behind) if turned and attribute(node, "perm", [1, 0]) == [1, 0] else name

    def transposed(name: str) -> str:
        target = f"{name}/transposed"
        return target if target in graph.initializers else graph.put(target, graph.array(name).T)

    def plain(node: Any) -> list[Any] | None:
        if node.op_type in ("MatMul", "Add"):
            for i, name in enumerate(node.input):
                graph.set_input(node, i, source(name))
        elif node.op_type == "Gemm" and not attribute(node, "transA", 0) and _unscaled(node):
            x, weight, *bias = (source(name) for name in node.input)
            if weight in graph.initializers:
                weight = transposed(weight) if attribute(node, "transB", 0) else weight
                name, out = node.name or node.output[0], node.output[0]
                product = f"{out}/product" if bias else out
                made = [helper.make_node("MatMul", [x, weight], [product], name)]
                return [*made, *([helper.make_node("Add", [product, bias[0]], [out], f"{name}/Bias")] if bias else [])]
        return None

    graph.rewrite(plain)
    graph.drop_unread(MOVES)


def _unscaled(node: Any) -> bool:
    return attribute(node, "alpha", 1.0) == 1.0 == attribute(node, "beta", 1.0)
