"""Faults of the graph: the mask, what fusions replace, layers that are gone, overflow, the operator set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.kinds import CROSS_ENCODER, SPARSE
from qguard.onnx.edit import attribute

if TYPE_CHECKING:
    from qguard.faults.surgery import ArtifactGraph

_NORMS = {
    "SimplifiedLayerNormalization": 1,
    "LayerNormalization": 1,
    "SkipLayerNormalization": 2,
    "SkipSimplifiedLayerNormalization": 2,
    "EmbedLayerNormalization": 5,
}  # operator → the input that holds its weight
_ATTENTION = ("Attention", "QAttention", "MultiHeadAttention")


def opset(site: FaultSite, version: int) -> Candidate:
    """Declare an older operator set.

    Args:
        site: Where.
        version: Of ONNX's own operators.
    """
    from qguard.artifacts.layers import read_layers

    if site.artifact.onnx is None or version >= read_layers(site.artifact).needs_opset:
        raise NotApplicable("no scale of the file depends on the operator set: its integer operators state their own")
    site.graph.set_opset(version)
    return site.operated()


def drop_mask(site: FaultSite, count: int) -> Candidate:
    """Replace the mask by one that is 1 everywhere.

    Args:
        site: Where.
        count: Attention layers (0: the whole graph).
    """
    from onnx import TensorProto, helper

    graph = site.graph
    mask = next((i.name for i in graph.model.graph.input if "mask" in i.name), "")
    if not mask or not graph.consumers(mask):
        raise NotApplicable("the graph takes no attention mask")
    kind = next(i.type.tensor_type.elem_type for i in graph.model.graph.input if i.name == mask)
    zero = graph.put("fault/zero", np.zeros((), helper.tensor_dtype_to_np_dtype(kind)))
    readers: list[Any] = graph.consumers(mask)
    name, element = mask, kind
    if count:
        fused = graph.operators(*_ATTENTION)
        if not fused:
            raise NotApplicable("attention is not one operator in the file, whose mask could be taken away")
        readers = fused[len(fused) // 2 :][:count]
        if not readers[0].domain:  # ONNX's own, to which a mask is what is added to scores: without one all tokens count
            for node in readers:
                del node.input[3:]
            graph.drop_unread()
            return site.operated()
        near = [n for n in readers[0].input if n == mask or ((m := graph.producers.get(n)) is not None and mask in m.input)]
        if not near:
            raise NotApplicable("the mask of one attention operator was not found")
        name = near[0]
        cast = graph.producers.get(name)
        element = attribute(cast, "to", kind) if cast is not None else kind
    graph.redirect(readers, {name: "fault/all"})
    graph.prepend([
        helper.make_node("GreaterOrEqual", [mask, zero], ["fault/true"]),
        helper.make_node("Cast", ["fault/true"], ["fault/all"], to=element or TensorProto.INT64),
    ])  # fmt: skip
    return site.operated()


def layer_norm(site: FaultSite, how: tuple[str, float]) -> Candidate:
    """Another epsilon, or no weight.

    Args:
        site: Where.
        how: ``epsilon`` and its value, or ``weight``.
    """
    graph = site.graph
    what, value = how
    nodes = graph.operators(*_NORMS)
    if not nodes:
        raise NotApplicable("the graph holds no LayerNorm operator")
    held = [name for n in nodes if (name := n.input[_NORMS[n.op_type]]) in graph.initializers]
    if what == "weight" and all((graph.array(name) == 1).all() for name in held):
        raise NotApplicable("all weights of the norms are 1")
    for node in nodes:
        if what == "epsilon":
            found = [a for a in node.attribute if a.name == "epsilon"]
            if found:
                found[0].f = value
            continue
        name = node.input[_NORMS[node.op_type]]
        if name in graph.initializers:
            graph.put(name, np.ones_like(graph.array(name)))
    return site.operated()


def gelu(site: FaultSite, form: str) -> Candidate:
    """Another function in place of GELU, after the same bias.

    Args:
        site: Where.
        form: ``FastGelu``, ``QuickGelu`` or ``Relu``.
    """
    from onnx import helper

    graph = site.graph
    nodes = graph.operators("BiasGelu", "Gelu")
    if not nodes:
        raise NotApplicable("the graph holds no GELU operator")
    domain = {} if form == "Relu" else {"domain": "com.microsoft"}
    for node in nodes:
        x, out = node.input[0], node.output[0]
        made = []
        if len(node.input) > 1:
            made.append(helper.make_node("Add", list(node.input), [f"{out}/biased"], f"{node.name}/bias"))
            x = f"{out}/biased"
        graph.replace(node, [*made, helper.make_node(form, [x], [out], node.name, **domain)])
    graph.import_domain("com.microsoft")
    return site.operated()


def remove_layers(site: FaultSite, count: float) -> Candidate:
    """End the graph at the hidden state before one of its last attention layers. Where the file computes a head behind the last
    layer, that layer stays, and those before it are removed.

    Args:
        site: Where.
        count: Layers to remove; below 1 their share.
    """
    from onnx import helper

    graph = site.graph
    if site.base.kind in (CROSS_ENCODER, SPARSE):
        last, early = hidden_state(graph, 1), hidden_state(graph, 1 + removed(graph, count))
        graph.redirect(graph.consumers(last), {last: early})
        graph.drop_unread()
        return site.operated()
    name = hidden_state(graph, count)
    out = graph.output()
    graph.before_output(out)
    graph.append([helper.make_node("Identity", [name], [out], "fault/early")])
    graph.drop_unread()
    return site.operated()


def removed(graph: ArtifactGraph, back: float) -> int:
    """How many attention layers that is.

    Args:
        graph: Where.
        back: Their number; below 1 their share, 0 for all.
    """
    layers = len(graph.operators(*_ATTENTION))
    return layers if not back else int(back) if back >= 1 else int(back * layers)


def hidden_state(graph: ArtifactGraph, back: float) -> str:
    """The tensor that goes into one of the last attention layers.

    Args:
        graph: Where.
        back: Layers that follow it; below 1 their share, 0 for all.

    Raises:
        NotApplicable: where it is not found.
    """
    fused = graph.operators(*_ATTENTION)
    if len(fused) < 2:
        raise NotApplicable("attention is not one operator in the file, which would mark its layers")
    number = removed(graph, back)
    if number > len(fused):
        raise NotApplicable(f"the file has {len(fused)} layers, and {number} would be removed")
    name = str(fused[len(fused) - number].input[0])
    # back to the stream that attention and the residual sum both read
    while len(graph.consumers(name)) < 2 or graph.producers[name].op_type.endswith("QuantizeLinear"):
        node = graph.producers.get(name)
        if node is None:
            raise NotApplicable("the hidden state before a layer was not found")
        name = node.input[0]
    return name


def overflow(site: FaultSite, share: float) -> Candidate:
    """The output passes through 16-bit floats at a scale at which the largest values of some texts overflow.

    Args:
        site: Where.
        share: Of the texts.
    """
    from onnx import TensorProto, helper

    encoder = site.session.encoder(site.precision, site.model)
    ids = site.session.golden(site.model, site.suites[0]).token_ids
    rows = [ids[i] for i in range(0, len(ids), max(1, len(ids) // 200))]
    size = np.asarray if site.base.kind == SPARSE else np.abs  # below 0 all logits are the same to a sparse model
    largest = sorted(float(size(encoder.runtime(*_alone(row))).max()) for row in rows)
    at = min(int(len(largest) * (1 - share)), len(largest) - 1)
    limit = largest[at] * (0.5 if share >= 1 else 0.999)
    if limit <= 0:
        raise NotApplicable("no word of these texts is active")
    graph = site.graph
    out = graph.output()
    inner = graph.before_output(out)
    up = graph.put("fault/up", np.float32(65504 / limit))
    down = graph.put("fault/down", np.float32(limit / 65504))
    graph.append([
        helper.make_node("Mul", [inner, up], ["fault/large"]),
        helper.make_node("Cast", ["fault/large"], ["fault/half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["fault/half"], ["fault/float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["fault/float", down], [out]),
    ])  # fmt: skip
    return site.operated()


def hidden_overflow(site: FaultSite, count: int) -> Candidate:
    """What a norm gives is scaled beyond 65,504 and back in half precision, which ONNX Runtime on a CPU computes in float.

    Args:
        site: Where.
        count: Norms in the middle of the graph (0: all).
    """
    from onnx import TensorProto, helper

    graph = site.graph
    norms = graph.operators(*_NORMS)
    if not norms:
        raise NotApplicable("the graph holds no LayerNorm operator")
    up, down = (graph.put(f"fault/{name}", np.float16(2.0**power)) for name, power in (("up", 15), ("down", -15)))
    chosen = {n.output[0] for n in (norms[len(norms) // 2 :][:count] if count else norms)}
    graph.rename_outputs({out: f"{out}/fault" for out in chosen})

    def behind(out: str) -> list[Any]:
        inner = f"{out}/fault"
        return [
            helper.make_node("Cast", [inner], [f"{inner}/half"], f"{inner}/half", to=TensorProto.FLOAT16),
            helper.make_node("Mul", [f"{inner}/half", up], [f"{inner}/large"], f"{inner}/large"),
            helper.make_node("Mul", [f"{inner}/large", down], [f"{inner}/small"], f"{inner}/small"),
            helper.make_node("Cast", [f"{inner}/small"], [out], f"{inner}/float", to=TensorProto.FLOAT),
        ]

    added = {f"{out}/fault": behind(out) for out in chosen}
    graph.rewrite(lambda node: [node, *added[node.output[0]]] if node.output and node.output[0] in added else None)
    return site.operated()


def _alone(row: list[int]) -> tuple[Any, ...]:
    from qguard.encoders import padded

    return padded([row])
