"""What the checks of a server share: a client, texts that lie apart, and fp32 of any text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from qguard.encoders import Encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.endpoints.client import Client
from qguard.endpoints.protocols import Ask
from qguard.endpoints.settings import SERVER, TEI, Endpoint
from qguard.errors import MeasurementProblem
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.kinds import CROSS_ENCODER
from qguard.models.pipeline import UNLIMITED, Pipeline
from qguard.outputs import SparseRows, joined
from qguard.suites.paired import TextPair
from qguard.vectors.similarity import Similarity

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.precisions import Precision

TEXTS = 16  # that are asked about
LONGEST = 48  # tokens of one of them
APART = 0.95  # two of them agree by less, so that an output tells which text it is of
_LOOKED_AT = 2000  # texts of a suite among which they are found


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        value: Of the metric.
        items: How many times the server was asked for it.
        words: What the server did, for people; the first line says it all.
        noun: What an item is.
    """

    value: float
    items: int
    words: tuple[str, ...] = ()
    noun: str = "texts"


@dataclass(eq=False)
class Probe:
    """A server, and what it is held against.

    Attributes:
        endpoint: The server and how it is asked.
        client: What asks it.
        pipeline: The model's.
        texts: What is asked about, at least one; of a reranker pairs of one query. They have no prompt in front.
        width: Values of an output of the golden.
        norms: Lengths of the golden's vectors of the suite, (n,); empty for other outputs.
        similarity: What the model ranks by.
        folder: Of the configuration, where relative paths begin.
        found_prompt: The prompt that the server was found to put before texts, where that is not the one of the settings.
    """

    endpoint: Endpoint
    client: Client
    pipeline: Pipeline
    texts: Sequence[str]
    width: int
    norms: Any
    similarity: Similarity
    folder: Path
    _tokenizer: TextTokenizer
    _fp32: Callable[[], Encoder]
    found_prompt: str | None = None

    @classmethod
    def open(cls, session: Session, precision: Precision, model: str) -> Self:
        """Of a precision's server, with texts of the first suite.

        Raises:
            QguardError: without a golden, or for settings that cannot be used.
        """
        base, suite = session.model(model), session.config.suites[0]
        golden, texts = session.golden(model, suite), session.suite(suite, model).texts
        similarity = session.similarity(model)
        chosen = _apart(texts[:_LOOKED_AT], golden.token_ids, golden.vectors[:_LOOKED_AT], similarity)
        dense = isinstance(golden.vectors, np.ndarray) and base.kind != CROSS_ENCODER
        return cls(
            precision.server,
            Client(precision.server, base.kind, base.name, int(golden.vectors.shape[1])),
            base.pipeline,
            chosen,
            int(golden.vectors.shape[1]),
            np.linalg.norm(golden.vectors[:_LOOKED_AT].astype(np.float64), axis=1) if dense else np.empty(0),
            similarity,
            session.config.folder,
            session.reference_tokenizer(model),
            lambda: fp32_encoder(session, model, fp32_runtime(session, precision, model)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    @property
    def kind(self) -> str:
        """Of the model."""
        return self.pipeline.kind

    def first_answer(self) -> None:
        """The server answers.

        Raises:
            EndpointProblem: when it does not, whatever it is asked.
        """
        self.client.send(self.payload(self.texts[:1]))

    def payload(self, texts: Sequence[str], **more: Any) -> dict[str, Any]:
        """The JSON object of a request for these texts, with numbers and not base64.

        Args:
            texts: At least one.
            more: Members that it has beside, or instead of, the usual ones.
        """
        query = texts[0].first if isinstance(texts[0], TextPair) else ""
        second = [t.second if isinstance(t, TextPair) else t for t in texts]
        return self.client.wire.payload(
            Ask(second, self.kind, self.client.model, query, None, "", self.endpoint.normalized, self.client.width, more)
        )

    def outputs(self, texts: Sequence[str], client: Client | None = None) -> Any:
        """What the server gives for texts in one request; see :mod:`qguard.outputs`.

        Raises:
            EndpointProblem: when the server fails, or answers something else.
        """
        client = client or self.client
        if self.kind == CROSS_ENCODER:
            return client.outputs(texts)
        return client.ask(texts, encoding=None).said.outputs  # base64 has a check of its own

    def each(self, texts: Sequence[str], client: Client | None = None) -> Any:
        """What the server gives for each text by itself."""
        return joined([self.outputs([text], client) for text in texts])

    @cached_property
    def alone(self) -> Any:
        """The outputs of the texts, each asked for by itself."""
        return self.each(self.texts)

    @cached_property
    def long(self) -> str:
        """A long text that the model reads as a whole: words of the texts, at most 200 tokens."""
        most = min(self.pipeline.max_seq_length, 200)
        words = " ".join(t.second if isinstance(t, TextPair) else t for t in self.texts).split() or ["a"]
        n = max(1, most * len(words) // self.count(" ".join(words)))
        while n > 1 and self.count(" ".join(_cycled(words, n))) > most:
            n -= 1
        return " ".join(_cycled(words, n))

    @cached_property
    def as_sent(self) -> TextTokenizer:
        """The model's tokenizer, which puts no prompt in front and cuts at the model's length."""
        return self._tokenizer.following(replace(self.pipeline, prompts={}, default_prompt=None))

    @cached_property
    def whole(self) -> TextTokenizer:
        """The same, which cuts nothing."""
        return self._tokenizer.following(replace(self.pipeline, prompts={}, default_prompt=None, max_seq_length=UNLIMITED))

    def count(self, text: str) -> int:
        """Tokens of a text, special tokens included, before it is cut."""
        return len(self.whole([text])[0])

    @cached_property
    def _encoder(self) -> Encoder:
        return self._fp32()

    def fp32(self, texts: Sequence[str]) -> Any:
        """fp32's outputs of texts as they are, without a prompt.

        Raises:
            QguardError: when fp32 cannot be made or run here.
        """
        return self._encoder.encode_rows(self.as_sent(texts))

    @property
    def prompt(self) -> str:
        """What the settings say that the server puts before a text without a role."""
        # TEI is asked for each prompt by its name
        return self.pipeline.prefix(None) if self.endpoint.prompts == SERVER and self.endpoint.protocol != TEI else ""

    def agreement(self, a: Any, b: Any) -> Any:
        """How nearly two outputs of each text are the same, (n,); 1 where they are equal.

        Raises:
            MeasurementProblem: for outputs of different widths.
        """
        if a.shape != b.shape:
            raise MeasurementProblem(f"outputs have different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
        return np.nan_to_num(self.similarity.agreement(a, b), nan=-1.0)


def _apart(texts: Sequence[str], ids: Sequence[Sequence[int]], outputs: Any, similarity: Similarity) -> list[str]:
    """Texts of a suite that are short and lie apart, spread over it; of pairs, one query with the second texts of others.

    Raises:
        MeasurementProblem: when there are fewer than two.
    """
    short = [i for i in range(len(texts)) if 3 <= len(ids[i]) <= LONGEST] or list(range(len(texts)))
    if isinstance(texts[0], TextPair):
        query = texts[short[0]].first  # type: ignore[attr-defined]
        seconds = dict.fromkeys(texts[i].second for i in short)  # type: ignore[attr-defined]
        return [TextPair(query, second) for second in list(seconds)[:TEXTS]]
    spread = sorted(short, key=lambda i: (i * 7919) % len(texts))
    kept: list[int] = []
    for i in spread:
        if len(kept) == TEXTS:
            break
        if not kept or np.max(similarity.agreement(_repeated(outputs, i, len(kept)), outputs[kept])) < APART:
            kept.append(i)
    if len(kept) < 2:
        raise MeasurementProblem(f"the suite has no two texts whose outputs agree by less than {APART}; add texts that differ")
    return [texts[i] for i in kept]


def _cycled(words: Sequence[str], n: int) -> Iterable[str]:
    return islice(cycle(words), n)


def _repeated(outputs: Any, row: int, times: int) -> Any:
    return outputs[[row] * times]


def dense(outputs: Any) -> Any:
    """Outputs as a float64 array (n, width)."""
    return (outputs.matrix.toarray() if isinstance(outputs, SparseRows) else np.asarray(outputs)).astype(np.float64)


def shown(text: str, length: int = 40) -> str:
    """The start of a text, for messages."""
    return repr(text[:length] + ("…" if len(text) > length else ""))
