"""Layers of a torch artifact: every matrix of its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from math import prod
from pathlib import Path

from qguard.artifacts.layers import FLOAT_BITS, INTEGER_BITS, LOOKUP, PER_CHANNEL, PER_TENSOR, TABLES, Layer
from qguard.models.model import safetensors_header


def read(files: list[Path], tables: Collection[str] = ()) -> tuple[Layer, ...]:
    """One layer for each tensor of two or more dimensions; scales beside a quantized weight are none.

    What multiplies them is torch's business, so that ``computes`` is empty, except for torchao's tensors, which say it.

    Args:
        files: Of the artifact.
        tables: Names of the tensors whose rows the network looks up.
    """
    layers = []
    for file in files:
        header, _ = safetensors_header(file)
        integer = _torchao(file)
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
            computes = "" if name not in integer else "integer" if integer[name] else "float"
            layer = Layer(name, (name,), "", name, element, bits, granularity, computes, "", end - begin)
            layers.append(replace(layer, computes=LOOKUP, part=TABLES) if name in tables else layer)
    return tuple(layers)


def _torchao(file: Path) -> dict[str, bool]:
    """torchao's quantized tensors, and whether their layer quantizes its activations, as the file's own description says."""
    from safetensors import safe_open

    with safe_open(file, "np") as f:
        metadata = f.metadata() or {}
    found = {}
    for name, text in metadata.items():
        try:
            kind = json.loads(text)
        except ValueError:
            continue  # other metadata is plain text
        if isinstance(kind, dict) and kind.get("_type") == "Int8Tensor":
            data = kind.get("_data")
            module, _, parameter = name.rpartition(".")
            found[f"{module}._{parameter}_qdata"] = isinstance(data, dict) and bool(data.get("act_quant_kwargs"))
    return found


def _is_scale(name: str) -> bool:
    last = name.rpartition(".")[2]
    return "scale" in last or "zero_point" in last


def _granularity(scales: int, shape: list[int]) -> str:
    """torch stores (outputs, inputs)."""
    if scales == 1 < shape[0]:
        return PER_TENSOR
    if scales == shape[0]:
        return PER_CHANNEL
    return f"block {prod(shape) // scales}" if scales > shape[0] and prod(shape) % scales == 0 else f"{scales} scales"
