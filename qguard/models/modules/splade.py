"""Weights of words: logits of a masked language model to one weight a word of the vocabulary, as SPLADE has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import MASK, SENTENCE, TOKENS, Features, Module, Weights

STRATEGIES = ("max", "sum")
ACTIVATIONS = ("relu", "log1p_relu")


@dataclass(frozen=True)
class SpladePooling(Module):
    """For each word the largest, or the sum, of ``log(1 + relu(logit))`` over a text's tokens, special tokens among them.

    Attributes:
        strategy: Of :data:`STRATEGIES`.
        activation: Of :data:`ACTIVATIONS`; ``log1p_relu`` takes the logarithm twice.
    """

    strategy: str = "max"
    activation: str = "relu"

    @classmethod
    def read(cls, folder: Path, path: str) -> SpladePooling:
        """See :meth:`Module.read`."""
        config = read_json(inside(folder, path) / "config.json", ModelProblem)
        found = cls(path, str(config.get("pooling_strategy", "max")), str(config.get("activation_function", "relu")))
        for key, value, known in (
            ("pooling_strategy", found.strategy, STRATEGIES),
            ("activation_function", found.activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ModelProblem(f"{key} of {path}: expected {' or '.join(known)}, found {value!r}")
        return found

    @property
    def reads(self) -> str:
        """Logits: the Transformer of a sparse model gives them under the name of token embeddings."""
        return TOKENS

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        logits, mask = features[TOKENS], features[MASK]
        # text by text: a second array of all logits of a batch would be its largest
        rows = [self.pooled(row[kept != 0]) for row, kept in zip(logits, mask, strict=True)]
        features[SENTENCE] = np.stack(rows)

    def pooled(self, logits: Any) -> Any:
        """Weights of one text.

        Args:
            logits: Of its tokens, float32 (tokens, words).

        Returns:
            float32 (words,), 0 or more.
        """
        if self.strategy == "sum":
            return self.activated(logits).sum(0)
        return self.activated(logits.max(0, initial=0))  # the largest stays the largest

    def activated(self, logits: Any) -> Any:
        """The same in another array."""
        import numpy as np

        found = np.log1p(np.maximum(logits, np.float32(0)))
        return np.log1p(found) if self.activation == "log1p_relu" else found


@dataclass(frozen=True)
class Largest(Module):
    """The largest weights of each text stay, the others become 0: ``max_active_dims`` of a sparse model.

    Attributes:
        count: How many stay; of equal ones those that come first in the vocabulary.
    """

    count: int = 0

    closes: ClassVar[bool] = True

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        found = features[SENTENCE]
        size = np.where(np.isnan(found), np.inf, np.abs(found))  # as torch.topk has it: what is no number is not hidden
        order = np.argsort(-size, axis=1, kind="stable")
        kept = found.copy()
        np.put_along_axis(kept, order[:, self.count :], 0, 1)
        features[SENTENCE] = kept
