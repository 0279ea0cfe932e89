"""The tensors of a safetensors file: nothing is read before it is used, and nothing stays in memory that was read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qguard.models.model import safetensors_header

BF16 = "BF16"  # which NumPy lacks: the upper half of float32
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", BF16: "<u2"}
_TYPES = FLOATS | {"I8": "<i1"}  # int8: of a static model with weights beside it
_MUCH = 2**16  # bytes of a copy from which on the pages that it was read from are given back


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file, read part by part.

    Each part is a copy. Its pages are given back to the system: those of a mapped file count as memory of the process, and
    in the end all weights of a large model would be among them.

    Attributes:
        name: In the file.
        element: Element type, by safetensors' names.
        values: The mapped values; ``uint16`` for :data:`BF16`.
        file: The map that they lie in.
    """

    name: str
    element: str
    values: Any
    file: mmap.mmap

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy has it."""
        return tuple(self.values.shape)

    @property
    def T(self) -> Stored:  # noqa: N802 - NumPy's name
        """The transpose."""
        return replace(self, values=self.values.T)

    @property
    def flat(self) -> Stored:
        """With one dimension."""
        return replace(self, values=self.values.reshape(-1))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        """A part, by NumPy's rules of slices and indices; float32 for :data:`BF16`, else of the stored type."""
        found = np.array(self.values[index])
        if found.nbytes >= _MUCH and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.file.madvise(mmap.MADV_DONTNEED)
        return (found.astype(np.uint32) << 16).view(np.float32) if self.element == BF16 else found


def stored_tensors(file: Path) -> Iterator[Stored]:
    """Each tensor of floats or int8 that holds any values, in the file's order.

    Raises:
        ModelProblem: see :func:`qguard.models.model.safetensors_header`.
    """
    header, start = safetensors_header(file)
    with file.open("rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    for name, info in header.items():
        element, shape = info["dtype"], tuple(info["shape"])
        if element in _TYPES and all(shape):
            values = np.frombuffer(mapped, _TYPES[element], prod(shape), start + info["data_offsets"][0])
            yield Stored(name, element, values.reshape(shape), mapped)
