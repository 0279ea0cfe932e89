"""Faults of multi-vector models: what fills queries up, and which tokens of documents count."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.files import dump_json
from qguard.kinds import MULTI_VECTOR
from qguard.models.modules import MultiVectorMask
from qguard.models.pipeline import Late


def _late(site: FaultSite) -> Late:
    site.need(MULTI_VECTOR)
    found = site.base.pipeline.late
    assert found is not None  # as every multi-vector model's
    return found


def _filled(site: FaultSite) -> Late:
    found = _late(site)
    if not found.strategy:
        raise NotApplicable("the model does not fill queries up")
    return found


def filling(site: FaultSite, change: str) -> Candidate:
    """Declare another filling of queries.

    Args:
        site: Where.
        change: ``attend``: the network attends to it where the model's does not, or the other way round; ``shorter``: to half of
            the length; ``none``: no filling.
    """
    late = _filled(site)
    inner = site.base.pipeline.transformer
    path, old = site.config(f"{inner}/sentence_bert_config.json" if inner else "sentence_bert_config.json")
    declared: dict[str, Any] = dict(old.get("query_expansion") or {})
    if change == "attend":
        declared["attend"] = not late.attend
    else:
        declared["length"] = max(1, late.length // 2)
    path.write_bytes(dump_json({**old, "query_expansion": None if change == "none" else declared}))
    return site.sealed()


def zeroed(site: FaultSite, _: None) -> Candidate:
    """The file gives zeros where the mask is 0, which hides what fills queries up."""
    from onnx import TensorProto, helper

    if _filled(site).attend:
        raise NotApplicable("the network attends to what fills queries up, so that the mask is 1 there")
    graph = site.graph
    mask = next((i.name for i in graph.model.graph.input if "mask" in i.name), "")
    if not mask or graph.opset < 13:
        raise NotApplicable("the graph takes no attention mask, or is of an operator set below 13")
    out = graph.output()
    inner = graph.before_output(out)
    graph.append([
        helper.make_node("Unsqueeze", [mask, graph.put("fault/last", np.array([2]))], ["fault/column"]),
        helper.make_node("Cast", ["fault/column"], ["fault/kept"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [inner, "fault/kept"], [out]),
    ])  # fmt: skip
    return site.operated()


def unskipped(site: FaultSite, _: None) -> Candidate:
    """Every token of a document counts."""
    mask = next((m for m in site.base.pipeline.head if isinstance(m, MultiVectorMask)), None)
    if _late(site) and (mask is None or not mask.skipped):
        raise NotApplicable("all tokens of the model's documents count")
    assert mask is not None
    path, old = site.config(f"{mask.path}/config.json")
    path.write_bytes(dump_json({**old, "skiplist_words": []}))
    return site.sealed()
