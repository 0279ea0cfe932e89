"""Weights of words in fp32, by sentence-transformers' ``SparseEncoder``."""

from __future__ import annotations

from typing import Any

from qguard.models.model import Model
from qguard.outputs import SparseRows


def encoded(st: Any, model: Model, role: str | None, texts: list[str]) -> SparseRows:
    """What it gives for n texts of the same role: (n, words of the vocabulary), float32.

    Args:
        st: The ``SparseEncoder``.
        model: Whose pipeline has the prompts.
        role: ``query``, ``document`` or ``None``.
        texts: At least one.
    """
    prompt = model.pipeline.prefix(role) or None
    parts = []
    for start in range(0, len(texts), 256):
        found = st.encode(texts[start : start + 256], prompt=prompt, batch_size=16, show_progress_bar=False)
        found = found.coalesce()
        parts.append(_rows(found.indices().numpy(), found.values().numpy(), tuple(found.shape)))
    return SparseRows.joined(parts)


def _rows(places: Any, weights: Any, shape: tuple[int, ...]) -> SparseRows:
    from scipy.sparse import coo_array

    return SparseRows.of(coo_array((weights, (places[0], places[1])), shape=shape))
