"""An ONNX graph of half precision, computed in float32: what its 16-bit tensors would hold if they had the range for it.

ONNX Runtime has few kernels for half precision on the CPU. It computes the others in float32 and drops the rounding between them,
so that a value beyond the range of float16 never becomes infinite there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qguard.onnx.edit import Graph
from qguard.onnx.read import fill, stored_array, tensors

# contributed operators that add a residual before the norm and give the sum only where it is asked for, as their output 3
_ADDING = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
# what these give says nothing of the size of what they read
_CUT = ("Shape", "Size", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "NonZero", "ArgMax")
# through these a score reaches Softmax, which takes minus infinity for 0
_KEEP = ("Add", "Where", "Cast", "Identity", "Reshape", "Transpose", "Expand", "Squeeze", "Unsqueeze", "Max", "Clip")
_TYPED = ("to", "dtype", "output_dtype", "stash_type")  # attributes that name an element type
_MOST = "/most"


def give_sums(graph: Graph) -> None:
    """Have fused norms give the sum of the residual too, in place: half precision stores it in other kernels."""
    for node in graph.nodes:
        if node.op_type in _ADDING and not (len(node.output) > 3 and node.output[3]):
            node.output.extend([""] * (4 - len(node.output)))
            node.output[3] = f"{node.output[0]}/sum"
    graph.set_nodes(graph.nodes)


def typed(graph: Graph, kind: str) -> list[str]:
    """Names of the inner tensors of one element type, in the order of the graph.

    Args:
        graph: Is left as it is.
        kind: As ONNX Runtime spells it, such as ``tensor(float16)``.
    """
    import onnxruntime as ort

    opened = graph.copy()
    known = {o.name for o in opened.model.graph.output}
    opened.add_outputs(n for node in opened.nodes for n in node.output if n and n not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = {o.name for o in opened.session(options).get_outputs() if o.type == kind}
    return [n for node in graph.nodes for n in node.output if n in found]


def widen(graph: Graph, kind: int) -> None:
    """Make float32 of every tensor and conversion of one element type of ``onnx.TensorProto``, in place."""
    from onnx import TensorProto

    for name in [n for n, t in graph.initializers.items() if t.data_type == kind]:
        graph.put(name, graph.array(name).astype(np.float32))
    for tensor in tensors(graph.model):
        if tensor.data_type == kind and tensor.name not in graph.initializers:
            values = stored_array(tensor, graph.folder).astype(np.float32)
            tensor.data_type = TensorProto.FLOAT
            fill(tensor, values)
    for node in _all_nodes(graph.model):
        for a in node.attribute:
            if a.name in _TYPED and a.i == kind:
                a.i = TensorProto.FLOAT
    for value in _values(graph.model):
        if value.type.tensor_type.elem_type == kind:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph.set_nodes(graph.nodes)


def add_maxima(graph: Graph, names: list[str]) -> dict[str, str]:
    """Give the largest absolute value of tensors as outputs, in place.

    Of scores that go to Softmax it is the largest value. Tensors that depend on the attention mask alone are left out.

    Returns:
        Tensor → name of its output, a scalar.
    """
    from onnx import helper

    texts, scores = _of_texts(graph), _scores(graph)
    nodes, found = [], {}
    for name in (n for n in names if n in texts):
        source = name
        if name not in scores:
            source = f"{name}/size"
            nodes.append(helper.make_node("Abs", [name], [source], source))
        found[name] = name + _MOST
        nodes.append(helper.make_node("ReduceMax", [source], [found[name]], found[name], keepdims=0))
    graph.append(nodes)
    graph.add_outputs(found.values())
    return found


def _of_texts(graph: Graph) -> set[str]:
    found = {i.name for i in graph.model.graph.input if "mask" not in i.name.lower()} - set(graph.initializers)
    for node in graph.nodes:
        if node.op_type not in _CUT and found.intersection(node.input):
            found.update(n for n in node.output if n)
    return found


def _scores(graph: Graph) -> set[str]:
    """Tensors that nothing but Softmax reads in the end."""
    given, found = {o.name for o in graph.model.graph.output}, set[str]()
    for node in reversed(graph.nodes):
        for name in node.output:
            readers = graph.consumers(name)
            if readers and name not in given and all(_is_score(r, name, found) for r in readers):
                found.add(name)
    return found


def _is_score(reader: Any, name: str, scores: set[str]) -> bool:
    if reader.op_type == "Softmax":
        return True
    return reader.op_type in _KEEP and reader.output[0] in scores


def _all_nodes(model: Any) -> Iterator[Any]:
    todo = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    while todo:
        node = todo.pop()
        yield node
        for a in node.attribute:
            for inner in [*([a.g] if a.HasField("g") else []), *a.graphs]:
                todo += inner.node


def _values(model: Any) -> Iterator[Any]:
    """Every declared type."""
    graphs = [model.graph]
    graphs += [g for n in _all_nodes(model) for a in n.attribute for g in [*([a.g] if a.HasField("g") else []), *a.graphs]]
    for graph in graphs:
        yield from (*graph.input, *graph.output, *graph.value_info)
    for function in model.functions:
        yield from function.value_info
