"""How far the weights of layers lie from the model's own, and where integer products could saturate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.layers import Layer
from qguard.models.tensors import stored_tensors
from qguard.onnx.read import read_graph, stored_array, tensors

_SAMPLE = 16  # outputs that are enough to tell whose weights they are
_SEEN = 96  # values of an output or an input that tell it from all others
_NEAR = 0.6  # mean cosine of a few of them with the nearest of a matrix: inputs may be scaled, and unrelated ones are near 0.3
_EXPLAINS = 0.25  # of an input's squared error that is left where its weights were scaled
_SAME = 0.5  # relative error below which two matrices are the same weights; unrelated ones are near 1


def matrices(files: Iterable[Path]) -> Iterator[Any]:
    """Every float matrix of safetensors or ONNX files as (inputs, outputs), read when it is used."""
    for file in files:
        if file.suffix == ".onnx":
            yield from _onnx_matrices(file)
        if file.suffix != ".safetensors":
            continue
        yield from (tensor.T for tensor in stored_tensors(file) if len(tensor.shape) == 2)


def _onnx_matrices(file: Path) -> Iterator[Any]:
    from onnx import TensorProto

    for tensor in tensors(read_graph(file)):
        if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT:
            yield _Matrix(tensor, file.parent)


class _Matrix:
    """A matrix of an ONNX file, which is read anew each time: none stays in memory."""

    def __init__(self, tensor: Any, folder: Path) -> None:
        self._tensor, self._folder, self.shape = tensor, folder, tuple(tensor.dims)

    def __getitem__(self, index: Any) -> Any:
        return stored_array(self._tensor, self._folder)[index]


def vectors(files: Iterable[Path]) -> Iterator[Any]:
    """Every float vector of safetensors or ONNX files, such as a bias."""
    from onnx import TensorProto

    for file in files:
        if file.suffix == ".onnx":
            stored = (t for t in tensors(read_graph(file)) if len(t.dims) == 1 and t.data_type == TensorProto.FLOAT)
            yield from (stored_array(t, file.parent) for t in stored)
        if file.suffix != ".safetensors":
            continue
        yield from (tensor[:] for tensor in stored_tensors(file) if len(tensor.shape) == 1)


def weight_errors(layers: Iterable[Layer], references: Iterable[Any]) -> list[tuple[Layer, float]]:
    """Relative error ``|W' - DW| / |DW|`` (Frobenius) of each layer's weights ``W'`` (inputs, outputs) against fp32's ``W``.

    The reference is found by its values, since exporters rename weights. ``D`` is the diagonal matrix of least squares:
    recipes may scale inputs (SmoothQuant, Xiao et al. 2023) or move some into a float layer; neither is an error.

    Args:
        layers: Those whose values can be read.
        references: The model's matrices, (inputs, outputs) each.

    Returns:
        One pair for each layer that has a counterpart; a layer without one (rotated or interleaved weights) is left out.
    """
    known, found = References(references), []
    for layer in layers:
        parts = known.parts(layer.read()[1]) if layer.read is not None else []
        if any(p.same for p in parts):
            found.append((layer, max(p.error for p in parts)))
    return found


@dataclass(frozen=True)
class Part:
    """Some of a layer's outputs, which are one matrix of the model: fused queries, keys and values are several side by side.

    Attributes:
        outputs: Which of them.
        reference: The model's matrix.
        error: The relative error against it.
        same: Whether these are its weights at all.
    """

    outputs: slice
    reference: Any
    error: float
    same: bool


class References:
    """A model's matrices, in which a layer's counterpart is found by its values.

    Args:
        matrices: (inputs, outputs) each.
    """

    def __init__(self, matrices: Iterable[Any]) -> None:
        self._known = dict[tuple[int, int], Any]()  # of a matrix: the values of its outputs, or inputs, that tell them apart
        self._by_inputs: dict[int, list[Any]] = {}
        self._samples: dict[tuple[int, int], Any] = {}
        for matrix in matrices:
            self._by_inputs.setdefault(matrix.shape[0], []).append(matrix)

    def parts(self, values: Any) -> list[Part]:
        """The counterparts of weights (inputs, outputs); none where no matrix has such a shape.

        Weights may also be some of a matrix's outputs, or of its inputs: recipes multiply a few apart from the others.
        """
        inputs, outputs = values.shape
        widths = [r.shape[1] for r in self._by_inputs.get(inputs, ()) if outputs % r.shape[1] == 0]
        widths = [w for w in widths if w == outputs or w >= _SAMPLE]  # a table of two rows divides most numbers
        if not widths:
            return self._some(values)
        width = max(widths)
        near = [r for r in self._by_inputs[inputs] if r.shape[1] == width]
        some = np.linspace(0, width - 1, _SAMPLE).astype(int)
        if (inputs, width) not in self._samples:
            self._samples[inputs, width] = np.stack([_centred(r[:, some]) for r in near])
        found = []
        for at in range(0, outputs, width):
            part = values[:, at : at + width]
            distance = _error(_centred(part[:, some]), self._samples[inputs, width])
            best = int(np.argmin(distance))
            error = float(_error(part, near[best][:, :]))
            found.append(Part(slice(at, at + width), near[best], error, bool(distance[best] < _SAME)))
        return found

    def _some(self, values: Any) -> list[Part]:
        """The matrix of which weights are some outputs, or else some inputs; none where there is none."""
        for axis in (1, 0):
            count, other = values.shape[axis], values.shape[1 - axis]
            if other < _SAMPLE:  # too short to tell one from another
                continue
            seen = np.unique(np.linspace(0, other - 1, _SEEN).astype(int))
            few = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int))
            some = np.take(values, few, axis)
            larger = [
                r for some_of in self._by_inputs.values() for r in some_of if r.shape[1 - axis] == other and r.shape[axis] > count
            ]
            for r in sorted(larger, key=lambda r: r.shape[axis]):  # what lacks few is likelier
                if (id(r), axis) not in self._known:
                    self._known[id(r), axis] = _units(np.take(np.asarray(r[:, :], np.float32), seen, 1 - axis), axis)
                known = self._known[id(r), axis]
                alike = _units(np.take(some, seen, 1 - axis), axis) @ known.T
                if alike.max(1).mean() < _NEAR:
                    continue
                at = np.argmax(_units(np.take(values, seen, 1 - axis), axis) @ known.T, axis=1)
                if len({*at.tolist()}) < count:  # the same one twice is not some of them
                    continue
                part = np.take(np.asarray(r[:, :], np.float32), at, axis)
                if _error(some, np.take(part, few, axis)) < _SAME:
                    return [Part(slice(0, values.shape[1]), part, float(_error(values, part)), True)]
        return []


def _units(array: Any, axis: int) -> Any:
    """Each column (``axis`` 1) or row (0) as a row of unit length."""
    rows = np.asarray(array if axis == 0 else array.T, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def scaled_like(values: Any, reference: Any) -> Any:
    """``DW`` of :func:`weight_errors`: fp32's weights (inputs, outputs) as a layer has them, without its rounding."""
    w = np.asarray(reference, np.float32)
    square = np.einsum("io,io->i", w, w)
    scale = np.einsum("io,io->i", values, w) / np.where(square > 0, square, 1)
    off, plain = values - scale[:, None] * w, values - w
    # a factor is one where it explains most of how an input differs; rounding, GPTQ's too, it does not
    scaled = np.einsum("io,io->i", off, off) < _EXPLAINS * np.einsum("io,io->i", plain, plain)
    # an input without weights was moved into a float layer, unless all of its weights are less than half a step
    step = np.min(np.abs(values), axis=0, where=values != 0, initial=np.inf)
    rounded = ~values.any(1) & (np.abs(w) <= 0.51 * np.where(np.isfinite(step), step, 0)).all(1)
    scale = np.where(scaled & ~rounded, scale, 1) if values.shape[1] >= _SAMPLE else np.ones_like(scale)
    return (scale[:, None] * w).astype(np.float32)


