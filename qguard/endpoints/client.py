"""The client: asks a server for outputs, and says in words what is wrong with an answer."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from typing import Any, NoReturn, Self

import numpy as np

from qguard.encoders import batches_of
from qguard.endpoints.answer import Answer, Reply, Said
from qguard.endpoints.protocols import BASE64, Ask, check_kind, wire
from qguard.endpoints.secrets import Secrets
from qguard.endpoints.settings import Endpoint
from qguard.endpoints.transport import BUSY, MIB, Transport, address, asked_times, named
from qguard.errors import EndpointProblem, MeasurementProblem, UsageProblem, first_line
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.outputs import Collected
from qguard.suites.paired import TextPair

LIMIT, LIMIT_OF_TEXT = 4 * MIB, MIB  # bytes of an answer, and of each text's part of it: 4,096 numbers take 0.1
_REFUSES = (400, 415, 422)  # a value of a request that the server does not know
_SHOWN = 200
_LEAST = 2.0**-25  # half of float32's step below 1


class Client:
    """Asks one endpoint. Safe to use from several threads; opens no more connections than requests are made at the same time.

    Args:
        endpoint: The server and how it is asked.
        kind: Of its model, a name in :data:`qguard.kinds.KINDS`.
        model: The model to name in requests, unless the endpoint's settings name one.
        width: Of a sparse model, the words of its vocabulary.
        environ: Where the values of headers are read from; by default the environment.

    Attributes:
        encoding: How vectors are asked for; ``None`` once the server refused to be asked that.

    Raises:
        UsageProblem: if a variable of a header is not set, the protocol does not carry this kind, the width of a sparse model is
            missing, or httpx is not installed.
    """

    def __init__(
        self, endpoint: Endpoint, kind: str = DENSE, model: str = "", width: int = 0, environ: Mapping[str, str] | None = None
    ) -> None:
        check_kind(endpoint.protocol, kind)
        if kind == SPARSE and not width:
            raise UsageProblem("a server of a sparse model names words by their place, and config.json says no vocab_size")
        self.endpoint, self.kind, self.model, self.width = endpoint, kind, endpoint.model or model, width
        self.wire = wire(endpoint.protocol)
        self.url = address(endpoint.url, self.wire.paths[kind])
        self._secrets = Secrets.read(endpoint, os.environ if environ is None else environ)
        self._transport = Transport(endpoint, self._secrets)
        self.encoding: str | None = BASE64
        self._width: int | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self.endpoint.shown!r}, {self.endpoint.protocol!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sigmoid(self) -> bool:
        """Whether scores of a reranker come after the sigmoid."""
        return self.wire.sigmoid if self.endpoint.normalized is None else self.endpoint.normalized

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    def embed(self, texts: Sequence[str]) -> Any:
        """The outputs of n texts, in their order: float32 (n, dim) of a dense model, float32 (n, 1), logits, of a reranker and
        :class:`qguard.outputs.SparseRows` of a sparse model.

        Texts of similar length share a request, and several requests are made at the same time.

        Args:
            texts: At least one; of a reranker pairs (:class:`qguard.suites.paired.TextPair`).

        Raises:
            EndpointProblem: if one request fails; nothing is returned then.
        """
        if not texts:
            raise MeasurementProblem("nothing to encode: expected at least one text, found none")
        found = Collected(len(texts))
        batches = batches_of(texts, self.endpoint.batch)
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            asked = pool.map(lambda rows: self.outputs([texts[i] for i in rows]), batches)
            for rows, outputs in zip(batches, asked, strict=True):
                found.put(rows, outputs)
        return found.whole()

    def outputs(self, texts: Sequence[str], prompt: str = "") -> Any:
        """The outputs of one batch, in the order of the texts: as :meth:`embed`, in one request, or one a query.

        Args:
            texts: See :meth:`embed`.
            prompt: Name of a prompt that the server is to put in front; see :class:`qguard.endpoints.protocols.Ask`.

        Raises:
            EndpointProblem: if the server fails, or answers with something else than outputs of one width for each text.
        """
        if self.kind == CROSS_ENCODER:
            return self._scores([TextPair.of(text) for text in texts])
        return self._said(texts, prompt).outputs

    def one(self, text: str) -> Said:
        """What the server says of one text, or pair, by itself; the score of a reranker is a logit.

        Raises:
            EndpointProblem: as :meth:`outputs`.
        """
        if self.kind == CROSS_ENCODER:
            pair = TextPair.of(text)
            said = self.ask([pair.second], query=pair.first).said
            return replace(said, outputs=self._logits(said.outputs, [pair]))
        return self._said([text])

    def _said(self, texts: Sequence[str], prompt: str = "") -> Said:
        encoding = self.encoding
        try:
            said = self.ask(texts, encoding=encoding, prompt=prompt).said
        except EndpointProblem as e:
            if encoding is None or e.status not in _REFUSES:
                raise
            # it may not know the member that asks for base64: the question is put without it, and so are all later ones
            said = self.ask(texts, encoding=None, prompt=prompt).said
            self.encoding = None
        self._same_width(texts, said.dim)
        return said

    def _scores(self, pairs: Sequence[TextPair]) -> Any:
        """Logits float32 (n, 1) of pairs: one request for each query that follows another."""
        found = []
        for query, own in groupby(pairs, key=lambda pair: pair.first):
            texts = [pair.second for pair in own]
            found.append(self._logits(self.ask(texts, query=query).said.outputs, texts))
        return np.concatenate(found)

    def _logits(self, scores: Any, texts: Sequence[str]) -> Any:
        """Scores as logits, float32 (n, 1)."""
        return (self._before_sigmoid(scores, texts) if self.sigmoid else scores).astype(np.float32)

    def _before_sigmoid(self, scores: Any, texts: Sequence[str]) -> Any:
        """What scores were before the sigmoid; of a 0 or 1, to which it rounds, the nearest that float32 tells from it."""
        bad = np.flatnonzero((scores < 0) | (scores > 1))
        if len(bad):
            raise self._problem(
                texts, f"expected scores after the sigmoid, of 0 to 1, found {float(scores.flat[bad[0]])!r}; "
                "if the server gives scores before it, say so: normalized = false",
            )  # fmt: skip
        p = np.clip(scores, _LEAST, 1 - _LEAST)
        return np.log(p / (1 - p))

    def ask(
        self, texts: Sequence[str], *, query: str = "", encoding: str | None = BASE64, prompt: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> Answer:  # fmt: skip
        """One request, and all that its answer says.

        Args:
            texts: What outputs are wanted of, at least one.
            query: Of a reranker, what the texts are scored for.
            encoding: See :class:`qguard.endpoints.protocols.Ask`.
            prompt: See there.
            more: Further members of the request, such as ``{"dimensions": 128}``.

        Raises:
            EndpointProblem: if the server cannot be reached, has another status than 200, or does not answer the request.
        """
        asked = self.question(texts, query=query, encoding=encoding, prompt=prompt, more=more)
        return self.answer(asked, self.send(self.wire.payload(asked), len(texts)))

    def question(
        self, texts: Sequence[str], *, query: str = "", encoding: str | None = BASE64, prompt: str = "",
        more: Mapping[str, Any] | None = None,
    ) -> Ask:  # fmt: skip
        """The request of :meth:`ask`, which is not sent yet."""
        return Ask(texts, self.kind, self.model, query, encoding, prompt, self.endpoint.normalized, self.width, more or {})

    def answer(self, asked: Ask, reply: Reply) -> Answer:
        """What a reply says of the request that it answers.

        Raises:
            EndpointProblem: for another status than 200, or a reply that does not answer the request.
        """
        if reply.status != 200:
            self._refused(reply, asked.texts)
        said = self._read(reply, asked)
        return Answer(replace(said, model=said.model and self._secrets.hidden(said.model)[:_SHOWN]), reply)

    def send(self, payload: Mapping[str, Any], texts: int = 1, path: str | None = None) -> Reply:
        """One request and its answer, whatever status that has. Sent again while the server cannot be reached or is busy.

        Args:
            payload: The JSON object of the request.
            texts: How many texts it has; the size of the answer is bounded by it.
            path: Another path than that of the protocol.

        Raises:
            EndpointProblem: if there is no answer, or it is too large, or takes too long.
        """
        url = self.url if path is None else address(self.endpoint.url, path)
        content = json.dumps(payload, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
        return self._transport.post(url, content, LIMIT + texts * LIMIT_OF_TEXT)

    def _read(self, reply: Reply, asked: Ask) -> Said:
        try:
            return self.wire.read(_json(reply), asked)
        except ValueError as e:
            words = str(e)
        hidden = self._secrets.hidden(reply.body.decode("utf-8", "replace")).encode()
        if hidden != reply.body:  # the words may have cut a secret in two: they are made anew from an answer without it
            try:
                self.wire.read(_json(replace(reply, body=hidden)), asked)
                words = "the answer repeats a secret of the request, and is not shown"
            except ValueError as e:
                words = str(e)
        raise self._problem(asked.texts, words, reply.status)

    def _same_width(self, texts: Sequence[str], width: int) -> None:
        with self._lock:
            first = self._width = self._width or width
        if width != first:
            raise self._problem(texts, f"earlier answers had {first} values a text, this one has {width}; is it another model?")

    def _refused(self, reply: Reply, texts: Sequence[str]) -> NoReturn:
        said = self._secrets.hidden(reply.body[:MIB].decode("utf-8", "replace"))
        words = f"expected status 200, found {reply.status}"
        if 300 <= reply.status < 400:
            to = self._secrets.hidden(reply.headers.get("location", "nowhere"))[:_SHOWN]
            words += f", a redirect to {to!r}; it is not followed, since headers may hold secrets. If it is right, give that URL"
        elif reply.status in (401, 403):
            given = ", ".join(name for name, _ in self.endpoint.headers) or "no header"
            words += f" ({_excerpt(said)}); the request had {given} of the configuration. Is the variable's value current?"
        elif reply.status == 404:
            words += f" ({_excerpt(said)}); does the server speak the protocol {self.endpoint.protocol!r} at this URL?"
        else:
            words += f" ({_excerpt(said)}){asked_times(reply.tries) if reply.status in BUSY else ''}"
        raise self._problem(texts, words, reply.status)

    def _problem(self, texts: Sequence[str], words: str, status: int | None = None) -> EndpointProblem:
        count = f"{len(texts)} texts, first" if len(texts) > 1 else "text"
        return self._failed(f"{count} {texts[0][:60]!r}: {words}", status)

    def _failed(self, words: str, status: int | None = None) -> EndpointProblem:
        return EndpointProblem(f"{named(self.endpoint, self.url)}: {words}", status)


def _json(reply: Reply) -> Any:
    """The JSON value of an answer.

    Raises:
        ValueError: for something else.
    """
    text = reply.body.lstrip()
    if text[:1] == b"<" or "text/html" in reply.headers.get("content-type", ""):
        raise ValueError(f"expected JSON, found a page ({_excerpt(text[:MIB].decode('utf-8', 'replace'))}); is the URL right?")
    try:
        return json.loads(reply.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:  # not UTF-8, not JSON, or a number of more digits than Python reads
        raise ValueError(f"expected JSON, found {_excerpt(text[:MIB].decode('utf-8', 'replace'))} ({first_line(e)})") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _excerpt(text: str) -> str:
    return repr(" ".join(text.split())[:_SHOWN]) if text.strip() else "an empty answer"
