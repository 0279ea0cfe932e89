"""Faults of whole layers: their weights lie in each other's places, each of them sound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qguard.faults.site import Candidate, FaultSite, NotApplicable

if TYPE_CHECKING:
    from qguard.faults.surgery import ArtifactGraph

_NUMBER = re.compile(r"(?<![A-Za-z])(?:layers?|blocks?|h)[._/](\d+)(?=[._/])")


def swapped(site: FaultSite, how: str) -> Candidate:
    """Exchange what layers have stored, by the names of their tensors.

    Args:
        site: Where.
        how: ``matrix``: one matrix in the middle with the same one of the next layer; ``two``: all of two neighbors; ``all``:
            the order of all layers is reversed.
    """
    graph = site.graph
    places: dict[str, dict[int, list[str]]] = {}  # name without its layer → layer → what is stored under it
    matrices = {}
    for layer in graph.layers:  # weights may be anonymous, and the operators that read them named
        if found := next((m for n in layer.names if (m := _NUMBER.search(n))), None):
            stored = [n for n in (layer.weight, layer.scale, layer.zero) if n in graph.initializers]
            places.setdefault(_without(found), {})[int(found[1])] = stored
            matrices[int(found[1])] = _without(found)
    known = {name for by in places.values() for stored in by.values() for name in stored}
    for name in graph.initializers.keys() - known:
        if found := _NUMBER.search(name):
            places.setdefault(_without(found), {}).setdefault(int(found[1]), []).append(name)
    numbers = sorted(matrices)
    if len(numbers) < 2:
        raise NotApplicable("no weights of the file are named after their layers")
    middle = (len(numbers) - 1) // 2
    pairs = [(numbers[middle], numbers[middle + 1])]
    if how == "all":
        pairs = list(zip(numbers[: len(numbers) // 2], numbers[::-1], strict=False))
    wanted = [matrices[numbers[middle]]] if how == "matrix" else list(places)
    for by in (places[key] for key in wanted):
        for first, second in [(by[i], by[j]) for i, j in pairs if i in by and j in by]:
            _exchange(graph, first, second)
    return site.operated()


def _without(found: re.Match[str]) -> str:
    return f"{found.string[: found.start(1)]}*{found.string[found.end(1) :]}"


def _exchange(graph: ArtifactGraph, first: Sequence[str], second: Sequence[str]) -> None:
    for a, b in zip(first, second, strict=True):
        x, y = graph.value(a), graph.value(b)
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            raise NotApplicable(f"{a} and {b} are not alike")
        graph.put(a, y)
        graph.put(b, x)
