"""A static model in torch and in NumPy: the mean of a text's rows, as ``StaticEmbedding`` of sentence-transformers has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_table(root: Path, dtype: Any) -> Any:
    """A torch module: token ids and mask, each int64 (batch, length), to sentence embeddings (batch, dim).

    Args:
        root: A folder that :func:`qguard.models.table.read_table` reads.
        dtype: What it computes in.

    Raises:
        ModelProblem: see :func:`qguard.models.table.read_table`.
    """
    import torch

    from qguard.models.table import read_table

    table = torch.from_numpy(read_table(root).folded()).to(dtype)

    class Mean(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag.from_pretrained(table, mode="mean")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            kept = attention_mask.bool()
            lengths = kept.sum(1)
            return self.embedding(input_ids[kept], lengths.cumsum(0) - lengths)

    return Mean()


class NumpyTable:
    """The same in plain NumPy, sums in float64: what confirms a golden.

    Args:
        root: As in :func:`open_table`.
    """

    batch_tokens, workers = 4096, 1

    def __init__(self, root: Path) -> None:
        from qguard.models.table import read_table

        self.table = read_table(root).folded()

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        import numpy as np

        rows = self.table[input_ids].astype(np.float64) * attention_mask[..., None]
        return (rows.sum(1) / attention_mask.sum(1, keepdims=True)).astype(np.float32)
