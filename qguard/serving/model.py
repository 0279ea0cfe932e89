"""The model that is served: texts in, what it gives for them out, with the tokens that were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Encoder
from qguard.encoders.runtimes import TOKEN_IDS
from qguard.errors import UsageProblem
from qguard.kinds import CROSS_ENCODER, DENSE, KINDS, MULTI_VECTOR, SPARSE
from qguard.models.modules.activations import COMPUTED
from qguard.models.pipeline import UNLIMITED, Pipeline
from qguard.outputs import SparseRows
from qguard.serving.refusal import INVALID, TOO_LARGE, UNKNOWN_MODEL, WRONG_KIND, Refusal
from qguard.suites.paired import TextPair
from qguard.vectors.cosine import unit

LONGEST = 1_000_000  # characters of a text; what a tokenizer holds of longer ones would take gigabytes
_TOGETHER = 1_000_000  # characters that are tokenized at a time


@dataclass(frozen=True)
class Embedded:
    """What the model gives for some texts.

    Attributes:
        outputs: Of a dense model float32 (texts, dim), of another kind its own outputs (:mod:`qguard.outputs`).
        tokens: The tokens that were read, of all texts, special tokens included.
    """

    outputs: Any
    tokens: int


class ServedModel:
    """One model behind all protocols. Texts are taken as they come: no prompt is added, nothing is stripped.

    Args:
        name: As clients have to call it.
        precision: What it is computed in, such as ``int8``.
        encoder: Computes it.
        pipeline: What surrounds the transformer.

    Raises:
        UsageProblem: for a model that no protocol can serve.
    """

    def __init__(self, name: str, precision: str, encoder: Encoder, pipeline: Pipeline) -> None:
        self.name, self.precision, self.kind, self._encoder, self._pipeline = name, precision, pipeline.kind, encoder, pipeline
        if encoder.takes != TOKEN_IDS:
            raise UsageProblem(
                f"{precision} is computed by a server or another process already; serve a precision that has files"
            )
        if pipeline.kind == MULTI_VECTOR:
            raise UsageProblem(f"model {name!r} gives {KINDS[MULTI_VECTOR].gives}, which none of the protocols carries")
        if pipeline.by_role:
            raise UsageProblem(
                f"model {name!r} has to know whether a text is a query or a document, and none of the protocols says it"
            )
        self._plain = replace(pipeline, prompts={}, default_prompt=None)
        self._tokenizer = encoder.tokenizer.following(self._plain)

    @property
    def longest(self) -> int:
        """The tokens that a text is cut to, special tokens included."""
        return self._pipeline.max_seq_length

    @cached_property
    def width(self) -> int:
        """Values of a vector, or scores of a pair."""
        return int(self.embed(["width"]).outputs.shape[1])

    @property
    def unit_length(self) -> bool:
        """Whether its vectors have length 1."""
        return self._pipeline.unit_length

    def check_name(self, asked: str) -> None:
        """The model that a request asks for is this one.

        Raises:
            Refusal: when it is another.
        """
        if asked != self.name:
            raise Refusal(UNKNOWN_MODEL, f"there is no model {asked[:100]!r} here; this server has {self.name!r}", "model")

    def vectors(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = False,
        prompt: str = "",
    ) -> Embedded:
        """One vector to a text, float32 (texts, dim).

        Args:
            texts: At least one.
            truncate: Cut longer texts as the model declares; else they are refused.
            dimensions: Keep so many values, and make the vectors of unit length again where the model's are.
            normalize: Make all vectors of unit length.
            prompt: What is put before each text.

        Raises:
            Refusal: for more dimensions than the model has, or a text that is too long.
        """
        self._need(DENSE)
        if dimensions is not None and dimensions > self.width:
            raise Refusal(INVALID, f"dimensions: expected 1 to {self.width}, found {dimensions}", "dimensions")
        found = self.embed([prompt + text for text in texts], truncate)
        vectors = found.outputs[:, :dimensions]
        cut = dimensions is not None and dimensions < self.width
        if (normalize and not (self.unit_length and not cut)) or (cut and self.unit_length):
            vectors = unit(vectors).astype(np.float32)
        return replace(found, outputs=vectors)

    def weights(self, texts: Sequence[str], *, truncate: bool = True, prompt: str = "") -> SparseRows:
        """The words of the vocabulary that each text has a weight for."""
        self._need(SPARSE)
        rows: SparseRows = self.embed([prompt + text for text in texts], truncate).outputs
        return rows

    def scores(self, query: str, documents: Sequence[str], *, truncate: bool = True) -> Embedded:
        """The score of a query with each document, a logit: float32 (documents,).

        Raises:
            Refusal: where the model gives several scores.
        """
        self._need(CROSS_ENCODER)
        if self.width != 1:
            raise Refusal(WRONG_KIND, f"model {self.name!r} gives {self.width} scores for a pair, and a ranking needs one")
        found = self.embed([TextPair(query, document) for document in documents], truncate)
        return replace(found, outputs=found.outputs[:, 0])

    def prompt(self, name: str | None) -> str:
        """The model's prompt of a name; nothing for ``None``.

        Raises:
            Refusal: for a name that the model does not declare.
        """
        if name is not None and name not in self._pipeline.prompts:
            known = ", ".join(self._pipeline.prompts) or "none"
            raise Refusal(INVALID, f"prompt_name: the model has no prompt {name[:100]!r}; known: {known}", "prompt_name")
        return self._pipeline.prompts[name] if name is not None else ""

    def embed(self, texts: Sequence[str], truncate: bool = True) -> Embedded:
        """What the model gives for texts, or pairs; they are computed together, and with no other client's.

        Raises:
            Refusal: for a text that is too long, or has no tokens.
        """
        rows: list[Any] = []
        for some in _portions(texts):
            found = self._tokenizer(some)
            if not truncate:
                self._refuse_longer(some, found)
            rows += found
        if not all(rows):
            raise Refusal(INVALID, f"text {rows.index([])} has no tokens, and so no vector")
        return Embedded(self._encoder.encode_rows(rows), sum(map(len, rows)))

    def _refuse_longer(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        for text, row in zip(texts, rows, strict=True):
            if len(row) >= self.longest and (whole := len(self._whole([text])[0])) > self.longest:
                raise Refusal(
                    TOO_LARGE, f"expected a text of at most {self.longest} tokens, found {whole}, and it is not to be cut"
                )

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer that cuts nothing."""
        return self._tokenizer.following(replace(self._plain, max_seq_length=UNLIMITED))

    def _need(self, kind: str) -> None:
        if self.kind != kind:
            gives, asked = KINDS[self.kind].gives, KINDS[kind].gives
            raise Refusal(WRONG_KIND, f"this path gives {asked}, and model {self.name!r} gives {gives}")


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits between 0 and 1, as rerankers give their scores; float64, so that a logit can be found again."""
    return np.asarray(COMPUTED["Sigmoid"](logits.astype(np.float64)))


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in turn, so many together that a tokenizer needs little memory for them.

    Raises:
        Refusal: for a text of more than :data:`LONGEST` characters.
    """
    start = size = 0
    for i, text in enumerate(texts):
        if len(text) > LONGEST:
            raise Refusal(TOO_LARGE, f"expected texts of at most {LONGEST} characters, found one of {len(text)} (number {i})")
        if size and size + len(text) > _TOGETHER:
            yield texts[start:i]
            start, size = i, 0
        size += len(text)
    yield texts[start:]
