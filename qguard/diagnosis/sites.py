"""Sites: tensors that the fp32 graph and the artifact both compute, with the layer that computes each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.diagnosis.names import home, key, layer
from qguard.diagnosis.opened import opened
from qguard.encoders.feeding import Feeding
from qguard.errors import ArtifactProblem
from qguard.onnx.edit import INTEGER, Graph
from qguard.onnx.read import read_graph
from qguard.precisions.attention import PROJECTIONS
from qguard.precisions.split import rejoined

TABLE, LINEAR, ATTENTION, BIAS, ACTIVATION, NORM = "embedding", "linear", "attention", "bias", "activation", "LayerNorm"
_EMBED = ("EmbedLayerNormalization", "QEmbedLayerNormalization")
_CORE = ("MultiHeadAttention", "Attention", "QAttention")
_NORMS = ("LayerNormalization", "SkipLayerNormalization", *_EMBED)
_GELU = ("Gelu", "FastGelu", "BiasGelu")
_FORWARD = ("Cast", "Mul", "Identity")
_STORED = ("DequantizeLinear", "QuantizeLinear", "Transpose", *_FORWARD)  # what may stand between a constant and its use
# product → the input that holds its weight; QAttention is taken apart, or no layer of the fp32 graph is like it
_WEIGHT = {o: INTEGER[o].weight for o in ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul")}
_WEIGHT |= {"MatMul": 1, "Gemm": 1}


@dataclass(frozen=True)
class AlignedTensor:
    """One tensor in both graphs.

    Attributes:
        layer: The layer's name, ``encoder/layer.0/output/dense``.
        kind: One of the kinds of this module.
        fp32: Its name in the fp32 graph.
        candidate: Its name in the artifact's graph.
        node: The operator of the fp32 graph that makes it; quantizers know the layer to leave out by this name.
    """

    layer: str
    kind: str
    fp32: str
    candidate: str
    node: str


class Net(Graph):
    """The graph of an encoder, which knows its layers.

    Attributes:
        loaded: What was made to run it, for the next time.
        feeding: What the file does not say of its inputs.
    """

    def __init__(self, model: Any, folder: Path | None = None, feeding: Feeding | None = None) -> None:
        super().__init__(model, folder)
        self.feeding = feeding
        self.loaded = dict[Any, Any]()

    @classmethod
    def read(cls, file: Path, feeding: Feeding | None = None, *, whole: bool = False) -> Net:
        """The file, its fused operators taken apart unless it is wanted ``whole``.

        Raises:
            ArtifactProblem: see :func:`qguard.onnx.read.read_graph`.
        """
        net = cls(read_graph(file), file.parent, feeding)
        rejoined(net)
        if not whole:
            opened(net)
        return net

    @cached_property
    def keys(self) -> dict[str, str]:
        """Key → tensor; of two tensors with one key the later, which is dequantized."""
        return {key(name, node): name for node in self.nodes for name in node.output[:1] if name}

    def constant(self, name: str) -> Any:
        """The stored matrix or table behind an input, through what dequantizes or moves it; ``None`` without."""
        return self.constants.get(self.behind(name, _STORED))

    def kind(self, node: Any) -> str:
        """What layer an operator of the fp32 graph ends; empty for none."""
        if node.op_type in ("MatMul", "Gemm", "FusedMatMul") and self._is_matrix(node.input[1]):
            return LINEAR
        if node.op_type in ("Gather", "Slice", "Identity", "DequantizeLinear"):
            source = self.producers.get(node.input[0], node)
            return TABLE if source.op_type in ("Gather", "Slice", *_FORWARD) and self._is_matrix(source.input[0]) else ""
        if node.op_type in _CORE:
            return ATTENTION
        if node.op_type in _GELU:
            return ACTIVATION
        if node.op_type in _NORMS:
            return NORM
        if node.op_type != "Add":
            return ""
        if any(node.output[0].endswith(f"/{part}/Add_output_0") for part in PROJECTIONS):
            return LINEAR
        if any(i in self.producers and self.producers[i].op_type == "SimplifiedLayerNormalization" for i in node.input):
            return NORM
        return BIAS if any(self._is_product(i) for i in node.input) else ""

    def _is_matrix(self, name: str) -> bool:
        tensor = self.constant(name)
        return tensor is not None and len(tensor.dims) == 2

    def _is_product(self, name: str) -> bool:
        node = self.producers.get(name)
        return node is not None and node.op_type in ("MatMul", "Gemm") and self._is_matrix(node.input[1])

    def layers(self) -> Iterator[tuple[str, str, str, Any]]:
        """(key, layer, kind, node) of each layer of an fp32 graph, in its order."""
        biased = {node.input[0] for node in self.nodes if self.kind(node) == LINEAR and node.op_type == "Add"}
        read = {node.input[0] for node in self.nodes if node.op_type in _FORWARD}
        for node in self.nodes:
            kind, out = self.kind(node), node.output[0]
            if not kind or out in biased or (kind == TABLE and out in read):
                continue
            found = key(out, node)
            name = home(found)
            if kind == BIAS:
                name = f"{name if name.endswith('dense') else name + '/dense'}.bias"
            elif kind == NORM:
                name = layer(self._beta(node)) or name
            yield found, name, kind, node

    def _beta(self, node: Any) -> str:
        return next((i for i in reversed(node.input) if i in self.constants and len(self.constants[i].dims) == 1), "")


def align(fp32: Net, candidate: Net) -> list[AlignedTensor]:
    """The sites of two graphs: by name where names agree, else linear layers by their order and shapes.

    Raises:
        ArtifactProblem: when neither tells which layer is which.
    """
    layers = list(fp32.layers())
    sites: list[AlignedTensor] = []
    # products without a tensor of their own in the artifact, whose operator adds the bias as well: the sum stands for them
    inside: dict[str, tuple[str, str, str]] = {}
    for k, name, kind, node in layers:
        mine = name, kind, node.name
        if k in candidate.keys:
            if kind == BIAS:
                mine = next((inside[i] for i in node.input if i in inside), mine)
            sites.append(AlignedTensor(*mine[:2], node.output[0], candidate.keys[k], mine[2]))
        elif kind == LINEAR:
            inside[node.output[0]] = mine
    linear = [entry for entry in layers if entry[2] == LINEAR]
    if 2 * sum(s.kind == LINEAR for s in sites) >= len(linear) > 0:
        return sites
    return _by_order(fp32, candidate, linear)


def _by_order(fp32: Net, candidate: Net, linear: list[tuple[str, str, str, Any]]) -> list[AlignedTensor]:
    theirs = [(node, tensor) for node in candidate.nodes if (tensor := _weight(candidate, node)) is not None]
    mine = [_weight(fp32, fp32.producers[n.input[0]] if n.op_type == "Add" else n) for _, _, _, n in linear]
    shapes = [sorted(t.dims) for t in mine], [sorted(t.dims) for _, t in theirs]
    if not linear or shapes[0] != shapes[1]:
        raise ArtifactProblem(
            f"the artifact's layers cannot be aligned with the fp32 export's: no common names, and {len(theirs)} weight "
            f"multiplications of other shapes or order against {len(linear)}; diagnose needs a file of the same architecture, "
            "exported with names like encoder/layer.0/output/dense"
        )
    return [
        AlignedTensor(name, kind, node.output[0], _result(candidate, their, node.op_type == "Add"), node.name)
        for (_, name, kind, node), (their, _) in zip(linear, theirs, strict=True)
    ]


def _weight(net: Net, node: Any) -> Any:
    """The weight matrix that an operator multiplies with, ``None`` for other operators."""
    if node.op_type not in _WEIGHT:
        return None
    tensor = net.constant(node.input[_WEIGHT[node.op_type]])
    return tensor if tensor is not None and len(tensor.dims) == 2 else None


def _result(net: Net, node: Any, biased: bool) -> str:
    """The float tensor of a product: behind casts and scales, and with its bias where that is wanted."""
    name = str(node.output[0])
    for _ in range(4):
        user = next(iter(net.consumers(name)), None)
        if user is None:
            break
        scaled = user.op_type == "Cast" or (user.op_type == "Mul" and node.op_type == "MatMulInteger")
        other = [i for i in user.input if i != name]
        adds = biased and user.op_type == "Add" and other and other[0] in net.constants and len(net.constants[other[0]].dims) == 1
        if not scaled and not adds:
            break
        name = str(user.output[0])
        if adds:
            break
    return name


def segment(net: Net, name: str, until: set[str]) -> list[Any]:
    """The operators behind a tensor up to the tensors of ``until``, in the graph's order."""
    todo, found = [name], set()
    while todo:
        node = net.producers.get(todo.pop())
        if node is None or id(node) in found:
            continue
        found.add(id(node))
        todo += [i for i in node.input if i and i not in until]
    return [n for n in net.nodes if id(n) in found]
