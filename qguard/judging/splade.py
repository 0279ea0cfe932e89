"""What exports make of the head of a sparse model by mistake, each as a pipeline that gives the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qguard.models.model import Model
from qguard.models.modules import MASK, SENTENCE, TOKENS, Features, SpladePooling, Weights
from qguard.models.pipeline import Pipeline
from qguard.models.tensors import stored_tensors

Pool = Callable[[Any, SpladePooling], Any]


@dataclass(frozen=True)
class Otherwise(SpladePooling):
    """A head that pools otherwise.

    Attributes:
        pool: Logits of a text's tokens (tokens, words), and the model's own pooling, to weights (words,).
        padding: Whether padding is pooled too.
    """

    pool: Pool = lambda logits, own: own.pooled(logits)
    padding: bool = False

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`qguard.models.modules.base.Module.__call__`."""
        own = SpladePooling(self.path, self.strategy, self.activation)
        rows = zip(features[TOKENS], features[MASK], strict=True)
        features[SENTENCE] = np.stack([self.pool(row if self.padding else row[kept != 0], own) for row, kept in rows])


def _without_logarithm(logits: Any, own: SpladePooling) -> Any:
    cut = np.maximum(logits, np.float32(0))
    return cut.sum(0) if own.strategy == "sum" else cut.max(0)


_INSTEAD: Mapping[str, Pool] = {
    "without its logarithm": _without_logarithm,
    "as raw logits, neither cut at 0 nor as logarithms": lambda x, own: x.sum(0) if own.strategy == "sum" else x.max(0),
    "without its special tokens' positions": lambda x, own: own.pooled(x[1:-1] if len(x) > 2 else x),
    "of the first token alone": lambda x, own: own.activated(x[0]),
    "of the last token alone": lambda x, own: own.activated(x[-1]),
    "pooled by 'mean'": lambda x, own: own.activated(x).mean(0),
}


def alternatives(model: Model) -> dict[str, Pipeline]:
    """What exports make of a sparse model's head by mistake: in words, and the pipeline."""
    head = model.pipeline.head
    own = next(m for m in head if isinstance(m, SpladePooling))

    def put(module: SpladePooling) -> Pipeline:
        return replace(model.pipeline, head=tuple(module if m is own else m for m in head))

    def other(pool: Pool, *, padding: bool = False) -> Pipeline:
        return put(Otherwise(own.path, own.strategy, own.activation, pool, padding))

    strategy = "sum" if own.strategy == "max" else "max"
    found = {f"pooled by {strategy!r} instead of {own.strategy!r}": put(replace(own, strategy=strategy))}
    twice = own.activation == "log1p_relu"
    words = "with one logarithm instead of two" if twice else "with the logarithm taken twice"
    found[words] = put(replace(own, activation="relu" if twice else "log1p_relu"))
    found |= {name: other(pool) for name, pool in _INSTEAD.items()}
    found["pooled over padding too"] = other(lambda x, mine: mine.pooled(x), padding=True)
    if (bias := decoder_bias(model)) is not None:
        found["without the bias of its decoder"] = other(lambda x, mine: mine.pooled(x - bias))
    return found


def decoder_bias(model: Model) -> Any:
    """The bias of a masked language model's decoder, float32 (words,); ``None`` where no one tensor of that size is found."""
    if model.onnx is not None:
        return None
    width = max((t["shape"][0] for t in model.tensors.values() if len(t["shape"]) == 2), default=0)
    found = [
        np.asarray(tensor[:], np.float32)
        for file in model.weight_files
        for tensor in stored_tensors(file)
        if tensor.shape == (width,)
    ]
    return found[0] if found and all(np.array_equal(f, found[0]) for f in found) else None