def _centred(columns: Any) -> Any:
    """Each output's weights around their mean: a wrong zero point must not hide whose weights they are."""
    columns = np.asarray(columns, np.float32)
    return columns - columns.mean(0)


def _error(values: Any, references: Any) -> Any:
    """Of one reference (inputs, outputs) or several (…, inputs, outputs): an error each."""
    w = np.asarray(references, np.float32)
    square = np.einsum("...io,...io->...i", w, w)
    scale = np.einsum("io,...io->...i", values, w) / np.where(square > 0, square, 1)
    fit = scale[..., None] * w
    norm = np.einsum("...io,...io->...", fit, fit)
    off = values - fit
    return np.where(norm > 0, np.sqrt(np.einsum("...io,...io->...", off, off) / np.where(norm > 0, norm, 1)), 1.0)


def overflowing(stored: Any) -> Any:
    """For each output channel, whether two neighboring weights could overflow 16 bits with unsigned activations.

    ``vpmaddubsw`` adds the products of inputs 2i and 2i + 1 in a saturating int16: ``255 * |w + w'| > 32767``.

    Args:
        stored: Signed 8-bit weights (inputs, outputs).
    """
    w = np.asarray(stored, np.int32)
    w = w[: len(w) // 2 * 2]
    return (255 * np.abs(w[0::2] + w[1::2]) > 32767).any(0)
