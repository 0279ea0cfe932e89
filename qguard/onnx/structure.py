"""What made a tensor, found by what was computed: exporters and families name nothing alike."""

from __future__ import annotations

import re
from typing import Any

from qguard.onnx.edit import Graph, attribute

NORM, ATTENTION, SUM = "norm", "attention", "sum"
_NORMS = (
    "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
_ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "PackedAttention")
SAME_VALUES = ("Cast", "Identity", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
# operators whose value in a channel depends on that channel alone, with numbers for all other operands
BY_CHANNEL = (
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Swish", "Tanh",
)  # fmt: skip
# what quantizers append to names, and names that an exporter made up
_SUFFIX = re.compile(r"(/MatMul|/Gemm|/Gather|_quantized|_quant|_Q\d+\w*|_MatMul_\w+|/\d+)$")
_NUMBERED = re.compile(r"^(onnx::|val_|/|const)|_output_\d|^\d+$")
_ROOTS = ("Sqrt", "Pow", "Reciprocal", "Cast", "Identity")
_FAR = 16  # operators between a tensor and what says where it comes from


def made_by(graph: Graph, name: str) -> str:
    """What made a tensor, whatever moved, cast, scaled or shifted it by stored values since.

    Returns:
        :data:`NORM` for a LayerNorm or an RMSNorm, fused or written out, with gain and bias or without; :data:`ATTENTION` for
        attention, fused, or the product of its weights with values; :data:`SUM` for another sum of computed tensors, such as a
        residual; empty for all others, such as an activation or a gate.
    """
    for _ in range(_FAR):
        node = graph.producers.get(name)
        if node is None:
            return ""
        if node.op_type in _NORMS:
            return NORM
        if node.op_type in _ATTENTIONS:
            return ATTENTION
        computed = [i for i in node.input if i and i not in graph.constants]
        if node.op_type in SAME_VALUES or (node.op_type in ("Add", "Sub", "Mul", "Div") and len(computed) == 1):
            name = computed[0] if computed else node.input[0]
        elif node.op_type in ("Div", "Mul"):
            return NORM if any(_root_of_mean(graph, i) for i in node.input) else ""
        elif node.op_type == "MatMul":
            return ATTENTION if len(computed) == 2 else ""
        else:
            return SUM if node.op_type in ("Add", "Sum") else ""
    return ""


def _root_of_mean(graph: Graph, name: str) -> bool:
    """Whether a tensor is the root of a mean of squares, or one over it."""
    rooted = False
    for _ in range(_FAR):
        node = graph.producers.get(name)
        if node is None:
            return False
        if node.op_type == "ReduceMean":
            return rooted
        if node.op_type in _ROOTS:
            rooted = rooted or node.op_type in ("Sqrt", "Pow")
            name = node.input[0]
        elif node.op_type in ("Add", "Div", "Mul", "Max", "Clip"):  # of epsilon, one over it, or not below it
            computed = [i for i in node.input if i and i not in graph.constants]
            if len(computed) != 1:
                return False
            name = computed[0]
        else:
            return False
    return False


def rows_of(graph: Graph, lookup: Any) -> str:
    """What chooses the rows of a lookup along the first axis of a table; empty for a lookup along another axis.

    Returns:
        The tensor behind the operators that keep values: an input of the graph where ids choose the rows.
    """
    at = 0 if lookup.op_type == "EmbedLayerNormalization" else 1
    axis = attribute(lookup, "axis", 0) if lookup.op_type == "Gather" else attribute(lookup, "gather_axis", 0)
    return "" if axis else graph.behind(lookup.input[at], SAME_VALUES)


def readable(node: Any, weight: str) -> str:
    """``encoder/layer.0/intermediate/dense`` from ``/network/encoder/layer.0/intermediate/dense/MatMul_quant``."""
    name = node.name if _NUMBERED.search(weight) and node.name else weight
    while (short := _SUFFIX.sub("", name)) != name:
        name = short
    return name.strip("/").removeprefix("network/").removeprefix("network.") or node.op_type
