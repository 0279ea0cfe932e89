"""Layers: what an artifact's files do with each weight matrix, read from the files and never taken from a name.

A new file format is one file here and one line in :func:`read_layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qguard.artifacts.artifact import Artifact
from qguard.encoders.runtimes import GGUF

PER_TENSOR, PER_CHANNEL = "per-tensor", "per-channel"
LOOKUP = "lookup"  # an embedding table: rows are read, nothing is multiplied
# What recipes may leave in float, by what the files compute; a recipe's ``excluded`` names them.
TABLES = "embedding tables"  # of a file that does not say what chooses their rows
PLACES = "tables of positions and types"  # their rows do not depend on which tokens a text has
OUTLIERS = "float channels beside an integer product"  # few of its input channels, added to it

# Element types by safetensors' names, and the bits of one element; an 8-bit zero point may make them signed or not.
FLOAT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
INTEGER_BITS = {"I8": 8, "U8": 8, "I4": 4, "U4": 4, "I2": 2, "U2": 2}


@dataclass(frozen=True)
class Layer:
    """One multiplication with a weight matrix, or one embedding table.

    Attributes:
        name: From the weight's name, or the node's where the exporter numbered the weights.
        names: Every name that the files have for it; patterns of declared float layers match any of them.
        operator: The operator's type, for example ``MatMulInteger``; empty in a safetensors file.
        weight: Name of the stored tensor.
        element: Element type of the stored tensor, by safetensors' names: ``F32``, ``I8``, …; in a GGUF file by llama.cpp's.
        bits: Bits of a weight as it is multiplied: 8 also where a float tensor passes through ``QuantizeLinear``.
        granularity: ``per-tensor``, ``per-channel`` (one scale an output channel), ``block N`` (N inputs share a scale),
            ``axis N`` (scales along another axis than the outputs), or empty for float and for scales that were not found.
        computes: ``integer``, ``float``, ``lookup``, or empty where the file leaves it to the runtime.
        activations: How the other operand is quantized: ``static``, ``dynamic per-tensor``, ``dynamic`` or empty.
        bytes: Of the stored tensor.
        read: The stored values and the same as float32, each (inputs, outputs); ``None`` where they cannot be read.
        scale, zero: Names of the tensors that dequantize the stored one, empty where the file has none or none was found.
        part: :data:`TABLES`, :data:`PLACES`, :data:`OUTLIERS`, or empty for all else.
    """

    name: str
    names: tuple[str, ...]
    operator: str
    weight: str
    element: str
    bits: int
    granularity: str
    computes: str
    activations: str
    bytes: int
    read: Callable[[], tuple[Any, Any]] | None = None
    scale: str = ""
    zero: str = ""
    part: str = ""

    @property
    def quantized(self) -> bool:
        """Whether its weights are multiplied as integers of at most 8 bits."""
        return self.bits <= 8

    def holds(self, element: str) -> bool:
        """Whether the stored tensor has this element type; signed and unsigned integers of one width are the same."""
        if element in INTEGER_BITS:
            return INTEGER_BITS.get(self.element) == INTEGER_BITS[element]
        return self.element == element

    def fine_enough(self, granularity: str | int) -> bool:
        """Whether there are at least as many scales as ``per-tensor``, ``per-channel`` or blocks of N inputs ask for."""
        if self.granularity.startswith("block "):
            return not isinstance(granularity, int) or int(self.granularity[6:]) <= granularity
        if granularity == PER_TENSOR:
            return self.granularity != ""
        return granularity == PER_CHANNEL == self.granularity


@dataclass(frozen=True)
class Contents:
    """All layers of an artifact, and the version of ONNX's operator set that it declares (``None`` for safetensors).

    Attributes:
        needs_opset: The version from which its quantizing operators mean what they say: 13 where ``QuantizeLinear`` or
            ``DequantizeLinear`` stand around a weight (before, scales are one number), 21 with ``block_size``; else 0.
        ranges: Activations that are quantized with a stored scale, and the width of what their integers can tell apart.
    """

    layers: tuple[Layer, ...]
    opset: int | None = None
    needs_opset: int = 0
    ranges: tuple[tuple[str, float], ...] = ()


def read_layers(artifact: Artifact) -> Contents:
    """The layers of an artifact.

    Raises:
        ArtifactProblem: when a file cannot be read.
    """
    if artifact.file is None:
        from qguard.artifacts.layers.safetensors import read
        from qguard.encoders.network import lookup_tables

        return Contents(read(artifact.weight_files, lookup_tables(artifact.runs)))
    if artifact.kind == GGUF:
        from qguard.artifacts.layers import gguf

        return Contents(gguf.read(artifact.file))
    from qguard.artifacts.layers import onnx

    return onnx.read(artifact.file)
