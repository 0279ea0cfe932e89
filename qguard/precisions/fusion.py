"""Operators that ONNX Runtime has kernels for, in place of the many small ones that exporters write: found by structure.

Attention becomes ONNX's own ``Attention`` over three tensors of tokens and rotary positions its ``RotaryEmbedding`` (set 23),
LayerNorm and RMSNorm the RMS kernel, GELU and SiLU one operator each. What is not recognized stays as it is. Nothing is known of
a family or an exporter: a softmax between two products is attention, and a function of one tensor is GELU if it computes GELU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from qguard.onnx.edit import STANDARD, Graph, attribute, attributes
from qguard.precisions.merged import take_apart
from qguard.precisions.norms import axes_as_inputs, layer_norm

OPSET = 23  # the first with an Attention and a RotaryEmbedding of ONNX's own
SMALL = 4096  # values of a stored tensor up to which shapes may depend on it
ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention")
HEADS_FIRST = [0, 2, 1, 3]  # (batch, length, heads, width) to (batch, heads, length, width) and back
_LOW = -1e4  # what is added to a score so that it counts for nothing is less than this


def fuse(graph: Graph) -> None:
    """Fuse what is recognized, in place, and raise the operator set; the graph holds standard operators of set 13 to 23."""
    raise_opset(graph)
    drop_moves(graph)
    known = shapes(graph)
    if take_apart(Reader(graph, known)):
        known = shapes(graph)
    for step in (_norms, _activations, _rotary, _attention):
        graph.rewrite_by_output(step(graph, known))
        graph.drop_unread()
    axes_as_inputs(graph)


def attention_fused(graph: Graph) -> tuple[int, int]:
    """How many attentions a graph holds as one operator, and how many in all."""
    fused = sum(n.op_type in ATTENTION for n in graph.nodes)
    return fused, fused + sum(n.op_type == "Softmax" and _weighs(graph, n) for n in graph.nodes)


def _weighs(graph: Graph, softmax: Any) -> bool:
    """Whether a softmax is that of an attention: what it gives is multiplied with something."""
    todo = [softmax.output[0]]
    for name in todo:
        for reader in graph.consumers(name):
            if reader.op_type == "MatMul":
                return True
            if reader.op_type in (*_SAME, "Cast", "Reshape", "Where"):
                todo.append(reader.output[0])
    return False


# what tensors are


class Shaped(NamedTuple):
    """Element type, and the dimensions that are known; ``None`` for others."""

    kind: int
    dims: tuple[int | None, ...]


def shapes(graph: Graph) -> dict[str, Shaped]:
    """What onnx infers of the tensors of a graph, without a copy of its weights."""
    import onnx
    from onnx import helper

    model = onnx.ModelProto(ir_version=graph.model.ir_version)
    model.opset_import.extend(graph.model.opset_import)
    bare, full = model.graph, graph.model.graph
    bare.name = "shapes"
    bare.node.extend(full.node)
    bare.output.extend(full.output)
    given = {i.name for i in full.input}
    bare.input.extend(full.input)
    for tensor in full.initializer:
        if math.prod(tensor.dims) <= SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            bare.initializer.append(tensor)
        elif tensor.name not in given:
            bare.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    stored = {t.name: Shaped(t.data_type, tuple(t.dims)) for t in full.initializer}

    def infer() -> dict[str, Shaped]:
        found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        every = [*found.input, *found.value_info, *found.output]
        return {v.name: _shaped(v.type.tensor_type) for v in every if v.type.tensor_type.HasField("shape")} | stored

    known = infer()
    # onnx gives up on a -1 beside a dimension that it doesn't know, such as the length of texts; so it does on all that follows
    reader = Reader(graph, known)
    more = {n.output[0]: dims for n in graph.nodes if n.op_type == "Reshape" and (dims := _filled(reader, n))}
    bare.value_info.extend(helper.make_tensor_value_info(name, known[name].kind, dims) for name, dims in more.items())
    return infer() if more else known


def _shaped(kind: Any) -> Shaped:
    return Shaped(kind.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim))


def _filled(reader: Reader, reshape: Any) -> list[int | None] | None:
    """The dimensions after a Reshape whose -1 follows from those that are known, if the others stay as they are."""
    source, target = reader.dims(reshape.input[0]), reader.constant(reshape.input[1])
    if target is None or reshape.output[0] not in reader.known:
        return None
    dims = [None if d is None else int(d) for d in target.reshape(-1)]
    if dims.count(-1) != 1 or 0 in dims or dims.count(None) != source.count(None):
        return None
    whole, rest = (math.prod(d for d in some if d is not None and d > 0) for some in (source, dims))
    return [whole // rest if d == -1 else d for d in dims] if whole % rest == 0 else None


_SAME = ("Identity", "Dropout")


def drop_moves(graph: Graph) -> None:
    """Let nodes read what these only pass on: Identity, Dropout, Cast to the same type, Concat of one, in place."""
    known = shapes(graph)
    outputs = {o.name for o in graph.model.graph.output}
    same: dict[str, str] = {}
    for node in graph.nodes:
        if not node.input or node.output[0] in outputs:
            continue
        source = same.get(node.input[0], node.input[0])
        cast = node.op_type == "Cast" and source in known and known[source].kind == attribute(node, "to", 0)
        if cast or node.op_type in _SAME or (node.op_type == "Concat" and len(node.input) == 1):
            same[node.output[0]] = source
    graph.redirect(graph.nodes, same)
    graph.drop_unread()


def scalar(graph: Graph, name: str) -> float | None:
    """The value of a stored tensor of one value; ``None`` for any other."""
    tensor = graph.constants.get(name)
    return float(graph.array(name).reshape(-1)[0]) if tensor is not None and math.prod(tensor.dims) == 1 else None


def raise_opset(graph: Graph) -> None:
    """Declare set :data:`OPSET`, with what changed since 13 in the form that it asks for, in place."""
    from onnx import helper

    if graph.opset < 18:
        for node in graph.nodes:
            if node.op_type == "Split" and len(node.input) == 1:
                node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    graph.set_opset(max(graph.opset, OPSET))
    axes_as_inputs(graph)
    model = graph.model
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([helper.make_opsetid("", graph.opset)], True))


def _axes(graph: Graph, node: Any) -> list[int]:
    """The axes of a reduction, in either form."""
    if len(node.input) > 1:
        return list(graph.array(node.input[1]).reshape(-1)) if node.input[1] in graph.constants else []
    return list(attribute(node, "axes", [0]))


def _by_type(graph: Graph, name: str, kind: str) -> Any:
    """The node that makes a tensor, where it is of this type."""
    node = graph.producers.get(name)
    return node if node is not None and node.op_type == kind else None


def _only(graph: Graph, name: str, kind: str) -> Any:
    """The one node that reads the values of a tensor, where it is of this type."""
    readers = [n for n in graph.consumers(name) if n.op_type != "Shape"]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None


def _other(node: Any, name: str) -> str:
    """The other of two inputs."""
    return str(node.input[1] if node.input[0] == name else node.input[0])


# norms


def _norms(graph: Graph, known: dict[str, Shaped]) -> dict[str, list[Any]]:
    """LayerNorm and RMSNorm, by what they give."""
    from onnx import helper

    by: dict[str, list[Any]] = {}
    for node in graph.nodes:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:
            x, gamma, *beta = map(str, node.input)
            rank = len(known[x].dims) if x in known else 0
            if attribute(node, "axis", -1) in (-1, rank - 1):
                name, out = node.name or node.output[0], node.output[0]
                by[out] = layer_norm(x, gamma, beta[0] if beta else "", out, attribute(node, "epsilon", 1e-5), name)
        elif node.op_type in ("Sqrt", "Pow") and (found := _rms(graph, node)):
            x, gamma, out, epsilon = found
            if not gamma:
                if x not in known or not known[x].dims or known[x].dims[-1] is None:
                    continue
                gamma = graph.put(f"{out}/ones", np.ones(known[x].dims[-1], np.float32))
            by[out] = [
                helper.make_node(
                    "SimplifiedLayerNormalization", [x, gamma], [out], graph.producers[out].name or out, epsilon=epsilon, axis=-1
                )
            ]
    return by


def _rms(graph: Graph, root: Any) -> tuple[str, str, str, float] | None:
    """x, gain (or nothing), output and epsilon of x / sqrt(mean(x²) + epsilon) · gain, whose root is this node."""
    inverse = root.op_type == "Pow"
    if inverse and scalar(graph, root.input[1]) != -0.5:
        return None
    total = _by_type(graph, root.input[0], "Add")
    if total is None:
        return None
    sums = ((_by_type(graph, a, "ReduceMean"), scalar(graph, b)) for a, b in (total.input, reversed(total.input)))
    mean, epsilon = next(((m, e) for m, e in sums if m is not None and e is not None), (None, 0.0))
    if mean is None or _axes(graph, mean) != [-1] or not attribute(mean, "keepdims", 1):
        return None
    square = graph.producers.get(mean.input[0])
    if square is None or square.op_type not in ("Pow", "Mul"):
        return None
    x = str(square.input[0])
    if not (scalar(graph, square.input[1]) == 2.0 if square.op_type == "Pow" else square.input[1] == x):
        return None
    out = str(root.output[0])
    if not inverse and (over := _only(graph, out, "Div")) is not None and over.input[1] == out:
        if over.input[0] == x:
            return _gained(graph, x, str(over.output[0]), epsilon)
        if scalar(graph, over.input[0]) != 1.0:
            return None
        out = str(over.output[0])
    elif not inverse and (over := _only(graph, out, "Reciprocal")) is not None:
        out = str(over.output[0])
    elif not inverse:
        return None
    times = _only(graph, out, "Mul")
    if times is None or _other(times, out) != x:
        return None
    return _gained(graph, x, str(times.output[0]), epsilon)


def _gained(graph: Graph, x: str, out: str, epsilon: float) -> tuple[str, str, str, float]:
    gain = _only(graph, out, "Mul")
    if gain is not None:
        stored = graph.initializers.get(_other(gain, out))
        if stored is not None and len(stored.dims) == 1:
            return x, str(stored.name), str(gain.output[0]), epsilon
    return x, "", out, epsilon


# activations

_PROBE = np.linspace(-8, 8, 401)
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Erf": np.vectorize(math.erf),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Neg": np.negative,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
}  # fmt: skip


def _sigmoid_gelu(alpha: float) -> Any:
    return _PROBE / (1 + np.exp(-alpha * _PROBE))


_ACTIVATIONS: tuple[tuple[str, dict[str, float], Any], ...] = (
    ("Gelu", {}, _PROBE * 0.5 * (1 + _UNARY["Erf"](_PROBE / math.sqrt(2)))),
    ("FastGelu", {}, 0.5 * _PROBE * (1 + np.tanh(math.sqrt(2 / math.pi) * (_PROBE + 0.044715 * _PROBE**3)))),
    ("QuickGelu", {"alpha": 1.0}, _sigmoid_gelu(1.0)),  # SiLU
    ("QuickGelu", {"alpha": 1.702}, _sigmoid_gelu(1.702)),
)
_LONGEST = 5  # operators from the transcendental one to the result


def _activations(graph: Graph, known: dict[str, Shaped]) -> dict[str, list[Any]]:
    """One operator in place of several that compute GELU or SiLU: they are evaluated at some points, whatever their order is."""
    from onnx import helper

    by: dict[str, list[Any]] = {}
    for node in graph.nodes:
        if node.op_type not in ("Erf", "Tanh", "Sigmoid"):
            continue
        at: Any = node
        for _ in range(_LONGEST):
            readers = graph.consumers(at.output[0])
            if len(readers) != 1 or readers[0].op_type not in _BINARY:
                break
            at = readers[0]
            computed = _computed(graph, at.output[0])
            if computed is None:
                break
            x, values = computed
            found = next((a for a in _ACTIVATIONS if np.abs(values - a[2]).max() < 1e-5), None)
            if found:
                operator, said, _ = found
                made = helper.make_node(operator, [x], [at.output[0]], at.name or at.output[0], domain="com.microsoft", **said)
                by[str(at.output[0])] = [made]
                break
    if by:
        graph.import_domain("com.microsoft")
    return by


def _computed(graph: Graph, name: str, depth: int = 12) -> tuple[str, Any] | None:
    """A tensor as a function of one other, by element: that tensor and the values at :data:`_PROBE`; ``None`` for no such."""
    leaves: set[str] = set()

    def value(name: str, left: int) -> Any:
        if (constant := scalar(graph, name)) is not None:
            return constant
        node = graph.producers.get(name)
        if node is not None and left and node.op_type in _UNARY:
            return _UNARY[node.op_type](value(node.input[0], left - 1))
        # a vector or matrix in it makes it something else than a function of one value
        if node is not None and left and node.op_type in _BINARY and not any(_stored(graph, i) for i in node.input):
            return _BINARY[node.op_type](value(node.input[0], left - 1), value(node.input[1], left - 1))
        leaves.add(name)
        return _PROBE

    with np.errstate(all="ignore"):
        values = value(name, depth)
    return (leaves.pop(), values) if len(leaves) == 1 and np.shape(values) == _PROBE.shape else None


def _stored(graph: Graph, name: str) -> bool:
    return name in graph.constants and math.prod(graph.constants[name].dims) != 1


# heads


@dataclass(frozen=True)
class Heads:
    """A tensor (batch, heads, length, width) as what it is made of: (batch, length, heads * width), and nodes that make it."""

    tokens: str
    heads: int
    width: int
    nodes: tuple[Any, ...] = ()


class Reader:
    """What the tensors of a graph are made of.

    Args:
        graph: Is read.
        known: Its shapes.
    """

    def __init__(self, graph: Graph, known: dict[str, Shaped]) -> None:
        self.graph, self.known = graph, known

    def dims(self, name: str) -> tuple[int | None, ...]:
        """The dimensions of a tensor; empty where even their number is not known."""
        return self.known[name].dims if name in self.known else ()

    def constant(self, name: str, depth: int = 16) -> Any:
        """The value of a tensor that depends on stored ones and known dimensions alone, small ones only; ``None`` for others."""
        graph = self.graph
        if name in graph.constants:
            return graph.array(name) if math.prod(graph.constants[name].dims) <= SMALL else None
        node = graph.producers.get(name)
        if node is None or not depth:
            return None
        if node.op_type == "Shape":
            dims = self.dims(node.input[0])
            return np.array(dims, object)[slice(attribute(node, "start", 0), attribute(node, "end", len(dims)))] if dims else None
        if node.op_type not in _EVALUATED:
            return None
        values = [self.constant(i, depth - 1) for i in node.input]
        if any(v is None for v in values):
            return None
        try:
            found = np.asarray(_EVALUATED[node.op_type](node, *values))
        except (TypeError, ValueError, IndexError):  # a dimension that is not known
            return None
        return found

    def number(self, name: str) -> float | None:
        """The value of a tensor of one value, where it is known."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.reshape(-1)[0] is not None else None

    def unscaled(self, name: str) -> tuple[str, float]:
        """What a tensor is a multiple of, and its factor."""
        factor = 1.0
        while (node := self.graph.producers.get(name)) is not None and node.op_type in ("Mul", "Div"):
            a, b = node.input
            if (by := self.number(b)) is not None:
                name, factor = a, factor * by if node.op_type == "Mul" else factor / by
            elif node.op_type == "Mul" and (by := self.number(a)) is not None:
                name, factor = b, factor * by
            else:
                break
        return name, factor

    def heads(self, name: str, home: str) -> tuple[Heads, float] | None:
        """Tokens in place of (batch, heads, length, width) and the factor to them; ``None`` where that is not what they are."""
        name, factor = self.unscaled(name)
        name = self.unrepeated(name)
        norm = _by_type(self.graph, name, "SimplifiedLayerNormalization")
        turn = _by_type(self.graph, norm.input[0] if norm is not None else name, "Transpose")
        if turn is None or attribute(turn, "perm", [0]) != HEADS_FIRST:
            return None
        found = self.normed(norm, turn.input[0], home) if norm is not None else self.split(turn.input[0], home)
        return (found, factor) if found else None

    def normed(self, norm: Any, name: str, home: str) -> Heads | None:
        """Like :meth:`split`, of what is normed within each head."""
        from onnx import helper

        of, inner = self.split(name, home), f"{home}/normed"
        if of is None:
            return None
        node = helper.make_node(norm.op_type, [name, norm.input[1]], [inner], f"{home}/Norm", **attributes(norm))
        return self.joined(inner, of.heads, of.width, home, node)

    def turned(self, name: str, home: str) -> tuple[Heads, float] | None:
        """Like :meth:`heads`, of (batch, heads, width, length)."""
        name, factor = self.unscaled(name)
        turn = _by_type(self.graph, name, "Transpose")
        perm = attribute(turn, "perm", [0]) if turn is not None else []
        if perm == [0, 2, 3, 1]:
            found = self.split(turn.input[0], home)
            return (found, factor) if found else None
        whole = self.merged(name) if turn is None else turn.input[0] if perm == [0, 1, 3, 2] else ""
        inner = self.heads(whole, home) if whole else None
        return (inner[0], factor * inner[1]) if inner else None

    def merged(self, name: str) -> str:
        """What was turned with batch and heads as one axis, as torch's exporter does before set 23; empty for others."""
        apart = _by_type(self.graph, name, "Reshape")
        turn = _by_type(self.graph, apart.input[0], "Transpose") if apart is not None else None
        whole = _by_type(self.graph, turn.input[0], "Reshape") if turn is not None else None
        if whole is None or attribute(turn, "perm", [0]) != [0, 2, 1] or len(self.dims(whole.input[0])) != 4:
            return ""
        return str(whole.input[0]) if len(self.dims(name)) == 4 else ""

    def unrepeated(self, name: str) -> str:
        """Heads of keys or values before each is repeated for several queries; ``name`` itself where they are not."""
        flat = _by_type(self.graph, name, "Reshape")
        spread = _by_type(self.graph, flat.input[0], "Expand") if flat is not None else None
        lifted = _by_type(self.graph, spread.input[0], "Unsqueeze") if spread is not None else None
        if lifted is None or len(self.dims(lifted.input[0])) != 4:
            return name
        axes = self.constant(lifted.input[1])
        return str(lifted.input[0]) if axes is not None and axes.tolist() == [2] else name

    def split(self, name: str, home: str) -> Heads | None:
        """Tokens in place of (batch, length, heads, width)."""
        dims = self.dims(name)
        if len(dims) != 4 or not dims[3]:
            return None
        width = dims[3]
        made = _by_type(self.graph, name, "Reshape")
        whole = self.dims(made.input[0]) if made is not None else ()
        if len(whole) == 3 and whole[2] and whole[2] % width == 0:
            return Heads(str(made.input[0]), whole[2] // width, width)
        return self.joined(name, dims[2], width, home) if dims[2] else None

    def joined(self, name: str, heads: int, width: int, home: str, *before: Any) -> Heads:
        """Tokens of (batch, length, heads, width), which ``before`` make."""
        from onnx import helper

        shape = self.graph.put(f"heads/{heads * width}", np.array([0, 0, heads * width]))
        node = helper.make_node("Reshape", [name, shape], [f"{home}/tokens"], f"{home}/Tokens")
        return Heads(f"{home}/tokens", heads, width, (*before, node))


def _gathered(node: Any, x: Any, index: Any) -> Any:
    return np.take(x, index.astype(np.int64), attribute(node, "axis", 0))


def _sliced(_: Any, x: Any, start: Any, end: Any, axes: Any = None, steps: Any = None) -> Any:
    if x.ndim != 1 or (steps is not None and steps.tolist() != [1]):
        raise ValueError
    return x[int(start[0]) : int(end[0])]


def _cast(node: Any, x: Any) -> Any:
    from onnx import helper

    return x if x.dtype == object else x.astype(helper.tensor_dtype_to_np_dtype(attribute(node, "to", 1)))


def _filling(node: Any) -> Any:
    value = attributes(node).get("value")
    if value is None:
        return np.float32(0)
    from onnx import numpy_helper

    return numpy_helper.to_array(value).reshape(-1)[0]


def _divided(_: Any, a: Any, b: Any) -> Any:
    return a // b if np.issubdtype(np.asarray(b).dtype, np.integer) else a / b


_EVALUATED: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "Cast": _cast,
    "Concat": lambda _, *parts: np.concatenate(parts),
    "ConstantOfShape": lambda node, shape: np.full([int(d) for d in shape], _filling(node)),
    "Div": _divided,
    "Gather": _gathered,
    "Identity": lambda _, a: a,
    "Mul": lambda _, a, b: a * b,
    "Slice": _sliced,
    "Sqrt": lambda _, a: np.sqrt(a),
    "Squeeze": lambda _, a, *axes: a.reshape(()) if a.size == 1 else a,
    "Sub": lambda _, a, b: a - b,
    "Unsqueeze": lambda _, a, axes: a.reshape(1) if a.ndim == 0 else a,
}


