"""Faults of the stored weights: scales, zero points, bits, heads, rows, other weights altogether."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from qguard.errors import ArtifactProblem
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.faults.surgery import ArtifactGraph, some
from qguard.files import read_json

# the projection behind the heads: its inputs are the heads' outputs, side by side
_PROJECTION = re.compile(r"attention[./]output[./]dense|out_proj|o_proj|attn[./]o|attention[./]out_lin")


def _channels(share: float, outputs: int) -> int:
    return int(share) if share >= 1 and not isinstance(share, float) else max(1, int(share * outputs))


def scale(site: FaultSite, how: tuple[Any, int]) -> Candidate:
    """Double the scale of channels.

    Args:
        site: Where.
        how: Channels of a layer (their number, or a share as a float), and layers (0: all).
    """
    share, count = how
    graph = site.graph
    for layer in some(graph.quantized, count):
        value = graph.vector(layer.scale, layer)
        value[: _channels(share, len(value))] *= 2
        _per_channel(graph, layer.scale, value)
    return site.operated()


def _per_channel(graph: ArtifactGraph, name: str, value: Any) -> None:
    """Store one number for each channel; as one number where they are all equal and one was stored."""
    old = graph.value(name)
    if old.size == 1:
        if not (value == value[0]).all():
            raise NotApplicable("the weights have one scale a matrix")
        value = value[:1]
    graph.put(name, value.reshape(old.shape).astype(old.dtype))


def zero_point(site: FaultSite, how: tuple[Any, int]) -> Candidate:
    """Move a layer's zero point; where the file has none, the stored weights move the other way, which is the same.

    Args:
        site: Where.
        how: Channels as in :func:`scale`, and by how many steps.
    """
    share, by = how
    graph = site.graph
    (layer,) = some(graph.quantized, 1)

    def moved(stored: Any) -> Any:
        limits = np.iinfo(stored.dtype)
        channels = slice(_channels(share, stored.shape[1]))
        stored[:, channels] = np.clip(stored[:, channels].astype(np.int32) - by, limits.min, limits.max)
        return stored

    if not layer.zero or layer.zero not in graph.initializers or graph.value(layer.zero).size == 1:
        graph.edit(layer, moved)
        return site.operated()
    value = graph.vector(layer.zero, layer)
    limits = np.iinfo(value.dtype)
    channels = slice(_channels(share, len(value)))
    value[channels] = np.clip(value[channels].astype(np.int32) + by, limits.min, limits.max)
    graph.put(layer.zero, value.reshape(graph.value(layer.zero).shape))
    return site.operated()


def flip_bits(site: FaultSite, count: float) -> Candidate:
    """Flip one bit each of some bytes.

    Args:
        site: Where.
        count: Bytes, or below 1 their share of all bytes of weights.
    """
    graph = site.graph
    layers = [x for x in graph.layers if x.weight in graph.initializers]
    sizes = [graph.value(x.weight).nbytes for x in layers]
    ends = np.cumsum(sizes)
    pick = np.random.default_rng(0)
    at = np.sort(pick.choice(ends[-1], int(count) if count >= 1 else int(count * ends[-1]), replace=False))
    bits = pick.integers(0, 8, len(at))
    for layer, end, size in zip(layers, ends, sizes, strict=True):
        mine = (at >= end - size) & (at < end)
        if mine.any():
            value = graph.value(layer.weight)
            raw = np.frombuffer(value.tobytes(), np.uint8).copy()
            raw[at[mine] - (end - size)] ^= (1 << bits[mine]).astype(np.uint8)
            graph.put(layer.weight, raw.view(value.dtype).reshape(value.shape))
    return site.operated()


def zero_heads(site: FaultSite, how: tuple[int, int]) -> Candidate:
    """Heads give zero: the rows of the projection behind attention that read them are zero.

    Args:
        site: Where.
        how: Heads of a layer (0: all), and layers (0: all).
    """
    heads, count = how
    of = read_json(site.base.root / "config.json", ArtifactProblem).get("num_attention_heads")
    found = [x for x in site.graph.layers if any(_PROJECTION.search(n) for n in x.names)]
    if not found or not isinstance(of, int):
        raise NotApplicable("no projection behind attention heads was found in the file")
    for layer in some(found, count):
        zero = site.graph.vector(layer.zero, layer) if layer.zero else np.zeros(1)

        def silent(stored: Any, zero: Any = zero) -> Any:
            size = len(stored) // of
            stored[: size * heads if heads else len(stored)] = zero.astype(stored.dtype)
            return stored

        site.graph.edit(layer, silent)
    return site.operated()


def noise(site: FaultSite, share: float | None) -> Candidate:
    """Other weights under the same scales.

    Args:
        site: Where.
        share: Standard deviation of what is added, relative to the spread of a channel's weights; ``None``: rows shuffled.
    """
    pick = np.random.default_rng(0)

    def other(stored: Any) -> Any:
        if share is None:
            return stored[pick.permutation(len(stored))]
        x = stored.astype(np.float64)
        x += share * x.std(0) * pick.standard_normal(x.shape)
        if np.issubdtype(stored.dtype, np.floating):
            return x.astype(stored.dtype)
        limits = np.iinfo(stored.dtype)
        return np.clip(np.rint(x), limits.min, limits.max).astype(stored.dtype)

    for layer in site.graph.layers:
        site.graph.edit(layer, other)
    return site.operated()
