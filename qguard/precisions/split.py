"""Channels that stay in float without gathering them: the product that makes them is split by its outputs.

What follows it up to the next product, an activation or a gate, treats each channel by itself. So a product of the other
channels and one of these few give the same values as one of all, and nothing has to be picked out of a wide tensor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qguard.onnx.edit import Graph
from qguard.onnx.structure import BY_CHANNEL

_FAR = 24  # operators of an activation that is written out
OUTLIERS = "/outliers"  # behind the names of what the few channels have of their own


@dataclass(frozen=True)
class Made:
    """How a tensor is made of the outputs of products, channel by channel.

    Attributes:
        x: The tensor.
        chain: The operators between, in the order of the graph.
        sources: The outputs of products.
    """

    x: str
    chain: tuple[Any, ...]
    sources: tuple[str, ...]

    def again(self) -> list[Any]:
        """The operators for the few channels, which end in ``x`` + :data:`OUTLIERS`."""
        import onnx

        mine = {*self.sources, *(o for node in self.chain for o in node.output if o)}
        made = []
        for node in self.chain:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{node.name}{OUTLIERS}"
            for names in (copy.input, copy.output):
                names[:] = [f"{name}{OUTLIERS}" if name in mine else name for name in names]
            made.append(copy)
        return made


def made_of(graph: Graph, x: str, products: Collection[str], readers: Iterable[Any]) -> Made | None:
    """How ``x`` is made, if nothing else reads what lies between; ``None`` where it is not, or by operators that mix channels.

    Args:
        graph: The graph.
        x: A tensor with channels on its last axis.
        products: Outputs of products that can be split.
        readers: The nodes that may read ``x``.
    """
    outputs = {o.name for o in graph.model.graph.output}
    todo, sources, chain = [x], list[str](), dict[str, Any]()
    while todo:
        name = todo.pop()
        if name in products:
            sources.append(name)
            continue
        node = graph.producers.get(name)
        if node is None or node.op_type not in BY_CHANNEL or len(chain) > _FAR:
            return None
        if node.output[0] in chain:
            continue
        chain[node.output[0]] = node
        todo += [i for i in node.input if i and not _number(graph, i)]
    sources = list(dict.fromkeys(sources))
    allowed = {id(node) for node in chain.values()}
    last = {node.output[0] for node in readers}
    for name in (*sources, *chain):
        for reader in graph.consumers(name):
            if id(reader) not in allowed and not (name == x and reader.output[0] in last):
                return None
    if not chain or not sources or outputs & {*sources, *chain}:
        return None
    order = [node for node in graph.nodes if id(node) in allowed]
    return Made(x, tuple(order), tuple(sources))


def _number(graph: Graph, name: str) -> bool:
    stored = graph.constants.get(name)
    return stored is not None and int(np.prod(stored.dims)) == 1


def chains(graph: Graph, wanted: Mapping[str, Iterable[Any]], products: Collection[str]) -> dict[str, Made]:
    """By tensor how it is made, of those that can be; no product is split twice.

    Args:
        graph: The graph.
        wanted: Tensor → the nodes that may read it.
        products: See :func:`made_of`.
    """
    found = dict[str, Made]()
    taken = set[str]()
    for x, readers in wanted.items():
        made = made_of(graph, x, products, readers)
        if made is not None and not taken & {*made.sources}:
            taken |= {*made.sources}
            found[x] = made
    return found


NOTE = "qguard.split"  # in a model's metadata: which outputs were made apart


def note(graph: Graph, channels: Mapping[str, tuple[Made, Any]]) -> None:
    """Write down in the model which channels of what are made apart, for those who compare its tensors with fp32's.

    Args:
        graph: The split graph.
        channels: Tensor → how it is made, and the indices of its channels in float.
    """
    if not channels:
        return
    entries = [[x, list(made.sources), np.asarray(at).tolist()] for x, (made, at) in channels.items()]
    graph.model.metadata_props.add(key=NOTE, value=json.dumps(entries))


def rejoined(graph: Graph) -> None:
    """Join what was made apart, in place: every tensor has all of its channels again, in the model's order.

    It computes the same: the operators between treat each channel by itself. A note that does not fit the graph changes nothing.
    """
    from onnx import helper

    for x, sources, few in _noted(graph):
        parts = [graph.producers.get(f"{name}{OUTLIERS}") for name in sources]
        end = graph.producers.get(f"{x}{OUTLIERS}")
        width = _width(graph, sources[0], len(few))
        if any(p is None for p in parts) or end is None or x not in graph.producers or width is None or max(few) >= width:
            continue
        most = np.setdiff1d(np.arange(width), few)
        order = graph.put(f"{x}/order", np.argsort(np.concatenate([most, few])).astype(np.int64))
        few_at, most_at = (graph.put(f"{x}/{n}", np.asarray(at, np.int64)) for n, at in (("few", few), ("most", most)))
        between = _between(graph, x, sources)
        readers = [n for n in graph.consumers(x) if id(n) not in between]
        graph.redirect(readers, {x: f"{x}/most_channels"})
        graph.rename_outputs({name: f"{name}/most_channels" for name in sources})
        made = [
            helper.make_node("Gather", [x, at], [out], f"{out}/Gather", axis=-1)
            for at, out in ((few_at, f"{x}{OUTLIERS}"), (most_at, f"{x}/most_channels"))
        ]
        for name in sources:
            pair = [f"{name}/most_channels", f"{name}{OUTLIERS}"]
            made.append(helper.make_node("Concat", pair, [f"{name}/both"], f"{name}/Concat", axis=-1))
            made.append(helper.make_node("Gather", [f"{name}/both", order], [name], f"{name}/Order", axis=-1))
        graph.set_nodes([*(n for n in graph.nodes if list(n.output) != list(end.output)), *made])
        graph.drop_unread()
        graph.sort()


def _noted(graph: Graph) -> Iterator[tuple[str, list[str], list[int]]]:
    found = next((p.value for p in graph.model.metadata_props if p.key == NOTE), "[]")
    try:
        entries = json.loads(found)
        for x, sources, few in entries:
            if sources and few and all(isinstance(i, int) and i >= 0 for i in few) and len({*few}) == len(few):
                yield str(x), [str(s) for s in sources], sorted(few)
    except (ValueError, TypeError):
        return


def _width(graph: Graph, source: str, few: int) -> int | None:
    """Channels of a source before it was split: of the vector that was last added or multiplied along them."""
    sizes = {}
    for name in (source, f"{source}{OUTLIERS}"):
        node = graph.producers.get(name)
        stored = [graph.constants[i] for i in node.input if i in graph.constants] if node is not None else []
        sizes[name] = max((int(t.dims[-1]) for t in stored if t.dims), default=0)
    return sum(sizes.values()) if all(sizes.values()) and sizes[f"{source}{OUTLIERS}"] == few else None


def _between(graph: Graph, x: str, sources: Collection[str]) -> set[int]:
    """The operators between sources and ``x``, by identity."""
    found, todo = set[int](), [x]
    while todo:
        node = graph.producers.get(todo.pop())
        if node is None or id(node) in found or (node.output and node.output[0] in sources):
            continue
        found.add(id(node))
        todo += [i for i in node.input if i]
    return found
