"""Tiny static models: an embedding table made by sentence-transformers, or in the layout of model2vec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.families import VOCABULARY, WIDE, wordpiece


def write(folder: Path, *, seed: int = 0, behind: tuple[Any, ...] | None = None) -> Path:
    """A folder that sentence-transformers saves: ``StaticEmbedding`` and the modules behind it, Normalize by default."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    table = torch.randn(VOCABULARY, WIDE, generator=torch.Generator().manual_seed(seed))
    modules = [StaticEmbedding(wordpiece(), embedding_weights=table), *((Normalize(),) if behind is None else behind)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def write_model2vec(folder: Path, *, shared: int = 200, **change: Any) -> Path:
    """A folder in the layout of model2vec whose tokens share rows of int8 and have weights of their own.

    Args:
        folder: Where to.
        shared: Rows of the table.
        change: Tensors in place of those of that name; ``None`` leaves one out.
    """
    import numpy as np
    from safetensors.numpy import save_file

    pick = np.random.default_rng(0)
    tensors = {
        "embeddings": pick.integers(-127, 128, (shared, WIDE)).astype(np.int8),
        "mapping": pick.integers(0, shared, VOCABULARY),
        "weights": pick.uniform(0.1, 1, VOCABULARY).astype(np.float32),
    }
    folder.mkdir(parents=True)
    save_file({k: v for k, v in {**tensors, **change}.items() if v is not None}, folder / "model.safetensors")
    wordpiece().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder
