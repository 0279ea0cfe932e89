"""How far the weights of layers lie from the model's own, and where integer products could saturate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.layers import Layer
from qguard.models.model import safetensors_header
from qguard.onnx.read import read_graph, stored_array, tensors

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "<i1"}  # int8: of a static model with weights beside it
_SAMPLE = 16  # outputs that are enough to tell whose weights they are
_SAME = 0.5  # relative error below which two matrices are the same weights; unrelated ones are near 1


def matrices(files: Iterable[Path]) -> Iterator[Any]:
    """Every float matrix of safetensors or ONNX files as (inputs, outputs), read when it is used."""
    for file in files:
        if file.suffix == ".onnx":
            yield from _onnx_matrices(file)
        if file.suffix != ".safetensors":
            continue
        header, start = safetensors_header(file)
        for info in header.values():
            if len(info["shape"]) == 2 and info["dtype"] in _TYPES:
                begin = start + info["data_offsets"][0]
                raw = np.memmap(file, _TYPES[info["dtype"]], "r", begin, tuple(info["shape"]))
                yield _Bfloat16(raw.T) if info["dtype"] == "BF16" else raw.T


def _onnx_matrices(file: Path) -> Iterator[Any]:
    from onnx import TensorProto

    for tensor in tensors(read_graph(file)):
        if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT:
            yield stored_array(tensor, file.parent)


class _Bfloat16:
    """The upper halves of float32, widened where they are read."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.shape = raw, raw.shape

    def __getitem__(self, index: Any) -> Any:
        return (self.raw[index].astype(np.uint32) << 16).view(np.float32)


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
    by_inputs: dict[int, list[Any]] = {}
    for reference in references:
        by_inputs.setdefault(reference.shape[0], []).append(reference)
    samples: dict[tuple[int, int], Any] = {}
    found = []
    for layer in layers:
        if layer.read is None:
            continue
        values = layer.read()[1]
        inputs, outputs = values.shape
        widths = [r.shape[1] for r in by_inputs.get(inputs, ()) if outputs % r.shape[1] == 0]
        if not widths:
            continue
        width = max(widths)  # fused queries, keys and values are several matrices side by side
        near = [r for r in by_inputs[inputs] if r.shape[1] == width]
        some = np.linspace(0, width - 1, _SAMPLE).astype(int)
        if (inputs, width) not in samples:
            samples[inputs, width] = np.stack([_centred(r[:, some]) for r in near])
        errors, same = [], False
        for at in range(0, outputs, width):
            part = values[:, at : at + width]
            distance = _error(_centred(part[:, some]), samples[inputs, width])
            best = int(np.argmin(distance))
            same = same or bool(distance[best] < _SAME)
            errors.append(float(_error(part, near[best][:, :])))
        if same:
            found.append((layer, max(errors)))
    return found


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
