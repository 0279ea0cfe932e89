"""Evidence on the declared pooling that does not come from the declaration: the suite's labels, and files left behind.

Both paths that record a golden read the same ``modules.json`` and ``1_Pooling/config.json``: where these are wrong, both
are wrong alike, and agree. The same weights pooled otherwise tell, where a suite has labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from qguard.encoders import Encoder
from qguard.encoders.pooling import Head
from qguard.goldens.quality import compare_quality
from qguard.models.pipeline import Pipeline, named_modules
from qguard.suites import Suite
from qguard.vectors.similarity import COSINE, Similarity

OTHERS = ("mean", "cls", "max", "lasttoken")
CLEARLY = 0.03  # a score this much better, beyond its noise, is no accident of a few labels


@dataclass(frozen=True)
class _Heads:
    heads: tuple[Head, ...]

    @property
    def pipeline(self) -> Pipeline:
        return self.heads[0].pipeline

    def __call__(self, hidden: Any, mask: Any, rows: Sequence[Any] | None = None) -> Any:
        import numpy as np

        return np.concatenate([head(hidden, mask, rows) for head in self.heads], axis=1)


def by_pooling(encoder: Encoder, ids: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Vectors of the same token embeddings under the declared pooling, first, and under each of :data:`OTHERS`.

    Args:
        encoder: Its runtime gives token embeddings; of finished sentence embeddings every pooling is the same.
        ids: Token ids of n texts.

    Returns:
        Pooling mode → float32 (n, dim); the declared pooling alone where several modes are concatenated, or none is declared for
        every text.
    """
    import numpy as np

    declared = encoder.head.pipeline.pooling
    modes = [declared, *((m,) for m in OTHERS if len(declared) == 1 and (m,) != declared)]
    heads = tuple(replace(encoder.head, pipeline=encoder.head.pipeline.pooled_by(mode)) for mode in modes[1:])
    several: Any = _Heads((encoder.head, *heads))
    found = Encoder(encoder.tokenizer, encoder.runtime, several).encode_ids(ids)
    return dict(zip(("+".join(m) or "as declared" for m in modes), np.split(found, len(modes), axis=1), strict=True))


def contradiction(suite: Suite, vectors: Mapping[str, NDArray[Any]], similarity: Similarity = COSINE) -> str:
    """What the suite's labels say against the declared pooling; empty where nothing.

    Args:
        suite: The texts and their labels.
        vectors: See :func:`by_pooling`.
        similarity: What the model ranks by.
    """
    declared, *others = vectors
    for mode in others:
        for q in compare_quality(suite, vectors[mode], vectors[declared], similarity):
            if q.fell > CLEARLY:
                return (
                    f"the labels contradict the declared pooling {declared!r}: {q.name} is {q.after:.4f}, and {q.before:.4f} "
                    f"with the same weights pooled by {mode!r} (noise {q.noise:.4f})"
                )
    return ""


def left_behind(folder: Path) -> list[str]:
    """Folders such as ``1_Pooling`` that hold a module which ``modules.json`` does not name, or no longer exists to name."""
    named = named_modules(folder)
    found = [p.parent.name for p in folder.glob("[0-9]*_*/config.json")]
    return sorted(name for name in found if name not in named)
