"""Layers of a GGUF file: every matrix that llama.cpp multiplies with, and its tables.

llama.cpp multiplies quantized weights with activations that it rounds to 8 bits, a scale a block of a token's values. Floats are
multiplied as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.artifacts.layers import LOOKUP, PLACES, Layer
from qguard.gguf.mixture import PLACES as TABLES
from qguard.gguf.mixture import TOKENS
from qguard.gguf.read import Tensor, read_gguf
from qguard.gguf.types import FLOATS


def read(file: Path) -> tuple[Layer, ...]:
    """One layer for each tensor of at least two dimensions, in the file's order.

    Raises:
        ArtifactProblem: see :func:`qguard.gguf.read.read_gguf`.
    """
    return tuple(_layer(t) for t in read_gguf(file).tensors.values() if len(t.shape) > 1)


def _layer(tensor: Tensor) -> Layer:
    kind, name = tensor.kind, tensor.name
    table, stored = name == TOKENS or name in TABLES, kind.name in FLOATS
    computes = LOOKUP if table else "float" if stored else "integer"

    def values() -> tuple[Any, Any]:
        found = tensor.values().T
        return found, found

    return Layer(
        name.removesuffix(".weight"), (name,), "", name, kind.name, kind.bits, f"block {kind.shared}" if kind.shared else "",
        computes, "" if table or stored else "dynamic", tensor.bytes, values, part=PLACES if name in TABLES else "",
    )  # fmt: skip
