"""Channels that stay in float without gathering them: the product that makes them is split by its outputs.

What follows it up to the next product, an activation or a gate, treats each channel by itself. So a product of the other
channels and one of these few give the same values as one of all, and nothing has to be picked out of a wide tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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
