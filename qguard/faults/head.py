"""Faults of a head that an export put into the file: pooling, Dense and Normalize behind the token embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.kinds import DENSE
from qguard.models.modules import Dense
from qguard.models.pipeline import Pipeline

_OUTPUT = "sentence_embedding"


def unnormalized(site: FaultSite, _: None) -> Candidate:
    """The file pools, and leaves Normalize out."""
    site.need(DENSE)
    if not site.base.pipeline.unit_length:
        raise NotApplicable("the model's vectors are not of unit length")
    return _pooled(site, _mode(site.base.pipeline))


def without_dense(site: FaultSite, _: None) -> Candidate:
    """The file pools, normalizes where the model does, and leaves Dense out."""
    site.need(DENSE)
    if not any(isinstance(module, Dense) for module in site.base.pipeline.head):
        raise NotApplicable("the model has no Dense head")
    return _pooled(site, _mode(site.base.pipeline), normalize=site.base.pipeline.normalize)


def otherwise(site: FaultSite, _: None) -> Candidate:
    """The file gives its token embeddings, and beside them vectors that are pooled in another way."""
    site.need(DENSE)
    mode = "cls" if _mode(site.base.pipeline) == "mean" else "mean"
    return _pooled(site, mode, normalize=True, beside=True)


def _mode(pipeline: Pipeline) -> str:
    if pipeline.static:
        raise NotApplicable("a static model has no token embeddings that could be pooled otherwise")
    if pipeline.pooling not in (("mean",), ("cls",)):
        raise NotApplicable("the model pools neither the mean nor the first token")
    return pipeline.pooling[0]


def _pooled(site: FaultSite, mode: str, *, normalize: bool = False, beside: bool = False) -> Candidate:
    from onnx import TensorProto, helper

    graph = site.graph
    hidden, outputs = graph.output(), graph.model.graph.output
    value = next(o for o in outputs if o.name == hidden)
    mask = next((i.name for i in graph.model.graph.input if i.name == "attention_mask"), "")
    if len(value.type.tensor_type.shape.dim) != 3 or not mask or any(o.name == _OUTPUT for o in outputs):
        raise NotApplicable("the file does not give token embeddings alone")
    made: list[Any] = []

    def call(operator: str, *inputs: str, **attributes: Any) -> str:
        made.append(helper.make_node(operator, list(inputs), [f"fault/head{len(made)}"], **attributes))
        return str(made[-1].output[0])

    tokens = call("Cast", hidden, to=TensorProto.FLOAT)
    if mode == "cls":
        vector = call("Gather", tokens, graph.put("fault/first", np.array(0)), axis=1)
    else:
        kept = call("Cast", mask, to=TensorProto.FLOAT)
        row = call("Reshape", kept, graph.put("fault/row", np.array([0, 1, -1])))
        column = call("Reshape", kept, graph.put("fault/column", np.array([0, -1, 1])))
        mean = call("Div", call("MatMul", row, tokens), call("MatMul", row, column))
        vector = call("Squeeze", mean, graph.put("fault/axis", np.array([1])))
    if normalize:
        flat = call("Unsqueeze", vector, graph.put("fault/axis", np.array([1])))
        turned = call("Transpose", flat, perm=[0, 2, 1])
        length = call("Sqrt", call("MatMul", flat, turned))
        vector = call("Squeeze", call("Div", flat, length), "fault/axis")
    if graph.opset < 13:
        raise NotApplicable(f"the file has operator set {graph.opset}, and the head is written in 13")
    graph.append([*made, helper.make_node("Identity", [vector], [_OUTPUT])])
    width = value.type.tensor_type.shape.dim[2].dim_value or "width"
    if not beside:
        del outputs[:]
    outputs.append(helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["batch", width]))
    return site.operated()
