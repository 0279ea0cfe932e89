"""Faults of cross-encoders: labels in another order, a lost or doubled activation, pairs that are fed in another way."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.encoders import Runtime
from qguard.encoders.ports import TYPES, role_of
from qguard.faults.runtime import around
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.files import dump_json
from qguard.kinds import CROSS_ENCODER
from qguard.models.pipeline import ST_CONFIG, Scoring


def _scoring(site: FaultSite) -> Scoring:
    site.need(CROSS_ENCODER)
    scoring = site.base.pipeline.scoring
    assert scoring is not None  # as every cross-encoder's
    return scoring


def labels_turned(site: FaultSite, _: None) -> Candidate:
    """The classifier's outputs come in reverse order, as of an export that sorts labels by name."""
    from onnx import helper

    labels = len(_scoring(site).labels)
    if labels < 2:
        raise NotApplicable("the model has one label")
    graph = site.graph
    out = graph.output()
    inner = graph.before_output(out)
    turned = graph.put("fault/labels", np.arange(labels)[::-1].astype(np.int64))
    graph.append([helper.make_node("Gather", [inner, turned], [out], axis=1)])
    return site.operated()


def activated(site: FaultSite, _: None) -> Candidate:
    """The file applies the activation itself, and whoever reads it does so again."""
    from onnx import helper

    operator = "Softmax" if len(_scoring(site).labels) > 1 else "Sigmoid"
    graph = site.graph
    out = graph.output()
    inner = graph.before_output(out)
    graph.append([helper.make_node(operator, [inner], [out])])
    return site.operated()


def activation_lost(site: FaultSite, _: None) -> Candidate:
    """The artifact declares another activation than the model."""
    own = _scoring(site).activation
    other = "torch.nn.modules.activation.Sigmoid" if own == "Identity" else "torch.nn.modules.linear.Identity"
    path, old = site.config(ST_CONFIG)
    if not (site.folder / "modules.json").exists():
        raise NotApplicable("the artifact declares no modules, and no activation of its own")
    path.write_bytes(dump_json({**old, "activation_fn": other}))
    return site.sealed()


def untyped(site: FaultSite, _: None) -> Candidate:
    """Every token counts as one of the first text: what the tokenizer says of them is multiplied by 0."""
    from onnx import helper

    if not _scoring(site).typed:
        raise NotApplicable("the model does not read to which text a token belongs")
    graph = site.graph
    name = next((i.name for i in graph.model.graph.input if role_of(i.name) == TYPES), "")
    if not name:
        raise NotApplicable("the file takes no token_type_ids")
    kind = next(i.type.tensor_type.elem_type for i in graph.model.graph.input if i.name == name)
    zero = graph.put("fault/zero", np.zeros((), helper.tensor_dtype_to_np_dtype(kind)))
    graph.redirect(list(graph.nodes), {name: "fault/types"})
    graph.prepend([helper.make_node("Mul", [name, zero], ["fault/types"])])
    return site.operated()


def exchanged(site: FaultSite, _: None) -> Candidate:
    """The second text of each pair is fed as its first."""
    if not _scoring(site).typed:
        raise NotApplicable("token ids do not tell where the second text of a pair begins")

    def run(inner: Runtime, *batch: Any) -> Any:
        ids, mask, *types = (np.array(part) for part in batch)
        for k in range(len(ids) if types else 0):
            at = np.flatnonzero(mask[k])
            first, second = at[types[0][k, at] == 0], at[types[0][k, at] == 1]
            if len(second):
                ids[k, at] = np.concatenate([ids[k, first[:1]], ids[k, second], ids[k, first[1:]]])
                types[0][k, at] = [0] * (len(second) + 1) + [1] * (len(first) - 1)
        return inner(ids, mask, *types)

    return around(1, run)


def head_in_float(site: FaultSite, _: None) -> Candidate:
    """The classifier stays in float, as quantizers leave what they do not know."""
    _scoring(site)
    if not site.graph.in_float(site.graph.quantized[-1]):
        raise NotApplicable("the classifier is no integer product of the file that could be put back into float")
    return site.operated()
