"""Stored numbers that are no numbers: NaN and infinity, wherever a file keeps them, whether or not a text reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qguard.artifacts.artifact import Artifact
from qguard.files import inside
from qguard.gguf.read import Tensor, read_gguf
from qguard.models.tensors import FLOATS, stored_tensors
from qguard.onnx.read import read_graph, stored_array, stored_bytes, tensors

AT_ONCE = 2**24  # values that are looked at together


class Unsound(NamedTuple):
    """One tensor with values that are NaN or infinite: its name, how many of them, and the index of the first and what it is."""

    name: str
    values: int
    first: tuple[int, ...]
    what: str


def unsound(artifact: Artifact) -> tuple[list[Unsound], int]:
    """Every tensor with NaN or infinite values, and how many tensors of floats were looked at.

    Heads behind the transformer and external data count. Infinity is let pass in a tensor that holds nothing else but one other
    value, as masks do, and as a single number, such as the end of a range.

    Raises:
        ArtifactProblem: when a file cannot be read.
    """
    files = [p for p in artifact.weight_files if p.suffix == ".safetensors"]
    files += [inside(artifact.folder, m.path) / "model.safetensors" for m in artifact.pipeline.weighted]
    arrays = (a for f in dict.fromkeys(files) if f.is_file() for a in _of_safetensors(f))
    # one after the other: none stays in memory
    looked_at = [_looked_at(*a) for a in chain(arrays, _of_file(artifact))]
    return [found for found in looked_at if found is not None], len(looked_at)


def _of_file(artifact: Artifact) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    if artifact.onnx is not None:
        yield from _of_onnx(artifact.onnx)
    elif artifact.file is not None:
        for tensor in read_gguf(artifact.file).tensors.values():
            yield tensor.name, tensor.shape, _Rows(tensor)


class _Rows:
    """Values of a tensor in a GGUF file, one after the other, those of some rows at a time."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, index: slice) -> Any:
        width, (start, stop) = self._tensor.width, (index.start, index.stop)
        first = start // width
        found = self._tensor.values(first, -(-stop // width)).reshape(-1)
        return found[start - first * width : stop - first * width]


def _of_onnx(file: Path) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    from onnx import TensorProto, helper

    for i, tensor in enumerate(tensors(read_graph(file))):
        kind = TensorProto.DataType.Name(tensor.data_type)
        if not (kind.startswith(("FLOAT", "BFLOAT")) or kind == "DOUBLE") or kind == "FLOAT4E2M1" or not stored_bytes(tensor):
            continue
        values = stored_array(tensor, file.parent)
        # types that NumPy lacks have ml_dtypes' functions, all but the widest of which are slower than a cast
        wide = helper.tensor_dtype_to_np_dtype(tensor.data_type).kind == "f"
        flat = np.asarray(values).reshape(-1)
        yield tensor.name or f"constant {i}", tuple(tensor.dims), flat if wide else _Narrow(flat)


class _Narrow:
    """Floats of another package's type, widened where they are read."""

    def __init__(self, flat: Any) -> None:
        self._flat = flat

    def __getitem__(self, index: Any) -> Any:
        return self._flat[index].astype(np.float32)


def _of_safetensors(file: Path) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    for tensor in sorted(stored_tensors(file), key=lambda t: t.name):
        if tensor.element in FLOATS:
            yield tensor.name, tensor.shape or (1,), tensor.flat


def _looked_at(name: str, shape: tuple[int, ...], flat: Any) -> Unsound | None:
    """What is wrong with a tensor of this shape, whose values lie one after the other in ``flat``."""
    size, count, first, nan, finite = prod(shape), 0, -1, False, set[float]()
    for start in range(0, size, AT_ONCE):
        part = flat[start : start + AT_ONCE]
        sound = np.isfinite(part)
        if sound.all():
            if len(finite) < 2:
                finite |= {float(part.min()), float(part.max())}
            continue
        at = np.flatnonzero(~sound)
        first = first if count else start + int(at[0])
        count += len(at)
        nan = nan or bool(np.isnan(part[at]).any())
        others = part[sound]
        finite |= {float(others.min()), float(others.max())} if len(others) else set()
    if not count or (not nan and (size == 1 or len(finite) < 2)):
        return None
    return Unsound(name, count, tuple(int(i) for i in np.unravel_index(first, shape)), "NaN" if nan else "infinity")
