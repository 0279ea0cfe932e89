"""Faults of what the file gives: the hidden state of another layer, several that could be it, vectors of another length."""

from __future__ import annotations

import numpy as np

from qguard.faults.graph import hidden_state
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.vectors.similarity import similarity_of


def wrong(site: FaultSite, back: int) -> Candidate:
    """The name of the last hidden state belongs to an earlier one; the last one is there, under another name.

    Args:
        site: Where.
        back: Layers that follow it (0: all).
    """
    return _beside(site, back, site.graph.output(), "hidden_states.last")


def several(site: FaultSite, _: None) -> Candidate:
    """Two hidden states without a name that says which is the last: whoever takes the first one is wrong."""
    return _beside(site, 1, "output_0", "output_1")


def _beside(site: FaultSite, back: int, early: str, last: str) -> Candidate:
    from onnx import helper

    graph = site.graph
    out, name = graph.output(), hidden_state(graph, back)
    own = next(o for o in graph.model.graph.output if o.name == out)
    if len(own.type.tensor_type.shape.dim) != 3:
        raise NotApplicable("the file does not give token embeddings")
    given = graph.before_output(out)
    graph.append([helper.make_node("Identity", [a], [b]) for a, b in ((name, early), (given, last))])
    outputs = graph.model.graph.output
    outputs.append(own)
    own.name, outputs[-1].name = early, last
    return site.operated()


def scaled(site: FaultSite, factor: float) -> Candidate:
    """Vectors of the right direction and another length.

    Args:
        site: Where.
        factor: Of the output.
    """
    from onnx import helper

    pipeline = site.base.pipeline
    if not similarity_of(pipeline).by_length:
        raise NotApplicable("the model ranks by the cosine, in which lengths do not count")
    if pipeline.unit_length or pipeline.normalizes_tokens:
        raise NotApplicable("the pipeline gives vectors of unit length, whatever the file does")
    graph = site.graph
    out = graph.output()
    inner = graph.before_output(out)
    kind = next(o.type.tensor_type.elem_type for o in graph.model.graph.output if o.name == out)
    times = graph.put("fault/times", np.asarray(factor, helper.tensor_dtype_to_np_dtype(kind)))
    graph.append([helper.make_node("Mul", [inner, times], [out])])
    return site.operated()
