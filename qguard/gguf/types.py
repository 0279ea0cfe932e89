"""Types of tensors in GGUF files: how many bytes their blocks take, and what values these hold.

The package ``gguf`` knows every type by number. It is imported when it is needed.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from qguard.errors import ArtifactProblem, UsageProblem, first_line

FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}  # bits of a value
# Values that share a scale, bits of a value, where a block has its values' bytes, and what adds 1 to each value there
_BLOCKS = {
    "Q4_0": (32, 4, slice(2, 18), 0x11),
    "Q4_1": (32, 4, slice(4, 20), 0x11),
    "Q5_0": (32, 5, slice(6, 22), 0x11),
    "Q5_1": (32, 5, slice(8, 24), 0x11),
    "Q8_0": (32, 8, slice(2, 34), 0x01),
    "Q2_K": (16, 2, slice(16, 80), 0x55),
    "Q3_K": (16, 3, slice(32, 96), 0x55),
    "Q4_K": (32, 4, slice(16, 144), 0x11),
    "Q5_K": (32, 5, slice(48, 176), 0x11),
    "Q6_K": (16, 6, slice(0, 128), 0x11),
}


class Kind(NamedTuple):
    """A type of tensors.

    Attributes:
        name: As llama.cpp spells it, such as ``Q8_0``.
        block: Values of a block, which rows are made of.
        size: Bytes of a block.
    """

    name: str
    block: int
    size: int

    @property
    def bits(self) -> int:
        """Bits of one value, without its block's scales; a rounded mean where a type is not described here."""
        if self.name in FLOATS:
            return FLOATS[self.name]
        return _BLOCKS[self.name][1] if self.name in _BLOCKS else max(1, 8 * self.size // self.block)

    @property
    def shared(self) -> int:
        """Values that share a scale; 0 for floats, and where this is not described here."""
        return _BLOCKS[self.name][0] if self.name in _BLOCKS else 0


def import_gguf() -> ModuleType:
    """The package ``gguf``.

    Raises:
        UsageProblem: where it is not installed.
    """
    try:
        import gguf
    except ImportError as e:
        raise UsageProblem("the package gguf is not installed; run: pip install 'qguard[gguf]'") from e
    module: ModuleType = gguf
    return module


@cache
def kinds() -> dict[int, Kind]:
    """Every known type by its number in a file."""
    gguf = import_gguf()
    return {int(number): Kind(number.name, *gguf.GGML_QUANT_SIZES[number]) for number in gguf.GGMLQuantizationType}


def kind_of(name: str) -> Kind:
    """The type of a name."""
    return next(kind for kind in kinds().values() if kind.name == name)


def dequantized(kind: str, rows: Any) -> Any:
    """The values of stored rows, float32 (n, width).

    Args:
        kind: Name of the type.
        rows: uint8 (n, bytes of a row).

    Raises:
        ArtifactProblem: for a type whose values are not read.
    """
    if kind == "F64":
        return rows.view("<f8").astype(np.float32)
    gguf = import_gguf()
    try:
        with np.errstate(all="ignore"):  # scales may be infinite, which is told where numbers are looked at
            return np.asarray(gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]), np.float32)
    except NotImplementedError as e:
        raise ArtifactProblem(f"the values of type {kind} are not read by gguf: {first_line(e)}") from e


def quantized(kind: str, values: Any) -> Any:
    """Rows as a file stores them, uint8 (n, bytes of a row), byte for byte as llama.cpp rounds them without an importance matrix.

    Args:
        kind: Name of the type, of those that :mod:`qguard.gguf.mixture` chooses.
        values: float32 (n, width); the width is a multiple of the type's block.
    """
    values = np.ascontiguousarray(values, np.float32)
    if kind in FLOATS and kind != "BF16":
        dtype = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind]
        with np.errstate(over="ignore"):
            return values.astype(dtype).view(np.uint8)
    from qguard.gguf.kquants import QUANTIZERS

    gguf = import_gguf()
    if kind in QUANTIZERS:
        block = kind_of(kind)
        blocks = values.reshape(-1, block.block)
        # in parts that the processor's caches hold
        parts = [QUANTIZERS[kind](part) for part in np.array_split(blocks, max(1, len(blocks) // 4096))]
        return np.concatenate(parts).reshape(len(values), -1)
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])


def is_described(kind: str) -> bool:
    """Whether :func:`steps` knows a type."""
    return kind in FLOATS or kind in _BLOCKS


def steps(kind: str, rows: Any) -> Any:
    """How far neighboring values are apart at each value of stored rows: float32 (n, width), or 0 for floats.

    Args:
        kind: Name of the type.
        rows: uint8 (n, bytes of a row).

    Raises:
        ArtifactProblem: for a type that is not described here.
    """
    if kind in FLOATS:
        return 0.0
    if kind not in _BLOCKS:
        raise ArtifactProblem(f"what the values of type {kind} are rounded to is not known")
    _, _, codes, one = _BLOCKS[kind]
    blocks = np.array(rows).reshape(-1, kind_of(kind).size)
    found = []
    for code in (0, one):
        blocks[:, codes] = code
        found.append(dequantized(kind, blocks.reshape(np.shape(rows))))
    return np.abs(found[1] - found[0])
