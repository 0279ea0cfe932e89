"""The text whose fp32 vector rounding turns most: what no smaller format can be asked to keep.

A model may be unstable on a text: a change of its weights in the last digits sends the vector elsewhere. all-mpnet-base-v2 is
so on one word repeated for 384 tokens, which its int8 moves twice as far as any other text of core. The golden records how
unstable the least stable text is, before anything is quantized, by rounding the weights to bfloat16 and encoding again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.console.progress import progress
from qguard.models.model import Model
from qguard.vectors.cosine import cosine

KEY = "fragile"  # of the manifest: {"text": index, "times": how many times as far as the median text}


def rounded_apart(
    model: Model, ids: Sequence[Sequence[int]], roles: Sequence[str | None], vectors: NDArray[np.float32]
) -> dict[str, Any]:
    """What a manifest says of the text that rounded weights turn most.

    Args:
        model: One whose network torch runs.
        ids: Token ids of n texts.
        roles: Of each text.
        vectors: Their fp32 vectors (n, dim).

    Returns:
        :data:`KEY` → its index, and how many times as far it turns (1 - cosine) as the median text, of one digit; empty where
        rounding turns no text.
    """
    import torch

    from qguard.encoders import open_encoder

    encoder = open_encoder("torch", model.folder, model.pipeline, "fp32")
    runtime: Any = encoder.runtime
    with torch.no_grad():
        for weight in runtime.model.parameters():
            weight.copy_(weight.bfloat16().float())
    with progress(f"{model.name}: {len(ids)} texts with rounded weights", None):
        turned = losses(vectors, encoder.encode_ids(encoder.tokenizer.told(ids, roles)))
    return {KEY: found} if (found := most_fragile(turned)) else {}


def losses(vectors: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """1 - cosine of each of two sets of vectors (n, dim), in [0, 2]; 0 where one has no direction."""
    directed = vectors.any(1) & others.any(1)
    return np.where(directed, np.maximum(1 - cosine(vectors, others), 0), 0.0)


def most_fragile(losses: NDArray[np.float64]) -> dict[str, Any]:
    """The index of the greatest of n losses and how many times the median it is; empty where the median is 0."""
    median, most = float(np.median(losses)), int(np.argmax(losses))
    return {"text": most, "times": round(float(losses[most]) / median, 1)} if median > 0 else {}
