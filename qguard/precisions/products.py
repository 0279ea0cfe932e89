"""Products with stored matrices in one form, whichever exporter wrote them: what a recipe does not see, it leaves in float."""

from __future__ import annotations

from typing import Any

from qguard.graph import read_names


def plain_products(graph: Any) -> None:
    """Write every product with a stored matrix as a MatMul whose second input is that matrix as it is stored, in place.

    Exporters write a linear layer as ``Gemm``, put the matrix behind a ``Transpose``, keep it in a ``Constant``, or let
    layers that share it read it through an ``Identity``.

    Args:
        graph: ``onnx.GraphProto``.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None and len(value.dims) in (1, 2) and value.data_type == 1:
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            nodes.append(node)
    stored = {t.name: t for t in graph.initializer}
    made = {name: node for node in nodes for name in node.output}

    def source(name: str) -> str:
        """The stored tensor that ``name`` is equal to; transposed ones are stored on the way. ``name`` itself for others."""
        node = made.get(name)
        if node is None or node.op_type not in ("Identity", "Transpose"):
            return name
        behind = source(node.input[0])
        if node.op_type == "Identity":
            return behind if behind in stored else name
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
        if behind not in stored or len(stored[behind].dims) != 2 or perm != [1, 0]:
            return name
        return transposed(behind)

    def transposed(name: str) -> str:
        target = f"{name}/transposed"
        if target not in stored:
            stored[target] = numpy_helper.from_array(numpy_helper.to_array(stored[name]).T.copy(), target)
            graph.initializer.append(stored[target])
        return target

    done = []
    for node in nodes:
        kept = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("MatMul", "Add"):
            for i, name in enumerate(node.input):
                node.input[i] = source(name)
        elif node.op_type == "Gemm" and not kept.get("transA") and kept.get("alpha", 1.0) == 1.0 == kept.get("beta", 1.0):
            x, weight, *bias = (source(name) for name in node.input)
            if weight in stored:
                weight = transposed(weight) if kept.get("transB") else weight
                name, out = node.name or node.output[0], node.output[0]
                product = f"{out}/product" if bias else out
                done.append(helper.make_node("MatMul", [x, weight], [product], name))
                if bias:
                    done.append(helper.make_node("Add", [product, bias[0]], [out], f"{name}/Bias"))
                continue
        done.append(node)
    del graph.node[:]
    graph.node.extend(done)
    drop_unread(graph)


def drop_unread(graph: Any) -> None:
    """Remove the casts, copies and stored tensors that nothing reads, in place: other tools would load them and warn."""
    moves = ("Cast", "Identity", "Transpose")
    while True:
        read = read_names(graph)
        nodes = [n for n in graph.node if n.op_type not in moves or n.output[0] in read]
        if len(nodes) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(nodes)
    tensors = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
