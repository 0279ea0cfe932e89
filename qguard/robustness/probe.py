"""The probe: one batch of texts, encoded in all the ways that must give the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qguard.encoders import Encoder, TextEncoder
from qguard.encoders.runtimes import TEXTS
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem
from qguard.outputs import empty, finite, joined
from qguard.robustness.exact import Exact
from qguard.robustness.metrics import COSINE, Tried
from qguard.vectors.similarity import COSINE as COSINE_SIMILARITY
from qguard.vectors.similarity import Similarity

LONG = 48  # tokens: a longer text is a batch of its own, or all others would be padded to its length
TURNED = 256  # padded tokens: a larger batch is not encoded a second time in reverse
PADDING = 16  # tokens of padding that a text alone gets beyond its own, where the model has room for them


@dataclass(frozen=True)
class Probe:
    """A candidate beside fp32 of the same runtime, or, of a runtime without fp32 of its own, beside that of another.

    Attributes:
        candidate: Encodes what the artifact's own tokenizer gives, or the texts themselves; token ids then only say how long
            these are, and neither they nor padding are compared.
        exact: fp32 of what the base model's tokenizer gives.
        tokenizer: The base model's.
        normalize: Whether the pipeline declares unit norm.
        longest: Tokens that the model reads.
        similarity: What the model ranks by: it tells whether lengths count where two vectors are compared.
    """

    candidate: Encoder
    exact: Exact
    tokenizer: TextTokenizer
    normalize: bool
    longest: int
    similarity: Similarity = COSINE_SIMILARITY

    def __call__(self, texts: Sequence[str], ways: bool = True) -> list[Tried]:
        """The values of each text; texts without any token are left out, for nothing is embedded.

        Texts of up to :data:`LONG` tokens make one batch, each longer one another. Two of the batch, the shortest, which has
        the most padding in it, and the last, are also encoded alone, with more padding, and once more, unless ``ways`` is false.

        Raises:
            MeasurementProblem: when fp32 itself gives no vector to compare with.
            ArtifactProblem: when the runtime fails.
        """
        base, own = self.tokenizer(texts), self.candidate.tokenizer(texts)
        kept = [i for i in range(len(texts)) if base[i] and own[i]]
        if not kept:
            return []
        texts, base, own = [texts[i] for i in kept], [base[i] for i in kept], [own[i] for i in kept]
        n = len(texts)
        batch = [i for i in range(n) if len(own[i]) <= LONG]
        long = [i for i in range(n) if len(own[i]) > LONG]
        mixed = batch or long[:1]
        alone = sorted({min(mixed, key=lambda i: (len(own[i]), i)), mixed[-1]}) if ways else []
        padded = len(batch) * max((len(own[i]) for i in batch), default=0)
        reverse = batch[::-1] if ways and len(batch) > 1 and padded <= TURNED else []
        whole = self.candidate.takes == TEXTS
        rows = self.candidate.rows(texts) if whole else own
        vectors = self._encoded(rows, [*([batch] if batch else []), *([i] for i in long)], reverse, [*alone, *alone[:1]])
        plain, turned, single = vectors[:n], vectors[n : n + len(reverse)], vectors[n + len(reverse) :]
        bad = ~finite(plain) | (empty(plain) if self.similarity.refuses_zeros else False)
        alike = partial(_cosine, similarity=self.similarity)
        values: list[dict[str, float]] = [
            {"robustness.broken_vectors": float(bad[i]), COSINE: cosine}
            for i, cosine in enumerate(alike(plain, self._of_fp32(texts, base)))
        ]

        def put(name: str, where: Sequence[int], found: Sequence[float]) -> None:
            for i, value in zip(where, found, strict=True):
                values[i][f"robustness.{name}"] = value

        told = isinstance(self.candidate, TextEncoder) and self.candidate.tells
        if isinstance(self.candidate, TextEncoder) and told:
            own = self.candidate.token_ids(texts)
        if told or not whole:
            put("token_mismatches", range(n), [float(base[i] != own[i]) for i in range(n)])
        if self.normalize:
            put("norm_error", range(n), [float(abs(x - 1)) for x in np.linalg.norm(plain, axis=1)])
        put("order_cosine_min", reverse, alike(turned, plain[reverse]) if reverse else [])
        if not alone:
            return [Tried(t, v) for t, v in zip(texts, values, strict=True)]
        if len(batch) > 1:
            put("batch_cosine_min", alone, alike(single[:-1], plain[alone]))
        put("repeat_cosine_min", alone[:1], alike(single[-1:], single[:1]))
        room = 0 if whole else min(PADDING, self.longest - max(len(own[i]) for i in alone))
        if room:
            more = self.candidate.encode_batches([own[i] for i in alone], [[k] for k in range(len(alone))], room)
            put("padding_cosine_min", alone, alike(more.astype(np.float64), single[:-1]))
        return [Tried(t, v) for t, v in zip(texts, values, strict=True)]

    def _encoded(self, ids: Sequence[Any], batches: list[list[int]], reverse: list[int], alone: list[int]) -> Any:
        """The candidate's vectors in one call, so that a runtime computes batches side by side.

        Returns:
            float64: of each text in its batch, in the order of the texts; of ``reverse``, one batch; of ``alone``.
        """
        n, m = len(ids), len(reverse)
        rows = [*ids, *(ids[i] for i in reverse), *(ids[i] for i in alone)]
        turned = [list(range(n, n + m))] if m else []
        singles = [[i] for i in range(n + m, len(rows))]
        return self.candidate.encode_batches(rows, [*batches, *turned, *singles]).astype(np.float64)

    def _of_fp32(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> Any:
        """fp32's vectors (n, dim)."""
        found = self.exact(ids)
        for text, vector in zip(texts, found, strict=True):
            if not finite(vector).all() or (self.similarity.refuses_zeros and empty(vector).any()):  # nothing to compare with
                raise MeasurementProblem(f"fp32 itself gives NaN, infinity or zeros for {text[:60]!r}")
        return joined(found)


def _cosine(a: Any, b: Any, similarity: Similarity = COSINE_SIMILARITY) -> list[float]:
    """Of each row, with its length where that counts; -1, which no bound holds, where a vector is not finite or zero."""
    found = similarity.agreement(a, b)
    some = ~empty(a) & ~empty(b) if similarity.refuses_zeros else True
    values: list[float] = np.where(np.isfinite(found) & some, found, -1.0).tolist()
    return values
