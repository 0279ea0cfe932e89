"""Embedding tables of an ONNX file, in the forms of :mod:`qguard.artifacts.layers.onnx` and with scales behind the lookup.

Known forms: float tables of any width; integers that are dequantized before or behind the lookup, with one scale, one a row, one
a column or one a block; ``GatherBlockQuantized`` with 8 and 4 bits; ``EmbedLayerNormalization`` and its quantized form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.layers.onnx import ELEMENT, LOOKUPS, MOVED, Reader, Weight
from qguard.artifacts.tables import Table
from qguard.onnx.edit import attribute
from qguard.onnx.read import read_graph

_HALF_BYTES = 2  # onnx.TensorProto.UINT8, which GatherBlockQuantized takes for two values of 4 bits
_BEHIND = 6  # operators behind a lookup that may dequantize it


def read(file: Path) -> list[Table]:
    """Every table of a file, each once.

    Raises:
        ArtifactProblem: see :func:`qguard.onnx.read.read_graph`.
    """
    found = dict[str, Table]()
    for table in Tables(read_graph(file), file.parent).tables():
        if table.name not in found or table.by_token:
            found[table.name] = table
    return list(found.values())


@dataclass(frozen=True)
class _Scales:
    """What turns stored integers to floats: arrays that broadcast to the rows they are cut to, or ``None``."""

    scale: Any
    zero: Any
    blocks: int  # values of a row that share a number; 0 where one number serves all rows

    def of(self, parameter: Any, start: int, stop: int) -> Any:
        part = parameter if not self.blocks else np.repeat(parameter[start:stop], self.blocks, axis=1)
        return np.asarray(part).astype(np.float32)


class Tables(Reader):
    """A graph whose embedding tables are read row by row."""

    _held: tuple[str, Any] = "", None

    def _whole(self, name: str) -> Any:
        """A stored tensor, the last one kept: a file's own bytes are copied whole each time they are asked for."""
        if self._held[0] != name:
            self._held = name, self.stored(name)
        return self._held[1]

    def tables(self) -> Iterator[Table]:
        """Every table but those of one number a row, or one a block of it, which are the factors of another."""
        return (t for t in self._all() if t.width > 1)

    def _all(self) -> Iterator[Table]:
        for node in self.nodes:
            if node.op_type in LOOKUPS and attribute(node, "axis", 0) == 0 and not self.is_scale(node):
                for i in LOOKUPS[node.op_type]:
                    found = self.table(node, i) if i < len(node.input) and node.input[i] else None
                    if found is not None and len(found.tensor.dims) >= 2 and found.tensor.data_type in ELEMENT:
                        yield self._opened(node, i, found)
            elif node.op_type == "Slice":  # of positions that begin at the first row
                found = self.constant(node.input[0], 0)
                if found is not None and len(found.tensor.dims) == 2 and found.tensor.data_type in ELEMENT:
                    yield self._opened(node, -1, found)

    def _opened(self, node: Any, i: int, weight: Weight) -> Table:
        by_token = i >= 0 and self.by_token(node, i)
        element = ELEMENT[weight.tensor.data_type]
        packed = node.op_type == "GatherBlockQuantized" and weight.tensor.data_type == _HALF_BYTES
        packed = packed and attribute(node, "bits", 4) == 4
        dims = tuple(weight.tensor.dims)
        shape = weight.shape if len(weight.shape) == 2 and prod(weight.shape) == prod(dims) else (dims[0], prod(dims[1:]))
        rows, width = shape[0], shape[1] * (2 if packed else 1)
        if node.op_type == "QEmbedLayerNormalization":
            weight = replace(weight, scale=node.input[6 + i], zero=node.input[11 + i])
        made = Table(weight.name, by_token, rows, width, element, lambda _a, _b: (0, 0))
        if element.startswith("F") or element == "BF16":
            return replace(made, read=lambda a, b: (_floats(self._whole(weight.name).reshape(shape)[a:b]), 0.0))
        scales = self._scales(weight, rows, width) if weight.scale else self._behind(node, rows, width)
        if scales is None:
            return replace(made, unread="what dequantizes its integers is in no form that qguard knows")

        def rows_of(start: int, stop: int) -> tuple[Any, Any]:
            stored = self._whole(weight.name).reshape(shape)[start:stop]
            values = _unpacked(stored) if packed else np.asarray(stored)
            scale = scales.of(scales.scale, start, stop)
            zero = 0 if scales.zero is None else scales.of(scales.zero, start, stop)
            return (values.astype(np.float32) - zero) * scale, np.abs(scale)

        return replace(made, read=rows_of)

    def _scales(self, weight: Weight, rows: int, width: int) -> _Scales | None:
        """Of a table that is dequantized before the lookup or by it."""
        scale, zero = self.stored(weight.scale), self.stored(weight.zero)
        if scale is None or (weight.zero and zero is None):
            return None
        if weight.block and weight.along == 0:
            return None  # rows share numbers
        if weight.along == 0 or weight.block:
            per_row = scale.size // rows
            if scale.size != per_row * rows or not per_row:
                return None if scale.size > 1 else self._one(scale, zero)
            block = weight.block or width // per_row
            return _cut(scale, zero, rows, width, block, weight.middle)
        if scale.size in (1, width):
            return self._one(scale, zero)
        return None

    def _one(self, scale: Any, zero: Any) -> _Scales:
        """The same for all rows: one number, or one a column."""
        return _Scales(scale.reshape(-1), None if zero is None else zero.reshape(-1), 0)

    def _behind(self, lookup: Any, rows: int, width: int) -> _Scales | None:
        """Of a table whose rows are dequantized when they have been looked up."""
        name, zero = lookup.output[0], None
        for _ in range(_BEHIND):
            node = next((n for n in self.consumers(name) if n.op_type in (*MOVED, "DequantizeLinear", "Sub", "Mul")), None)
            if node is None:
                return None
            if node.op_type == "DequantizeLinear":
                scale = self.stored(node.input[1])
                zero = self.stored(node.input[2]) if len(node.input) > 2 and node.input[2] else None
                return self._one(scale, zero) if scale is not None and scale.size in (1, width) else None
            if node.op_type in ("Sub", "Mul"):
                other = next((i for i in node.input if i != name), "")
                value = self._beside(other, lookup, rows, width)
                if value is None or (node.op_type == "Sub" and node.input[0] != name):
                    return None
                if node.op_type == "Mul":
                    blocks = width // value.shape[1] if value.ndim == 2 else 0
                    if zero is not None and zero.ndim != value.ndim:
                        return None
                    return _Scales(value, zero, blocks)
                zero = value
            name = node.output[0]
        return None

    def _beside(self, name: str, lookup: Any, rows: int, width: int) -> Any:
        """A stored number, or one a block of each row (rows, blocks) that the same ids look up."""
        name = self.behind(name, MOVED)
        value = self.stored(name)
        if value is not None:
            return value.reshape(-1) if value.size == 1 else None
        node = self.producers.get(name)
        if node is None or node.op_type != "Gather" or self.ids(node) != self.ids(lookup):
            return None
        value = self.stored(self.behind(node.input[0], MOVED))
        return None if value is None or value.size % rows or width % (value.size // rows) else value.reshape(rows, -1)


def _cut(scale: Any, zero: Any, rows: int, width: int, block: int, middle: int) -> _Scales | None:
    """One number for each block of a row."""
    blocks = -(-width // block)
    if scale.size != rows * blocks or blocks * block != width:
        return None
    scale = scale.reshape(rows, blocks)
    if zero is None:
        return _Scales(scale, np.full_like(scale, middle) if middle else None, block)
    if zero.size == rows * -(-blocks // 2) != scale.size and zero.dtype == np.uint8:  # two of 4 bits in a byte
        zero = _unpacked(zero.reshape(rows, -1))[:, :blocks]
    return _Scales(scale, zero.reshape(rows, blocks), block) if zero.size == scale.size else None


def _unpacked(stored: Any) -> Any:
    """Two values of 4 bits in a byte, the low half first."""
    return np.stack([stored & 15, stored >> 4], -1).reshape(len(stored), -1)


def _floats(stored: Any) -> Any:
    return np.asarray(stored).astype(np.float32)
