"""From token embeddings to the sentence embedding, in NumPy: the same code behind every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.kinds import CROSS_ENCODER, MULTI_VECTOR, SPARSE
from qguard.models.modules import MASK, ROWS, SENTENCE, TOKENS, Features, load_weights
from qguard.models.pipeline import Pipeline
from qguard.outputs import SparseRows, TokenVectors


@dataclass(frozen=True)
class Head:
    """The modules of one pipeline behind its first one.

    Attributes:
        pipeline: Their order and settings.
        weights: Of each module by its path: tensors by name, float32.
    """

    pipeline: Pipeline
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, pipeline: Pipeline) -> Head:
        """Load the modules' weights from safetensors."""
        return cls(pipeline, {m.path: load_weights(folder, m) for m in pipeline.weighted})

    def __call__(self, hidden: Any, mask: Any, rows: Sequence[Any] | None = None) -> Any:
        """Sentence embeddings, float32 (batch, dim), cut to the first values where the pipeline truncates; of another kind of
        model its own outputs (:mod:`qguard.outputs`).

        Args:
            hidden: Token embeddings (batch, length, hidden), or finished sentence embeddings (batch, dim), to which only
                modules such as Normalize at the end are applied; of a static model, whose first module gives these, all.
            mask: 1 for text, 0 for padding, (batch, length); at least one 1 a row.
            rows: The texts' token ids as :class:`qguard.encoders.tokenizer.Tokens`; without, no text has a role or a prompt.
        """
        if hidden.ndim not in (2, 3):
            raise MeasurementProblem(f"expected token or sentence embeddings of 3 or 2 dimensions, found {hidden.ndim}")
        finished = hidden.ndim == 2
        features: Features = {SENTENCE if finished else TOKENS: hidden, MASK: mask, ROWS: rows}
        if self.pipeline.kind == MULTI_VECTOR and finished:
            raise MeasurementProblem(
                "the file gives one vector to a text, and a multi-vector model one to each token; export the last hidden state"
            )
        if self.pipeline.kind == CROSS_ENCODER and not finished:
            raise MeasurementProblem(
                "the file gives a vector to each token, and a cross-encoder scores for a pair; export it with its classifier, "
                "whose output is logits (pairs, labels)"
            )
        for module in self.pipeline.finishing if finished else self.pipeline.head:
            module(features, self.weights)
        if self.pipeline.kind == MULTI_VECTOR:
            return TokenVectors.of(features[TOKENS].astype(np.float32, copy=False), features[MASK])
        found = features[SENTENCE][:, : self.pipeline.truncate_dim].astype(np.float32, copy=False)
        return SparseRows.of(found) if self.pipeline.kind == SPARSE else found
