"""Layers of a torch artifact: every matrix of its safetensors files."""

from __future__ import annotations

from math import prod
from pathlib import Path

from qguard.layers import FLOAT_BITS, INTEGER_BITS, PER_CHANNEL, PER_TENSOR, Layer
from qguard.models import safetensors_header


def read(files: list[Path]) -> tuple[Layer, ...]:
    """One layer for each tensor of two or more dimensions; scales beside a quantized weight are none.

    What multiplies them is torch's business, so that ``computes`` is empty.
    """
    layers = []
    for file in files:
        header, _ = safetensors_header(file)
        for name, info in sorted(header.items()):
            element, shape = info["dtype"], info["shape"]
            # index buffers such as position_ids are no weights
            if len(shape) < 2 or element not in {**FLOAT_BITS, **INTEGER_BITS} or _is_scale(name):
                continue
            bits = {**FLOAT_BITS, **INTEGER_BITS}[element]
            granularity = ""
            if element in INTEGER_BITS:
                home = name.rpartition(".")[0] + "."
                scales = [prod(i["shape"]) for n, i in header.items() if n.startswith(home) and _is_scale(n)]
                granularity = _granularity(scales[0], shape) if scales else ""
            begin, end = info["data_offsets"]
            layers.append(Layer(name, (name,), "", name, element, bits, granularity, "", "", end - begin))
    return tuple(layers)


def _is_scale(name: str) -> bool:
    last = name.rpartition(".")[2]
    return "scale" in last or "zero_point" in last


def _granularity(scales: int, shape: list[int]) -> str:
    """torch stores (outputs, inputs)."""
    if scales == 1:
        return PER_TENSOR
    if scales == shape[0]:
        return PER_CHANNEL
    return f"block {prod(shape) // scales}" if scales > shape[0] and prod(shape) % scales == 0 else f"{scales} scales"
