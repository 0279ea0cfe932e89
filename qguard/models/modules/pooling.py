"""Token embeddings to one vector a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import MASK, ROWS, SENTENCE, TOKENS, Features, Module, Weights

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling(Module):
    """Token embeddings to one vector a text.

    Attributes:
        modes: Of :data:`POOLING_MODES`; several are concatenated in this order.
        include_prompt: Whether prompt tokens take part.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    @classmethod
    def read(cls, folder: Path, path: str) -> Pooling:
        """See :meth:`Module.read`."""
        config = read_json(inside(folder, path) / "config.json", ModelProblem)
        modes: Any = config.get("pooling_mode")
        if modes is None:
            modes = [mode for key, mode in _LEGACY.items() if config.get(key)]
        if not isinstance(modes, str | list):
            raise ModelProblem(f"pooling mode {modes!r} is neither a name nor a list of names")
        modes = [modes] if isinstance(modes, str) else modes or ["mean"]
        for mode in modes:
            if mode not in POOLING_MODES:
                raise ModelProblem(f"pooling mode {mode!r} cannot be reproduced (supported: {', '.join(POOLING_MODES)})")
        return cls(path, tuple(modes), bool(config.get("include_prompt", True)))

    @property
    def reads(self) -> str:
        """Token embeddings."""
        return TOKENS

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        tokens, mask, rows = features[TOKENS], features[MASK], features[ROWS]
        start, kept = mask.argmax(1), mask
        if not self.include_prompt and rows is not None:
            behind = start + np.asarray([row.prompt for row in rows])
            kept = np.where(np.arange(mask.shape[1]) < behind[:, None], 0, mask)
        features[SENTENCE] = np.concatenate([pool(tokens, kept, mode, start) for mode in self.modes], axis=1)


def pool(tokens: Any, mask: Any, mode: str, start: Any = 0) -> Any:
    """One pooling mode of sentence-transformers' ``Pooling``.

    Args:
        tokens: Token embeddings, float32 (batch, length, hidden).
        mask: 1 for what is pooled, 0 for padding and what is left out, (batch, length). Of a row without a 1, ``cls`` is the
            first token, ``max`` is minus infinity, and every other mode gives zeros.
        mode: One of :data:`POOLING_MODES`.
        start: Position of each row's first token, (batch,): ``weightedmean`` counts from there.

    Returns:
        float32 (batch, hidden).
    """
    import numpy as np

    if mode in ("cls", "lasttoken"):
        # first and last *attended* position, so that the padding side does not matter
        at = mask.argmax(1) if mode == "cls" else mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        found = tokens[np.arange(len(tokens)), at]
        return found if mode == "cls" else np.where(mask.any(1)[:, None], found, np.float32(0))
    if mode == "max":
        return np.where(mask[..., None] > 0, tokens, np.float32(-np.inf)).max(1)
    weight = mask.astype(np.float32)
    if mode == "weightedmean":
        weight *= (np.arange(1, mask.shape[1] + 1) - np.reshape(start, (-1, 1))).astype(np.float32)
    total = np.matmul(weight[:, None, :], tokens)[:, 0]
    norm = np.maximum(weight.sum(1, keepdims=True), np.float32(1e-9))
    return total / (np.sqrt(norm) if mode == "mean_sqrt_len_tokens" else norm)
