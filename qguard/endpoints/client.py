"""The client: one kept HTTP connection pool that asks a server for outputs, and says in words what is wrong with an answer.

Only requests that the server did not take are sent again: a request for outputs changes nothing, so that it may be sent twice.
"""

from __future__ import annotations

import json
import os
import random
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from qguard.encoders import batches_of
from qguard.endpoints.answer import Answer, Reply
from qguard.endpoints.protocols import BASE64, Ask, check_kind, wire
from qguard.endpoints.secrets import Secrets
from qguard.endpoints.settings import Endpoint
from qguard.errors import EndpointProblem, MeasurementProblem, UsageProblem, first_line
from qguard.kinds import CROSS_ENCODER, DENSE
from qguard.outputs import Collected
from qguard.suites.paired import TextPair

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20
LIMIT, LIMIT_OF_TEXT = 4 * MIB, MIB  # bytes of an answer, and of each text's part of it: 4,096 numbers take 0.1
PATIENCE = 30.0  # seconds that are waited at most before a request is sent again, whatever the server asks for
_FIRST_WAIT = 0.25
_BUSY = (429, 503)
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

    Raises:
        UsageProblem: if a variable of a header is not set, the protocol does not carry this kind, or httpx is not installed.
    """

    def __init__(
        self, endpoint: Endpoint, kind: str = DENSE, model: str = "", width: int = 0, environ: Mapping[str, str] | None = None
    ) -> None:
        check_kind(endpoint.protocol, kind)
        self.endpoint, self.kind, self.model, self.width = endpoint, kind, endpoint.model or model, width
        self.wire = wire(endpoint.protocol)
        self.url = address(endpoint.url, self.wire.paths[kind])
        self._secrets = Secrets.read(endpoint, os.environ if environ is None else environ)
        self._http = _open(endpoint, self._secrets.headers)
        self._encoding: str | None = BASE64
        self._width: int | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({self.endpoint.shown!r}, {self.endpoint.protocol!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def embed(self, texts: Sequence[str]) -> Any:
        """The outputs of n texts, in their order: float32 (n, dim) of a dense model, float32 (n, 1), logits, of a reranker and
        :class:`qguard.outputs.SparseRows` of a sparse model.

        Args:
            texts: At least one; of a reranker pairs (:class:`qguard.suites.paired.TextPair`).

        Texts of similar length share a request, and several requests are made at the same time.

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
        encoding = self._encoding
        try:
            found = self.ask(texts, encoding=encoding, prompt=prompt).said.outputs
        except EndpointProblem as e:
            if encoding is None or e.status not in _REFUSES:
                raise
            # it may not know the member that asks for base64: the question is put without it, and so are all later ones
            found = self.ask(texts, encoding=None, prompt=prompt).said.outputs
            self._encoding = None
        self._same_width(texts, int(found.shape[1]))
        return found

    def _scores(self, pairs: Sequence[TextPair]) -> Any:
        """Logits float32 (n, 1) of pairs: one request for each query that follows another."""
        found = []
        for query, own in groupby(pairs, key=lambda pair: pair.first):
            texts = [pair.second for pair in own]
            scores = self.ask(texts, query=query).said.outputs
            if self.endpoint.normalized is not False and (self.endpoint.normalized or self.wire.sigmoid):
                scores = self._logits(scores, texts)
            found.append(scores.astype(np.float32))
        return np.concatenate(found)

    def _logits(self, scores: Any, texts: Sequence[str]) -> Any:
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
        normalized = self.endpoint.normalized
        asked = Ask(texts, self.kind, self.model, query, encoding, prompt, normalized, self.width, more or {})
        reply = self.send(self.wire.payload(asked), len(texts))
        if reply.status != 200:
            self._refused(reply, texts)
        try:
            return Answer(self.wire.read(_json(reply), asked), reply)
        except ValueError as e:
            raise self._problem(texts, str(e), reply.status) from None

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
        tries = 0
        while True:
            tries += 1
            last = tries > self.endpoint.retries
            try:
                reply = self._once(url, content, LIMIT + texts * LIMIT_OF_TEXT, tries)
            except _Unreached as e:
                if last or not e.again:
                    raise self._failed(f"{e}{_times(tries)}{e.mend}") from None
                time.sleep(_pause(tries))
                continue
            if reply.status not in _BUSY or last:
                return reply
            time.sleep(self._asked_wait(reply, tries))

    def _once(self, url: str, content: bytes, limit: int, tries: int) -> Reply:
        import httpx

        start = time.monotonic()
        end = start + self.endpoint.timeout
        try:
            with self._http.stream("POST", url, content=content) as r:
                body = bytearray()
                for chunk in r.iter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise self._failed(f"the answer has more than {limit // MIB} MiB; it is not read to its end")
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("")
                headers = {k.lower(): v for k, v in r.headers.items()}
                return Reply(r.status_code, headers, bytes(body), time.monotonic() - start, tries)
        except httpx.TimeoutException:
            mend = "; is the server busy? give a longer timeout, or a smaller batch"
            raise _Unreached(f"no whole answer within {self.endpoint.timeout:g} seconds", False, mend) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as e:
            raise _unreached(e, self._secrets) from None

    def _asked_wait(self, reply: Reply, tries: int) -> float:
        """Seconds before the next try, as the server asks for."""
        asked = _retry_after(reply.headers.get("retry-after", ""))
        if asked is None:
            return _pause(tries)
        if asked > PATIENCE:
            raise self._failed(
                f"status {reply.status}, and the server asks to wait for {asked:.0f} seconds; at most {PATIENCE:.0f} are waited. "
                "Ask it less often: lower batch or concurrency", reply.status,
            )  # fmt: skip
        return asked

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
            words += f" ({_excerpt(said)}){_times(reply.tries) if reply.status in _BUSY else ''}"
        raise self._problem(texts, words, reply.status)

    def _problem(self, texts: Sequence[str], words: str, status: int | None = None) -> EndpointProblem:
        count = f"{len(texts)} texts, first" if len(texts) > 1 else "text"
        return self._failed(f"{count} {texts[0][:60]!r}: {self._secrets.hidden(words)}", status)

    def _failed(self, words: str, status: int | None = None) -> EndpointProblem:
        base, _, _ = self.url.partition("?")
        return EndpointProblem(f"endpoint {self.endpoint.name!r}, POST {base}: {words}", status)


class _Unreached(Exception):
    """There is no answer.

    Args:
        words: What happened.
        again: Whether the request may be sent again.
        mend: What helps, for people.
    """

    def __init__(self, words: str, again: bool, mend: str = "") -> None:
        super().__init__(words)
        self.again, self.mend = again, mend


def _unreached(error: Exception, secrets: Secrets) -> _Unreached:
    import socket

    import httpx

    reasons = list(_causes(error))
    said = secrets.hidden(first_line(error))
    if any(isinstance(r, ssl.SSLError) for r in reasons):
        mend = "; a certificate of your own authority is read from the file that SSL_CERT_FILE names"
        return _Unreached(f"the connection is not secure: {said}", False, mend)
    if any(isinstance(r, socket.gaierror) for r in reasons):
        return _Unreached(f"its host is not known: {said}", False)
    again = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
    return _Unreached(f"no answer: {said}", again, "; is the server running?" if again else "")


def _causes(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _open(endpoint: Endpoint, headers: Mapping[str, str]) -> httpx.Client:
    try:
        import httpx
    except ImportError:
        raise UsageProblem("endpoints are asked with httpx; install it: pip install 'qguard[endpoint]'") from None
    from qguard.version import __version__

    own = {"content-type": "application/json", "accept": "application/json", "user-agent": f"qguard/{__version__}"}
    return httpx.Client(
        headers={**own, **headers},
        timeout=httpx.Timeout(endpoint.timeout, pool=None),
        limits=httpx.Limits(max_connections=max(8, endpoint.concurrency), max_keepalive_connections=endpoint.concurrency),
        follow_redirects=False,
    )


def address(url: str, path: str) -> str:
    """Where a request goes: the path behind that of the URL, unless that ends with it, or with its first part.

    ``http://h`` and ``http://h/v1`` and ``http://h/v1/embeddings`` are all asked at ``http://h/v1/embeddings``.
    """
    parts = urlsplit(url)
    base, wanted = parts.path.rstrip("/"), path.strip("/").split("/")
    have = next((n for n in range(len(wanted), 0, -1) if base.endswith("/" + "/".join(wanted[:n]))), 0)
    whole = base + "".join(f"/{part}" for part in wanted[have:])
    return urlunsplit((parts.scheme, parts.netloc, whole, parts.query, ""))


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


def _times(tries: int) -> str:
    return f", asked {tries} times" if tries > 1 else ""


def _pause(tries: int) -> float:
    """Seconds before the next try: twice as long each time, and never the same for two clients."""
    longest: float = min(PATIENCE, _FIRST_WAIT * 2.0 ** (tries - 1))
    return longest * random.uniform(0.8, 1.2)


def _retry_after(value: str) -> float | None:
    """Seconds of the header ``Retry-After``, a number or a date; ``None`` for neither."""
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
