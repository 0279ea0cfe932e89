"""Modules that scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import SENTENCE, Features, Module, Renaming, Weights


@dataclass(frozen=True)
class Normalize(Renaming):
    """Vectors scaled to unit length."""

    closes: ClassVar[bool] = True

    @classmethod
    def read(cls, folder: Path, path: str) -> Normalize:
        """See :meth:`Module.read`; releases before 6 write no configuration."""
        file = inside(folder, path) / "config.json"
        # without a folder of its own the file beside modules.json is the transformer's
        return cls(path, **cls.names(read_json(file, ModelProblem) if path and file.exists() else {}, path))

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        x = features[self.source]
        features[self.target] = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class LayerNorm(Module):
    """Each sentence embedding less its mean, over its standard deviation, then scaled and moved by learned vectors."""

    @property
    def tensors(self) -> frozenset[str]:
        """See :class:`Module`."""
        return frozenset(["norm.weight", "norm.bias"])

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`; torch's epsilon, 1e-5, is not stored."""
        import numpy as np

        x, own = features[SENTENCE], weights[self.path]
        centered = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centered * centered).mean(-1, keepdims=True) + np.float32(1e-5))
        features[SENTENCE] = centered / spread * own["norm.weight"] + own["norm.bias"]
