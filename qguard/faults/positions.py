"""Faults of positions: tokens get the embedding of another place."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.errors import ArtifactProblem
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.files import read_json

_READ = {"Slice": (1, 2), "Gather": (1,)}  # operator → its inputs that say which rows are read


def exchanged(site: FaultSite, _: None) -> Candidate:
    """The last two rows of the table are exchanged, which only the longest texts read."""
    graph, table = site.graph, _table(site)
    value = graph.value(table)
    value[[-2, -1]] = value[[-1, -2]]
    graph.put(table, value)
    return site.operated()


def shifted(site: FaultSite, by: int) -> Candidate:
    """Every text begins further on, as where positions count from the padding index, or forget to.

    Args:
        site: Where.
        by: How many places.
    """
    from onnx import helper

    graph, table = site.graph, _table(site)
    made: list[Any] = []
    for node in graph.consumers(table):
        if node.op_type not in _READ:
            graph.put(table, np.roll(graph.value(table), -by, 0))
            return site.operated()
        for i in _READ[node.op_type]:
            number = graph.put(f"fault/by{len(made)}", np.array(by))
            made.append(helper.make_node("Add", [node.input[i], number], [f"fault/place{len(made)}"]))
            graph.set_input(node, i, made[-1].output[0])
    graph.append(made)
    graph.sort()
    return site.operated()


def _table(site: FaultSite) -> str:
    """The one float matrix with a row for each position that ``config.json`` declares."""
    config = read_json(site.base.root / "config.json", ArtifactProblem)
    words = site.graph.table()[0]
    rows = config.get("max_position_embeddings")
    found = [
        name
        for name, tensor in site.graph.initializers.items()
        if len(tensor.dims) == 2 and tensor.dims[0] == rows and name != words and "position" in name
    ]
    if len(found) != 1 or not np.issubdtype(site.graph.array(found[0]).dtype, np.floating):
        raise NotApplicable("the file has no table of positions")
    return found[0]