# rotary positions


def _rotary(graph: Graph, known: dict[str, Shaped]) -> dict[str, list[Any]]:
    """x * cos + rotate_half(x) * sin of heads: of tokens instead, and then put into heads."""
    from onnx import helper

    reader = Reader(graph, known)
    by: dict[str, list[Any]] = {}
    tables: dict[tuple[str, int], str] = {}

    def half(table: str, width: int, tokens: str) -> tuple[str, list[Any]]:
        """Half of the columns of cos or sin, for every text: (batch, length, width / 2)."""
        if (table, width) in tables:
            return tables[table, width], []
        home = tables[table, width] = f"{table}/half"
        size = graph.put(f"rotary/{width}", np.array([width // 2]))
        zero, last = graph.put("rotary/zero", np.array([0])), graph.put("rotary/last", np.array([-1]))
        return home, [
            helper.make_node("Slice", [table, zero, size, last], [f"{home}/columns"], f"{home}/Columns"),
            helper.make_node("Shape", [tokens], [f"{home}/tokens"], f"{home}/Tokens", start=0, end=2),
            helper.make_node("Concat", [f"{home}/tokens", size], [f"{home}/shape"], f"{home}/Concat", axis=0),
            helper.make_node("Expand", [f"{home}/columns", f"{home}/shape"], [home], f"{home}/Expand"),
        ]

    for node in graph.nodes:
        own = node.op_type == "RotaryEmbedding" and node.domain in STANDARD
        found = _rotation(reader, node) if node.op_type == "Add" else (node.input[0], *node.input[1:]) if own else None
        if found is None:
            continue
        x, *given = map(str, found)
        out = str(node.output[0])
        heads = reader.heads(x, out)
        if heads is None or heads[1] != 1.0:
            continue
        of = heads[0]
        nodes, halves = list(of.nodes), given if own else []
        for table in given if not own else ():
            name, made = half(table, of.width, of.tokens)
            halves.append(name)
            nodes += made
        said = {k: v for k, v in attributes(node).items() if k != "num_heads"} if own else {}
        turned, split = f"{out}/turned", f"{out}/split"
        shape = graph.put(f"heads/{of.heads}x{of.width}", np.array([0, 0, of.heads, of.width]))
        by[out] = [
            *nodes,
            helper.make_node("RotaryEmbedding", [of.tokens, *halves], [turned], f"{out}/Rotary", num_heads=of.heads, **said),
            helper.make_node("Reshape", [turned, shape], [split], f"{out}/Split"),
            helper.make_node("Transpose", [split], [out], f"{out}/Transpose", perm=HEADS_FIRST),
        ]
        batch, length = (*known[x].dims, None, None, None)[0:3:2] if x in known else (None, None)
        known[turned] = Shaped(1, (batch, length, of.heads * of.width))
        known[split] = Shaped(1, (batch, length, of.heads, of.width))
    return by


def _rotation(reader: Reader, total: Any) -> tuple[str, str, str] | None:
    """x, cos and sin (batch, length, width) of x * cos + rotate_half(x) * sin."""
    graph = reader.graph
    for first, second in (total.input, reversed(total.input)):
        plain, turned = _by_type(graph, first, "Mul"), _by_type(graph, second, "Mul")
        if plain is None or turned is None:
            continue
        for joined, sin in (turned.input, reversed(turned.input)):
            concat = _by_type(graph, joined, "Concat")
            if concat is None or len(concat.input) != 2:
                continue
            negative = _by_type(graph, concat.input[0], "Neg")
            low, high = (
                _by_type(graph, concat.input[1], "Slice"),
                _by_type(graph, negative.input[0], "Slice") if negative else None,
            )
            if low is None or high is None or low.input[0] != high.input[0] or low.input[0] not in plain.input:
                continue
            x = str(low.input[0])
            width = (reader.dims(x) or (None,))[-1]
            ends = [reader.number(n) for n in (*low.input[1:3], *high.input[1:3])]
            if not width or ends[:3] != [0, width // 2, width // 2] or (ends[3] or 0) < width:
                continue
            tables = [_table(graph, name) for name in (_other(plain, x), sin)]
            if tables[0] and tables[1]:
                return x, tables[0], tables[1]
    return None


def _table(graph: Graph, name: str) -> str:
    """cos or sin before its axis of heads was put in, where both halves of its columns are equal; empty for others."""
    lifted = _by_type(graph, name, "Unsqueeze")
    if lifted is None or lifted.input[1] not in graph.constants or graph.array(lifted.input[1]).tolist() != [1]:
        return ""
    at = table = str(lifted.input[0])
    while (node := graph.producers.get(at)) is not None:
        if node.op_type == "Concat":
            return table if len(node.input) == 2 and node.input[0] == node.input[1] else ""
        scaled = node.op_type == "Mul" and scalar(graph, node.input[1]) is not None
        if node.op_type not in ("Cos", "Sin", "Cast") and not scaled:
            return ""
        at = node.input[0]
    return ""


# attention


@dataclass(frozen=True)
class _Scores:
    """Queries, keys and values, the factor to the product of the first two, and what is added to it.

    Attributes:
        query: (batch, heads, length, width).
        key: Likewise, or (batch, heads, width, length) where it is ``turned``.
        value: Likewise; empty where it is not known yet.
        factor: To the product.
        added: Tensors that are added to the product times the factor.
        masked: Condition, what stands in a score's place, and whether it does where the condition holds or where it doesn't.
        turned: See ``key``.
        said: More attributes of the operator.
    """

    query: str
    key: str
    value: str = ""
    factor: float = 1.0
    added: tuple[str, ...] = ()
    masked: tuple[tuple[str, str, bool], ...] = ()
    turned: bool = True
    said: Mapping[str, Any] = field(default_factory=dict)


def _attention(graph: Graph, known: dict[str, Shaped]) -> dict[str, list[Any]]:
    """softmax(q · k + biases) · v of heads: one operator on tokens."""
    from onnx import helper

    reader = Reader(graph, known)
    by: dict[str, list[Any]] = {}
    made: dict[Any, str] = {}
    for node in graph.nodes:
        found = _taken_apart(reader, node)
        if found is None:
            continue
        scores, product = found
        home = f"{node.output[0]}/attention"
        q = reader.heads(scores.query, f"{home}/q")
        k = (reader.turned if scores.turned else reader.heads)(scores.key, f"{home}/k")
        v = reader.heads(scores.value, f"{home}/v")
        turn = _only(graph, product, "Transpose")
        if not (q and k and v) or v[1] != 1.0 or turn is None or attribute(turn, "perm", [0]) != HEADS_FIRST:
            continue
        if k[0].heads != v[0].heads or q[0].heads % k[0].heads or q[0].width != k[0].width:
            continue
        nodes = [*q[0].nodes, *k[0].nodes, *v[0].nodes]
        bias, more = _bias(reader, scores, q[0].tokens, made)
        nodes += more
        joined = _only(graph, turn.output[0], "Reshape")
        whole = joined is not None and len(reader.dims(joined.output[0])) == 3
        out = str(joined.output[0]) if whole else f"{home}/tokens"
        name = f"{node.name.rpartition('/')[0]}/Attention" if "/" in node.name else home
        nodes.append(
            helper.make_node(
                "Attention", [q[0].tokens, k[0].tokens, v[0].tokens, *([bias] if bias else [])], [out], name,
                q_num_heads=q[0].heads, kv_num_heads=k[0].heads, scale=scores.factor * q[1] * k[1], **scores.said,
            )
        )  # fmt: skip
        if not whole:
            shape = graph.put(f"heads/{q[0].heads}x{v[0].width}", np.array([0, 0, q[0].heads, v[0].width]))
            nodes.append(helper.make_node("Reshape", [out, shape], [str(turn.output[0])], f"{home}/Split"))
        by[out if whole else str(turn.output[0])] = nodes
    return by


def _taken_apart(reader: Reader, node: Any) -> tuple[_Scores, str] | None:
    """An attention, and the tensor (batch, heads, length, width) that it gives; ``None`` where the node is none."""
    graph = reader.graph
    if node.op_type == "Softmax" and attribute(node, "axis", -1) in (-1, 3):
        product, scores = _weighted(graph, node), _scores(reader, node.input[0])
        return (replace(scores, value=str(product.input[1])), str(product.output[0])) if product is not None and scores else None
    if node.op_type != "Attention" or node.domain not in STANDARD or len(node.output) > 1:
        return None
    query, key, value, *more = map(str, node.input)
    width = (reader.dims(query) or (None,))[-1]
    if len(reader.dims(query)) != 4 or not width or len(more) > 1:
        return None
    said = attributes(node)
    scores = _Scores(query, key, value, said.pop("scale", width**-0.5), turned=False, said=said)
    if more and more[0]:
        if more[0] in reader.known and reader.known[more[0]].kind == 9:
            low = graph.put("attention_bias/low", np.array(np.finfo(np.float32).min))
            scores = replace(scores, masked=((more[0], low, False),))
        else:
            scores = replace(scores, added=(more[0],))
    return scores, str(node.output[0])


def _weighted(graph: Graph, softmax: Any) -> Any:
    """The product of a softmax's values with others; ``None`` where that is not all that is done with them."""
    name = softmax.output[0]
    readers = graph.consumers(name)
    if len(readers) == 2 and {r.op_type for r in readers} == {
        "IsNaN",
        "Where",
    }:  # zeros in place of what nothing was added up for
        where = next(r for r in readers if r.op_type == "Where")
        if where.input[2] == name and _by_type(graph, where.input[0], "IsNaN") is not None and scalar(graph, where.input[1]) == 0:
            name = where.output[0]
    product = _only(graph, name, "MatMul")
    return product if product is not None and product.input[0] == name else None


def _scores(reader: Reader, name: str, depth: int = 8) -> _Scores | None:
    """What a softmax is taken of, taken apart; ``None`` where no product of two computed tensors is behind it."""
    graph = reader.graph
    node = graph.producers.get(name)
    if node is None or not depth:
        return None
    if node.op_type == "MatMul":
        stored = any(i in graph.constants for i in node.input)
        return None if stored else _Scores(str(node.input[0]), str(node.input[1]))
    if node.op_type == "Add":
        for inner, bias in (node.input, reversed(node.input)):
            found = _scores(reader, inner, depth - 1)
            if found:
                return replace(found, added=(*found.added, str(bias)))
    elif node.op_type == "Where":
        for low, inner, holds in ((node.input[1], node.input[2], True), (node.input[2], node.input[1], False)):
            value = reader.number(low)
            found = _scores(reader, inner, depth - 1) if value is not None and value < _LOW else None
            if found:
                return replace(found, masked=(*found.masked, (str(node.input[0]), str(low), holds)))
    elif node.op_type in ("Mul", "Div"):
        inner, factor = reader.unscaled(name)
        found = _scores(reader, inner, depth - 1) if inner != name else None
        if found and not found.added and not found.masked:
            return replace(found, factor=found.factor * factor)
    return None


def _bias(reader: Reader, scores: _Scores, tokens: str, made: dict[Any, str]) -> tuple[str, list[Any]]:
    """What is added to scores as one tensor with a row for each query, and the nodes for it: once for all layers alike."""
    from onnx import helper

    graph = reader.graph
    nodes: list[Any] = []

    def once(operator: str, *inputs: str) -> str:
        key = (operator, *inputs)
        if key not in made:
            out = made[key] = f"attention_bias/{len(made)}"
            nodes.extend(
                _rows(graph, inputs[0], tokens, out)
                if operator == "rows"
                else [helper.make_node(operator, inputs, [out], f"{out}/{operator}")]
            )
        return made[key]

    def with_rows(name: str, of: str) -> str:  # ONNX Runtime wants one for each query
        return once("rows", name) if len(reader.dims(of)) >= 2 and reader.dims(of)[-2] == 1 else name

    parts = [with_rows(name, name) for name in scores.added]
    for condition, low, holds in scores.masked:
        zero = graph.put("attention_bias/zero", np.array(0, np.float32))
        parts.append(with_rows(once("Where", condition, *([low, zero] if holds else [zero, low])), condition))
    if not parts:
        return "", nodes
    whole = parts[0]
    for part in parts[1:]:
        whole = once("Add", whole, part)
    return whole, nodes


def _rows(graph: Graph, bias: str, tokens: str, out: str) -> list[Any]:
    """A bias of one row (…, 1, length) for every query."""
    from onnx import helper

    one = graph.put("attention_bias/one", np.array([1]))
    return [
        helper.make_node("Shape", [tokens], [f"{out}/length"], f"{out}/Length", start=1, end=2),
        helper.make_node("Concat", [f"{out}/length", one], [f"{out}/shape"], f"{out}/Shape", axis=0),
        helper.make_node("Expand", [bias, f"{out}/shape"], [out], f"{out}/Rows"),
    ]
