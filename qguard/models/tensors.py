"""The tensors of a safetensors file as NumPy maps them: nothing is read before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qguard.models.model import safetensors_header

BF16 = "BF16"  # which NumPy lacks: the upper half of float32
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", BF16: "<u2"}
_TYPES = FLOATS | {"I8": "<i1"}  # int8: of a static model with weights beside it


def mapped(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Name, element type and values of each tensor of floats or int8 that holds any, in the file's order.

    Values of :data:`BF16` are ``uint16``; see :func:`widened`.

    Raises:
        ModelProblem: see :func:`qguard.models.model.safetensors_header`.
    """
    header, start = safetensors_header(file)
    for name, info in header.items():
        element, shape = info["dtype"], tuple(info["shape"])
        if element in _TYPES and all(shape):
            raw = np.memmap(file, _TYPES[element], "r", start + info["data_offsets"][0], shape or (1,))
            yield name, element, raw.reshape(shape)


def widened(values: Any, element: str) -> Any:
    """Values as numbers: those of :data:`BF16` as float32, all others as they are."""
    return (values.astype(np.uint32) << 16).view(np.float32) if element == BF16 else values
