"""Layers of an ONNX file: operators that multiply with a constant, whatever tool wrote them.

Known forms: integer operators (``MatMulInteger``, ``DynamicQuantizeMatMul``, ``MatMulIntegerToFloat``, ``QAttention``,
``QLinearMatMul``, ``QGemm``), ``QuantizeLinear``/``DequantizeLinear`` around float operators, weights that are dequantized
only, ``MatMulNBits``, and float weights of any width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.artifacts.layers import (
    FLOAT_BITS,
    INTEGER_BITS,
    LOOKUP,
    OUTLIERS,
    PER_CHANNEL,
    PER_TENSOR,
    PLACES,
    Contents,
    Layer,
)
from qguard.encoders.ports import role_of
from qguard.onnx.edit import INTEGER, Graph, attribute
from qguard.onnx.read import read_graph
from qguard.onnx.structure import BY_CHANNEL, readable

_FLOAT = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention")
LOOKUPS = {
    "Gather": (0,),
    "GatherBlockQuantized": (0,),
    "EmbedLayerNormalization": (2, 3, 4),
    "QEmbedLayerNormalization": (2, 3, 4),
}
_SAME_VALUES = ("Cast", "Identity")
MOVED = (*_SAME_VALUES, "Unsqueeze", "Reshape", "Squeeze")
_FAR = 24  # operators of an activation that is written out
_MIDDLE = {2: 128, 21: 8}  # of unsigned integers in GatherBlockQuantized
# what comes of these says where tokens are, or how many, and not which they are
_COUNTS = ("Shape", "Size", "Equal", "Not", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
CHANNELS_IN_FLOAT = 0.25  # of an integer product's input channels at the most; more would be a float layer by another name
# onnx.TensorProto.DataType → safetensors' names
ELEMENT = {
    1: "F32", 2: "U8", 3: "I8", 10: "F16", 11: "F64", 16: "BF16", 17: "F8_E4M3", 19: "F8_E5M2",
    21: "U4", 22: "I4", 25: "U2", 26: "I2",
}  # fmt: skip


@dataclass(frozen=True)
class Weight:
    """A constant found behind an operator's input, with what stands between the two.

    Attributes:
        tensor, name: The stored tensor.
        axis: Its axis of output channels; ``None`` after a reshape.
        scale, zero: Names of the dequantizing parameters, empty without.
        along: The axis that several scales run along.
        block: Inputs that share a scale, 0 without blocks.
        bits: Of the integer type that a float tensor passes through, else 0.
        middle: What stands for zero where the operator has no zero point.
        shape: What the stored tensor is reshaped to, empty without.
    """

    tensor: Any
    axis: int | None
    name: str = ""
    scale: str = ""
    zero: str = ""
    along: int = 1
    block: int = 0
    bits: int = 0
    middle: int = 0
    shape: tuple[int, ...] = ()


def read(file: Path) -> Contents:
    """Every layer of an ONNX file, in the order of the graph.

    Raises:
        ArtifactProblem: see :func:`qguard.onnx.read.read_graph`.
    """
    return Reader(read_graph(file), file.parent).contents()


class Reader(Graph):
    """A graph whose stored weights are found behind the operators that use them."""

    needs_opset = 0

    @cached_property
    def nodes(self) -> list[Any]:
        """The nodes of the graph, those of a loop's body before the loop, as ``torch.onnx`` writes EmbeddingBag.

        A body that uses a name again is left out: its tensors could not be told apart.
        """
        found, names = list[Any](), {name for node in self.model.graph.node for name in node.output}
        for node in self.model.graph.node:
            for a in node.attribute if node.op_type in ("Loop", "Scan") else ():
                made = [name for inner in a.g.node for name in inner.output if name]
                if a.name == "body" and len({*made}) == len(made) and not names & {*made} and not a.g.initializer:
                    names |= {*made}
                    found += a.g.node
            found.append(node)
        return found

    def contents(self) -> Contents:
        """Every layer, in the order of the graph."""
        layers = [layer for node in self.nodes for layer in self.of_node(node)]
        return Contents(tuple(layers), self.opset, self.needs_opset, tuple(self._ranges()))

    def _ranges(self) -> Iterator[tuple[str, float]]:
        for node in self.nodes:
            if node.op_type == "QuantizeLinear" and node.input[1] in self.constants and self.constant(node.input[0], -1) is None:
                zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
                steps = 65535 if zero is not None and zero.data_type in (4, 5) else 255
                yield node.input[0], steps * float(self.stored(node.input[1]).astype("float64").max())

    def of_node(self, node: Any) -> list[Layer]:
        """The multiplication of one node, or its embedding tables; empty for all else."""
        if node.op_type in LOOKUPS:
            if self.is_scale(node):
                return []
            tables = [(i, self.table(node, i)) for i in LOOKUPS[node.op_type] if i < len(node.input)]
            return [
                replace(self._layer(node, t, LOOKUP, ""), part="" if self.by_token(node, i) else PLACES)
                for i, t in tables
                if t is not None and _is_matrix(t.tensor)
            ]
        if node.op_type in INTEGER:
            places = INTEGER[node.op_type]
            weight = self.constant(node.input[places.weight], -1 if not attribute(node, "transB", 0) else -2)
            if weight is None or not _is_matrix(weight.tensor):
                return []  # the product of two activations
            name = self._scale_after(node.output[0]) if places.scale is None else node.input[places.scale]
            zeros = node.input[places.zero] if places.zero < len(node.input) else ""
            weight = replace(weight, scale=name, zero=zeros, along=weight.axis if weight.axis is not None else -1)
            return [self._layer(node, weight, "integer", self._activations(node, places.activation))]
        if node.op_type == "MatMulNBits":
            return [self._blocks(node)] if node.input[1] in self.constants else []
        if node.op_type not in _FLOAT:
            return []
        outputs = -2 if attribute(node, "transB", 0) else -1
        for at, axis in ((1, outputs), (0, -2)):
            weight = self.constant(node.input[at], axis)
            if weight is None or not _is_matrix(weight.tensor):
                continue
            if weight.scale:
                self.needs_opset = max(self.needs_opset, 21 if weight.block else 13)
            other = self._activation_source(node.input[1 - at]) if weight.scale else None
            how = "" if other is None else "static" if other.input[1] in self.constants else self._dynamic(other.input[1])
            part = OUTLIERS if not weight.scale and at and self._beside_integers(node) else ""
            return [replace(self._layer(node, weight, "integer" if how else "float", how), part=part)]
        return []

    def table(self, node: Any, i: int) -> Weight | None:
        """The table behind an input; its rows are the output channels."""
        found = self.constant(node.input[i], 0)
        if found is None or node.op_type != "GatherBlockQuantized":
            return found
        zero = node.input[3] if len(node.input) > 3 else ""
        packed = found.tensor.data_type == 2 and attribute(node, "bits", 4) != 8
        middle = 0 if zero else 8 if packed else _MIDDLE.get(found.tensor.data_type, 0)
        return replace(
            found, axis=None if packed else 0, scale=node.input[2], zero=zero, middle=middle,
            along=attribute(node, "quantize_axis", 1), block=attribute(node, "block_size", 128),
        )  # fmt: skip

    def is_scale(self, lookup: Any) -> bool:
        """Whether the rows of a lookup are the scales of another one's integers, which the same ids look up."""
        if lookup.op_type != "Gather" or (found := self.constant(lookup.input[0], 0)) is None:
            return False
        if ELEMENT.get(found.tensor.data_type, "") not in FLOAT_BITS:
            return False
        name = lookup.output[0]
        for _ in range(4):
            readers = self.consumers(name)
            if len(readers) != 1 or readers[0].op_type not in (*MOVED, "Mul"):
                return False
            if readers[0].op_type == "Mul":
                break
            name = readers[0].output[0]
        other = next((i for i in readers[0].input if i != name), "")
        beside = self.producers.get(self.behind(other, (*MOVED, "Sub")))
        if beside is None or beside.op_type != "Gather" or self.ids(beside) != self.ids(lookup):
            return False
        integers = self.constant(beside.input[0], 0)
        return integers is not None and ELEMENT.get(integers.tensor.data_type, "") in INTEGER_BITS

    def ids(self, lookup: Any) -> str:
        """Where the ids come from that a ``Gather`` looks up."""
        return self.behind(lookup.input[1], MOVED)

    def by_token(self, lookup: Any, table: int) -> bool:
        """Whether a text's tokens choose the rows of a table. Where tokens are, and how many there are, is no choice by them."""
        if lookup.op_type in ("EmbedLayerNormalization", "QEmbedLayerNormalization"):
            return table == 2
        todo, seen = [lookup.input[1]], set[str]()
        while todo:
            name = todo.pop()
            node = self.producers.get(name)
            if node is None:
                if name not in self.constants and role_of(name) in ("input_ids", None):
                    return True
            elif node.op_type not in _COUNTS and name not in seen:
                seen.add(name)
                todo += [i for i in node.input if i]
        return False

    def _beside_integers(self, product: Any) -> bool:
        """Whether a float product of few channels, chosen or made apart, is added to an integer product of the same width."""
        if not self._few_channels(product.input[0]):
            return False
        few = self.constants.get(product.input[1])
        for sum_ in self.consumers(product.output[0]):
            others = [self.producers.get(i) for i in sum_.input if sum_.op_type == "Add" and i != product.output[0]]
            for beside in others:
                other = beside
                while other is not None and other.op_type in ("Mul", "Add"):  # by the token's scale, and the bias
                    other = self.producers.get(other.input[0])
                inputs = self._integer_inputs(other)
                if few is not None and inputs and few.dims[0] <= CHANNELS_IN_FLOAT * inputs:
                    return True
        return False

    def _integer_inputs(self, node: Any) -> int:
        """How many input channels an integer product with stored weights has; 0 for all other nodes."""
        if node is None:
            return 0
        if node.op_type in INTEGER:
            stored = self.constants.get(node.input[INTEGER[node.op_type].weight])
            return 0 if stored is None else int(stored.dims[0])
        if node.op_type != "MatMul" or self._activation_source(node.input[0]) is None:
            return 0
        weight = self.constant(node.input[1], -1)
        return int(weight.tensor.dims[1 - weight.axis]) if weight is not None and weight.scale and weight.axis is not None else 0

    def _few_channels(self, name: str) -> bool:
        """Whether a tensor is some channels of another, or what an integer product gives, channel by channel."""
        for _ in range(_FAR):
            node = self.producers.get(name)
            if node is None:
                return False
            if node.op_type == "Gather":
                return attribute(node, "axis", 0) in (-1, 2)
            if self._integer_inputs(node):
                return True
            computed = [i for i in node.input if i and i not in self.constants]
            if node.op_type not in BY_CHANNEL or not computed:
                return False
            name = computed[0]
        return False

    def constant(self, name: str, axis: int) -> Weight | None:
        """The constant behind an input, through what moves, casts or dequantizes it.

        Args:
            name: The input.
            axis: Its axis of output channels.
        """
        found = Weight(None, axis)
        while name not in self.constants:
            node = self.producers.get(name)
            if node is None:
                return None
            if node.op_type == "Transpose":
                perm = attribute(node, "perm", [1, 0])
                found = replace(found, axis=None if found.axis is None else perm[found.axis])
            elif node.op_type == "Reshape":
                shape = self.stored(node.input[1])
                found = replace(found, axis=None, shape=found.shape or (() if shape is None else tuple(shape.tolist())))
            elif node.op_type == "DequantizeLinear":
                zero = node.input[2] if len(node.input) > 2 else ""
                along, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
                found = replace(found, scale=node.input[1], zero=zero, along=along, block=block)
            elif node.op_type == "QuantizeLinear" and found.scale:
                zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
                element = zero.data_type if zero is not None else attribute(node, "output_dtype", 2)
                found = replace(found, bits=INTEGER_BITS.get(ELEMENT.get(element, ""), 8))
            elif node.op_type not in _SAME_VALUES:
                return None
            name = node.input[0]
        tensor = self.constants[name]
        rank = len(tensor.dims)
        at = None if found.axis is None or not rank else found.axis % rank
        return replace(found, tensor=tensor, name=name, axis=at, along=found.along % rank if rank else 0)

    def _scale_after(self, name: str) -> str:
        """The weight's scale behind a ``MatMulInteger``: a bias may follow, then a cast, then products with scales."""
        for _ in range(4):
            node = next((n for n in self.consumers(name) if n.op_type in ("Cast", "Mul", "Add")), None)
            if node is None:
                return ""
            if node.op_type == "Mul":
                other = node.input[1] if node.input[0] == name else node.input[0]
                product = self.producers.get(other)
                candidates = [other, *(product.input if product is not None and product.op_type == "Mul" else ())]
                for candidate in candidates:
                    if candidate in self.constants:
                        return str(candidate)
            name = node.output[0]
        return ""

    def _activation_source(self, name: str) -> Any:
        """The ``DequantizeLinear`` of an activation behind an input, or ``None`` where it is not quantized."""
        for _ in range(4):
            node = self.producers.get(name)
            if node is None or node.op_type == "DequantizeLinear":
                return node
            if node.op_type not in ("Transpose", "Reshape", *_SAME_VALUES):
                return None
            name = node.input[0]
        return None

    def _activations(self, node: Any, scale: int | None) -> str:
        if node.op_type == "DynamicQuantizeMatMul":
            return "dynamic per-tensor"
        if scale is not None:
            if node.input[scale] not in self.constants:
                return self._dynamic(node.input[scale])
            return "dynamic" if self._divided_by_computed(node.input[0]) else "static"
        source = self.producers.get(node.input[0])
        if source is not None and source.op_type == "QuantizeLinear" and source.input[1] in self.constants:
            return "static"
        return self._dynamic(node.input[0])

    def _divided_by_computed(self, name: str) -> bool:
        """Whether what is quantized with a stored scale was divided by one that is found at run time, such as its token's."""
        step = self.producers.get(name)
        source = self.producers.get(step.input[0]) if step is not None and step.op_type == "QuantizeLinear" else None
        return source is not None and source.op_type == "Div" and source.input[1] not in self.constants

    def _dynamic(self, name: str) -> str:
        source = self.producers.get(name)
        return "dynamic per-tensor" if source is not None and source.op_type == "DynamicQuantizeLinear" else "dynamic"

    def _layer(self, node: Any, weight: Weight, computes: str, activations: str) -> Layer:
        tensor, element = weight.tensor, ELEMENT[weight.tensor.data_type]
        bits = weight.bits or {**FLOAT_BITS, **INTEGER_BITS}[element]
        lookup = computes == LOOKUP
        granularity = self._granularity(weight, lookup=lookup) if bits <= 8 else ""
        name = readable(node, weight.name)
        names = tuple(dict.fromkeys([name, node.name, weight.name]))
        size = (INTEGER_BITS.get(element) or FLOAT_BITS[element]) * math.prod(tensor.dims) // 8

        def read() -> tuple[Any, Any]:
            return self._values(weight)

        known = len(tensor.dims) == 2 and (weight.axis is not None or (lookup and len(weight.shape) == 2))
        return Layer(
            name, names, node.op_type, weight.name, element, bits, granularity, computes, activations, size,
            read if known else None, weight.scale, weight.zero,
        )  # fmt: skip

    def _granularity(self, weight: Weight, *, lookup: bool = False) -> str:
        if not weight.scale or weight.scale not in self.constants:
            return ""
        if weight.block:
            return f"block {weight.block}"
        scales = math.prod(self.constants[weight.scale].dims)
        if scales == 1:  # of one output channel, as of a classifier with one label, it is that channel's
            alone = weight.axis is not None and not lookup and weight.tensor.dims[weight.axis] == 1
            return PER_CHANNEL if alone else PER_TENSOR
        if lookup and weight.shape and weight.along == 0 and self.constants[weight.scale].dims[0] == weight.tensor.dims[0]:
            return f"block {weight.tensor.dims[1]}"  # rows were cut into runs of values, a scale each
        outputs = weight.axis == weight.along and weight.tensor.dims[weight.axis] == scales
        return PER_CHANNEL if outputs else f"axis {weight.along}"

    def _values(self, weight: Weight) -> tuple[Any, Any]:
        import numpy as np

        from qguard.artifacts.layers.dequantize import dequantized

        stored = self.stored(weight.name)
        # a float tensor that is quantized at load is read as it is stored
        scale, zero = (None if weight.bits else self.stored(n) for n in (weight.scale, weight.zero))
        if weight.middle:
            zero = np.full_like(scale, weight.middle)
        values = dequantized(stored, scale, zero, weight.along, weight.block)
        if weight.axis is None:
            stored, values = (a.reshape(weight.shape) for a in (stored, values))
        return (stored.T, values.T) if weight.axis in (0, None) else (stored, values)

    def _blocks(self, node: Any) -> Layer:
        tensor = self.constants[node.input[1]]
        bits, block = attribute(node, "bits", 4), attribute(node, "block_size", 32)
        name = readable(node, tensor.name)
        # accuracy level 4 quantizes activations as well, a block at a time
        integer = attribute(node, "accuracy_level", 0) == 4

        def read() -> tuple[Any, Any]:
            from qguard.artifacts.layers.dequantize import unpacked

            arrays = [self.stored(n) for n in [*node.input[1:4], ""][:3]]
            shape = {"inputs": attribute(node, "K", 0), "outputs": attribute(node, "N", 0)}
            return unpacked(*arrays, bits=bits, block=block, **shape)

        return Layer(
            name, tuple(dict.fromkeys([name, node.name, tensor.name])), node.op_type, tensor.name, f"I{bits}", bits,
            f"block {block}", "integer" if integer else "float", "dynamic" if integer else "", math.prod(tensor.dims),
            read if bits in (4, 8) else None, *[*node.input[2:4], ""][:2],
        )  # fmt: skip

    def stored(self, name: str) -> Any:
        """A stored tensor, ``None`` where there is none of that name."""
        return self.array(name) if name in self.constants else None


def _is_matrix(tensor: Any) -> bool:
    return len(tensor.dims) >= 2 and tensor.data_type in ELEMENT
