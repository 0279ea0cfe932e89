"""Faults of the activations' ranges: too narrow, with a sentinel in them, of the batch instead of fixed."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable


def _quantized(site: FaultSite, count: int) -> list[Any]:
    """Nodes that quantize an activation with a stored scale, from the middle of the model on; all for 0."""
    graph = site.graph
    stored = graph.initializers
    found = [n for n in graph.operators("QuantizeLinear") if n.input[1] in stored and n.input[0] not in stored]
    if not found:
        raise NotApplicable("no activation of the file has a stored range")
    return found[len(found) // 2 :][:count] if count else found


def narrow(site: FaultSite, how: tuple[int, int]) -> Candidate:
    """Divide ranges: what lies outside is clipped.

    Args:
        site: Where.
        how: Layers (0: all), and by how much.
    """
    count, by = how
    for name in {node.input[1] for node in _quantized(site, count)}:
        value = site.graph.value(name)
        site.graph.put(name, (value / by).astype(value.dtype))
    return site.operated()


def sentinel(site: FaultSite, how: tuple[int, float]) -> Candidate:
    """Ranges that also hold a mask's sentinel, as calibration over all operators makes them.

    Args:
        site: Where.
        how: Layers (0: all), and the sentinel without its sign.
    """
    count, widest = how
    for name in {node.input[1] for node in _quantized(site, count)}:
        value = site.graph.value(name)
        site.graph.put(name, np.full_like(value, widest / 255))
    return site.operated()


def dynamic(site: FaultSite, count: int) -> Candidate:
    """Ranges taken over the batch when the model runs, in place of the stored ones.

    Args:
        site: Where.
        count: Layers (0: all).
    """
    from onnx import helper

    graph = site.graph
    for node in _quantized(site, count):
        out = node.output[0]
        scale, zero = f"{out}/batch_scale", f"{out}/batch_zero"
        if len(node.input) < 3 or graph.value(node.input[2]).dtype != np.uint8 or graph.value(node.input[1]).size > 1:
            raise NotApplicable("activations are not quantized to unsigned 8 bits with one scale, as ranges of the batch are")
        graph.redirect(graph.consumers(out), {node.input[1]: scale, node.input[2]: zero})
        graph.replace(node, [helper.make_node("DynamicQuantizeLinear", [node.input[0]], [out, scale, zero], node.name)])
    return site.operated()
