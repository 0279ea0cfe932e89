"""What a golden holds of a large suite's corpus: the best documents of each query and digests of token ids, no vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_K = 10


@dataclass(frozen=True)
class Retrieved:
    """fp32's search of a corpus.

    Attributes:
        rows: int32 (queries, k): the best rows of the corpus for each query, best first.
        scores: float64 (queries, k): their scores, by what the model ranks by.
        tokens: SHA-256 of each block's token ids.
        documents: How many the corpus has.
        block: Rows of a block.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float64]
    tokens: tuple[str, ...]
    documents: int
    block: int

    @classmethod
    def of(cls, arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Retrieved | None:
        """From a golden's arrays and what its manifest says of the suite; ``None`` where that is not large."""
        if "documents" not in facts:
            return None
        tokens = tuple(bytes(row).hex() for row in arrays["corpus_tokens"])
        return cls(arrays["topk_ids"], arrays["topk_scores"], tokens, int(facts["documents"]), int(facts["block"]))

    @property
    def arrays(self) -> dict[str, Any]:
        """As they are stored."""
        tokens = np.frombuffer(bytes.fromhex("".join(self.tokens)), np.uint8).reshape(-1, 32)
        return {"topk_ids": self.rows, "topk_scores": self.scores, "corpus_tokens": tokens}

    @property
    def facts(self) -> dict[str, int]:
        """What the manifest says of it."""
        return {"documents": self.documents, "block": self.block}

    def summary(self, similarity: str) -> list[str]:
        """Lines for reviewers: equal for equal data."""
        first, last = (f"{self.scores[:, i].mean():.4f}" for i in (0, -1))
        return [
            f"A corpus of {self.documents} documents, of which the texts below hold a sample. For each of {len(self.rows)}",
            f"queries the best {self.rows.shape[1]} documents are stored; "
            f"{similarity} of the first {first}, of the last {last}, mean.",
            "",
        ]

    def moved(self, new: Retrieved) -> tuple[str, str]:
        """What changes of the same corpus: in the neighbors, and in the token ids (empty where nothing), in words."""
        k = min(_K, self.rows.shape[1])
        a, b = self.rows[:, :k], new.rows[:, :k]
        shared = (a[:, :, None] == b[:, None, :]).any(2).mean()
        first = int((a[:, 0] != b[:, 0]).sum())
        words = f"queries: {first} of {len(a)} find another first document, overlap@{k} {shared:.4f}"
        if self.block != new.block:
            return words, ""
        changed = [i for i, pair in enumerate(zip(self.tokens, new.tokens, strict=True)) if pair[0] != pair[1]]
        where = f"token ids of documents change in {len(changed)} of {len(self.tokens)} blocks of {self.block}"
        return words, where if changed else ""
