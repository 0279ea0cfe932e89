"""From token embeddings to the sentence embedding, in NumPy: the same code behind every runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem, ModelProblem
from qguard.files import inside
from qguard.models.pipeline import Pipeline


def pool(tokens: Any, mask: Any, mode: str) -> Any:
    """One pooling mode of sentence-transformers' ``Pooling``.

    Args:
        tokens: Token embeddings, float32 (batch, length, hidden).
        mask: 1 for text, 0 for padding, (batch, length); at least one 1 a row.
        mode: One of :data:`qguard.models.pipeline.POOLING_MODES`.

    Returns:
        float32 (batch, hidden).
    """
    if mode in ("cls", "lasttoken"):
        # first and last *attended* position, so that the padding side does not matter
        at = mask.argmax(1) if mode == "cls" else mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        return tokens[np.arange(len(tokens)), at]
    if mode == "max":
        return np.where(mask[..., None] > 0, tokens, -np.inf).max(1)
    weight = mask.astype(np.float32)
    if mode == "weightedmean":
        weight *= np.arange(1, mask.shape[1] + 1, dtype=np.float32)
    total = np.matmul(weight[:, None, :], tokens)[:, 0]
    norm = np.maximum(weight.sum(1, keepdims=True), 1e-9)
    return total / (np.sqrt(norm) if mode == "mean_sqrt_len_tokens" else norm)


_ACTIVATION: dict[str, Callable[[Any], Any]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@dataclass(frozen=True)
class Head:
    """Pooling, dense layers and normalization of one pipeline."""

    pipeline: Pipeline
    dense: tuple[tuple[Any, Any, str], ...] = ()

    @classmethod
    def open(cls, folder: Path, pipeline: Pipeline) -> Head:
        """Load the dense layers' weights from safetensors."""
        from safetensors.numpy import load_file

        layers = []
        for d in pipeline.dense:
            path = inside(folder, d.path) / "model.safetensors"
            try:
                tensors = load_file(path)
                layers.append((tensors["linear.weight"], tensors.get("linear.bias"), d.activation))
            except Exception as e:  # the binding has its own error types
                raise ModelProblem(f"{path} cannot be read: {e}") from e
        return cls(pipeline, tuple(layers))

    def __call__(self, hidden: Any, mask: Any) -> Any:
        """float32 (batch, dim) from token embeddings (batch, length, hidden) or sentence embeddings (batch, dim)."""
        x = hidden
        if x.ndim == 3:
            x = np.concatenate([pool(x, mask, mode) for mode in self.pipeline.pooling], axis=1)
            for weight, bias, activation in self.dense:
                x = _ACTIVATION[activation](x @ weight.T + (0 if bias is None else bias))
        elif x.ndim != 2:
            raise MeasurementProblem(f"expected token or sentence embeddings of 3 or 2 dimensions, found {x.ndim}")
        if self.pipeline.normalize:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        return x.astype(np.float32, copy=False)
