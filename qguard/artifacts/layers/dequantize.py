"""From stored integers back to float32, as ONNX defines it: ``(q - zero_point) * scale``."""

from __future__ import annotations

from typing import Any

import numpy as np


def dequantized(stored: Any, scale: Any, zero: Any, along: int, block: int = 0) -> Any:
    """``DequantizeLinear``, and integer operators whose scales run along the outputs.

    Args:
        stored: Weights, two dimensions.
        scale: One number, one along ``along``, or as many as there are blocks along it; ``None`` for 1.
        zero: Zero points of the same shape; ``None`` for 0.
        along: The axis of several scales.
        block: Values that share a scale, 0 without blocks.
    """

    def spread(parameter: Any) -> Any:
        p = np.asarray(parameter).astype(np.float32)
        if block:
            return np.repeat(p, block, axis=along).take(range(stored.shape[along]), along)
        return p if p.size == 1 else p.reshape([-1 if i == along else 1 for i in range(stored.ndim)])

    values = np.asarray(stored).astype(np.float32)
    return (values - (0 if zero is None else spread(zero))) * (1 if scale is None else spread(scale))


def unpacked(packed: Any, scale: Any, zero: Any, *, bits: int, block: int, inputs: int, outputs: int) -> tuple[Any, Any]:
    """``MatMulNBits``: weights (outputs, blocks, bytes) of uint8, the low half of a byte first.

    Args:
        packed: The weights.
        scale: (outputs, blocks), flat or not.
        zero: Packed like the weights, or float; ``None`` for the middle of the range.
        bits: 4 or 8.
        block: Inputs that share a scale.
        inputs: Rows of the matrix; the last block may be longer.
        outputs: Its columns.

    Returns:
        The stored integers and float32 values, each (inputs, outputs).
    """

    def halves(array: Any) -> Any:
        return np.stack([array & 15, array >> 4], -1).reshape(outputs, -1) if bits == 4 else array

    stored = halves(packed.reshape(outputs, -1))
    scale = scale.astype(np.float32).reshape(outputs, -1)
    if zero is None:
        zero = np.full_like(scale, 2 ** (bits - 1))
    elif zero.dtype.kind != "f":
        zero = halves(zero.reshape(outputs, -1))[:, : scale.shape[1]]
    points, scales = (np.repeat(p.reshape(outputs, -1).astype(np.float32), block, axis=1) for p in (zero, scale))
    values = (stored.astype(np.float32) - points) * scales
    return stored[:, :inputs].T, values[:, :inputs].T
