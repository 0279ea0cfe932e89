"""What sentence-transformers gives for the texts of a multi-vector model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qguard.models.model import Model
from qguard.outputs import TokenVectors


def encoded(st: Any, model: Model, role: str | None, texts: list[str]) -> TokenVectors:
    """The vectors of the tokens that count, float32, of n texts of one role.

    Args:
        st: The model in sentence-transformers.
        model: The same here.
        role: ``"query"``, ``"document"``, or ``None`` for a text that sentence-transformers is told no task of.
        texts: n texts.
    """
    prompt = model.pipeline.prefix(role) or None
    found = st.encode(texts, prompt=prompt, task=role, show_progress_bar=False, convert_to_numpy=True)
    ends = np.cumsum([0, *map(len, found)]).astype(np.int64)
    return TokenVectors(np.concatenate(found).astype(np.float32, copy=False), ends)


def preprocess(st: Any, texts: Sequence[str], roles: Sequence[str | None]) -> list[list[int]]:
    """Token ids of each text by itself, with those that a query is filled up with."""
    return [st.preprocess([text], task=role)["input_ids"][0].tolist() for text, role in zip(texts, roles, strict=True)]
