"""Faults of a sparse model's head: how the file pools logits, and what its decoder computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.artifacts.layers import LOOKUP
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.judging.splade import decoder_bias
from qguard.kinds import SPARSE

OUTPUT = "sentence_embedding"


def pooled(site: FaultSite, how: str) -> Candidate:
    """The file gives one row of weights a text.

    Args:
        site: Where.
        how: ``max`` as the model itself, ``sum``, ``first`` or ``last`` token, ``relu`` without the logarithm, ``logits`` without
            the cut at 0 too, ``padding`` with padding counted, ``inner`` without the special tokens around a text.
    """
    site.need(SPARSE)
    graph = site.graph
    if graph.opset < 13:
        raise NotApplicable(f"the file has operator set {graph.opset}, and the head is written in 13")
    logits, outputs = graph.output(), graph.model.graph.output
    value = next(o for o in outputs if o.name == logits)
    if len(value.type.tensor_type.shape.dim) != 3:
        raise NotApplicable("the file does not give logits")
    _Pool(site, logits).made(how)
    words = value.type.tensor_type.shape.dim[2].dim_value
    from onnx import TensorProto, helper

    del outputs[:]
    outputs.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", words or "words"]))
    return site.operated()


class _Pool:
    """Writes pooling behind logits (batch, length, words)."""

    def __init__(self, site: FaultSite, logits: str) -> None:
        from onnx import TensorProto

        self.site, self.graph, self.nodes = site, site.graph, list[Any]()
        self.logits = self.call("Cast", logits, to=TensorProto.FLOAT)
        self.mask = self.call("Cast", "attention_mask", to=TensorProto.INT64)

    def call(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [f"fault/splade{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def constant(self, name: str, value: Any) -> str:
        return str(self.graph.put(f"fault/{name}", np.asarray(value)))

    def made(self, how: str) -> None:
        from onnx import helper

        x = self.one(how) if how in ("first", "last") else self.over_tokens(how)
        x = x if how in ("relu", "logits", "sum") else self.logarithm(self.call("Relu", x))
        self.graph.append([*self.nodes, helper.make_node("Identity", [x], [OUTPUT])])

    def logarithm(self, x: str) -> str:
        return self.call("Log", self.call("Add", x, self.constant("one", np.float32(1))))

    def one(self, which: str) -> str:
        """The logits of one token, (batch, words)."""
        if which == "first":
            return self.call("Gather", self.logits, self.constant("zero", np.int64(0)), axis=1)
        count = self.call("ReduceSum", self.mask, self.constant("axis", np.array([1])), keepdims=1)
        last = self.call("Sub", count, self.constant("back", np.array([1])))
        return self.call("GatherND", self.logits, last, batch_dims=1)

    def over_tokens(self, how: str) -> str:
        """The largest value of each word, or of ``sum`` the sum of logarithms, (batch, words)."""
        from onnx import TensorProto

        mask = self.inner() if how == "inner" else self.mask
        kept = self.call("Unsqueeze", self.call("Cast", mask, to=TensorProto.BOOL), self.constant("last", np.array([2])))
        x = self.logits
        if how != "padding":
            least = np.float32(-1e4) if how == "logits" else np.float32(0)
            x = self.call("Where", kept, x, self.constant("least", least))
        if how != "logits":
            x = self.call("Relu", x)
        if how == "sum":
            x = self.logarithm(x)
            return self.call("ReduceSum", x, self.constant("tokens", np.array([1])), keepdims=0)
        if self.graph.opset >= 18:
            return self.call("ReduceMax", x, self.constant("tokens", np.array([1])), keepdims=0)
        return self.call("ReduceMax", x, axes=[1], keepdims=0)

    def inner(self) -> str:
        """The mask without the tokens that stand around every text."""
        row = self.site.session.golden(self.site.model, self.site.suites[0]).token_ids[0]
        mask = self.mask
        for name, token in (("begin", row[0]), ("end", row[-1])):
            same = self.call("Equal", "input_ids", self.constant(name, np.int64(token)))
            mask = self.call("Where", same, self.constant("none", np.int64(0)), mask)
        return mask


def bias(site: FaultSite, _: None) -> Candidate:
    """The decoder's bias is left out."""
    site.need(SPARSE)
    graph = site.graph
    lost, out = decoder_bias(site.base), graph.output()
    if lost is None:
        raise NotApplicable("the model's decoder has no bias")
    from onnx import helper

    inner = graph.before_output(out)
    kind = next(o.type.tensor_type.elem_type for o in graph.model.graph.output if o.name == out)
    stored = graph.put("fault/bias", lost.astype(helper.tensor_dtype_to_np_dtype(kind)))
    graph.append([helper.make_node("Sub", [inner, stored], [out])])
    return site.operated()


def decoder(site: FaultSite, _: None) -> Candidate:
    """The decoder multiplies in float."""
    site.need(SPARSE)
    graph = site.graph
    if not graph.in_float(max((x for x in graph.quantized if x.computes != LOOKUP), key=lambda x: x.bytes)):
        raise NotApplicable("the decoder is no integer product of the file that could be put back into float")
    return site.operated()
