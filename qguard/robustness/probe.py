"""The probe: one batch of texts, encoded in all the ways that must give the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qguard.encoders import Encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem
from qguard.metrics import Rows
from qguard.robustness.metrics import COSINE, Tried

PADDING = 16  # tokens of padding that a text alone gets beyond its own, where the model has room for them


@dataclass(frozen=True)
class Probe:
    """A candidate beside fp32 of the same runtime.

    Attributes:
        candidate: Encodes what the artifact's own tokenizer gives.
        fp32: Encodes what the base model's tokenizer gives.
        tokenizer: The base model's.
        normalize: Whether the pipeline declares unit norm.
        longest: Tokens that the model reads.
    """

    candidate: Encoder
    fp32: Encoder
    tokenizer: TextTokenizer
    normalize: bool
    longest: int

    def __call__(self, texts: Sequence[str]) -> list[Tried]:
        """The values of each text; texts without any token are left out, for nothing is embedded.

        Two texts of the batch, the shortest and the last, are also encoded alone, with padding, and alone again: the
        shortest has the most padding in the batch, and the last is any.

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
        alone = sorted({min(range(n), key=lambda i: (len(own[i]), i)), n - 1})
        # one call, so that a runtime computes these batches side by side: the batch, it reversed, and texts alone, twice
        rows = [*own, *own, *(own[i] for i in alone), own[alone[0]]]
        singles = [[i] for i in range(2 * n, len(rows))]
        found = self.candidate.encode_batches(rows, [list(range(n)), list(range(2 * n - 1, n - 1, -1)), *singles])
        found = np.asarray(found, np.float64)
        batch, reverse, single, again = found[:n], found[n : 2 * n], found[2 * n : -1], found[-1:]
        exact = np.asarray(self.fp32.encode_batches(base, [list(range(n))]), np.float64)
        broken = ~np.isfinite(exact).all(1) | ~exact.any(1)
        if broken.any():
            raise MeasurementProblem(f"fp32 itself gives NaN, infinity or zeros for {texts[int(broken.argmax())][:60]!r}")
        bad = ~np.isfinite(batch).all(1) | ~batch.any(1)
        values: list[dict[str, float]] = [
            {
                "robustness.token_mismatches": float(base[i] != own[i]),
                "robustness.broken_vectors": float(bad[i]),
                COSINE: cosine,
                "robustness.order_cosine_min": order,
            }
            for i, (cosine, order) in enumerate(zip(_cosine(batch, exact), _cosine(batch, reverse), strict=True))
        ]
        if self.normalize:
            for i, norm in enumerate(np.linalg.norm(batch, axis=1)):
                values[i]["robustness.norm_error"] = float(abs(norm - 1))
        if n > 1:
            for i, cosine in zip(alone, _cosine(single, batch[alone]), strict=True):
                values[i]["robustness.batch_cosine_min"] = cosine
        values[alone[0]]["robustness.repeat_cosine_min"] = _cosine(again, single[:1])[0]
        for k, i in enumerate(alone):
            if room := min(PADDING, self.longest - len(own[i])):
                padded = np.asarray(self.candidate.encode_batches([own[i]], [[0]], room), np.float64)
                values[i]["robustness.padding_cosine_min"] = _cosine(padded, single[k : k + 1])[0]
        return [Tried(t, v) for t, v in zip(texts, values, strict=True)]


def _cosine(a: Rows, b: Rows) -> list[float]:
    """Of each row; -1 where there is none, which no bound holds."""
    with np.errstate(all="ignore"):
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return [float(c) if np.isfinite(c) else -1.0 for c in cosine]
