"""Requests over one pool of HTTP connections: bounded in time and size, and sent again only if the server took none of it."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from qguard.endpoints.answer import Reply
from qguard.endpoints.secrets import Secrets
from qguard.endpoints.settings import Endpoint
from qguard.errors import EndpointProblem, UsageProblem

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20
PATIENCE = 30.0  # seconds that are waited at most before a request is sent again, whatever the server asks for
BUSY = (429, 503)
_FIRST_WAIT = 0.25


class Transport:
    """Sends requests to one server; safe to use from several threads.

    Args:
        endpoint: The server.
        secrets: Its headers, and what no message may show.

    Raises:
        UsageProblem: if httpx is not installed.
    """

    def __init__(self, endpoint: Endpoint, secrets: Secrets) -> None:
        self._endpoint, self._secrets = endpoint, secrets
        self._http = _open(endpoint, secrets.headers)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def post(self, url: str, content: bytes, limit: int) -> Reply:
        """The answer to a request, whatever status it has. Sent again while the server cannot be reached or is busy.

        Args:
            url: Where to.
            content: JSON.
            limit: Bytes that the answer may have.

        Raises:
            EndpointProblem: if there is no answer, or it is too large, or takes too long.
        """
        tries = 0
        while True:
            tries += 1
            last = tries > self._endpoint.retries
            try:
                reply = self._once(url, content, limit, tries)
            except _Unreached as e:
                if last or not e.again:
                    raise self._failed(url, f"{e}{asked_times(tries)}{e.mend}", timed_out=e.timed_out) from None
                time.sleep(_pause(tries))
                continue
            if reply.status not in BUSY or last:
                return reply
            time.sleep(self._asked_wait(url, reply, tries))

    def _once(self, url: str, content: bytes, limit: int, tries: int) -> Reply:
        import httpx

        start = time.monotonic()
        end = start + self._endpoint.timeout
        try:
            with self._http.stream("POST", url, content=content) as r:
                body = bytearray()
                for chunk in r.iter_bytes():
                    body += chunk
                    if len(body) > limit:
                        raise self._failed(url, f"the answer has more than {limit // MIB} MiB; it is not read to its end")
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("")
                headers = {k.lower(): v for k, v in r.headers.items()}
                return Reply(r.status_code, headers, bytes(body), time.monotonic() - start, tries)
        except httpx.TimeoutException:
            mend = "; is the server busy? give a longer timeout, or a smaller batch"
            raise _Unreached(f"no whole answer within {self._endpoint.timeout:g} seconds", False, mend, timed_out=True) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as e:
            raise _unreached(e, self._secrets) from None

    def _asked_wait(self, url: str, reply: Reply, tries: int) -> float:
        """Seconds before the next try, as the server asks for."""
        asked = _retry_after(reply.headers.get("retry-after", ""))
        if asked is None:
            return _pause(tries)
        if asked > PATIENCE:
            raise self._failed(
                url, f"status {reply.status}, and the server asks to wait for {asked:.0f} seconds; at most {PATIENCE:.0f} are "
                "waited. Ask it less often: lower batch or concurrency", reply.status,
            )  # fmt: skip
        return asked

    def _failed(self, url: str, words: str, status: int | None = None, timed_out: bool = False) -> EndpointProblem:
        return EndpointProblem(f"{named(self._endpoint, url)}: {words}", status, timed_out)


class _Unreached(Exception):
    """There is no answer.

    Args:
        words: What happened.
        again: Whether the request may be sent again.
        mend: What helps, for people.
        timed_out: Whether the answer did not come in time.
    """

    def __init__(self, words: str, again: bool, mend: str = "", timed_out: bool = False) -> None:
        super().__init__(words)
        self.again, self.mend, self.timed_out = again, mend, timed_out


def _unreached(error: Exception, secrets: Secrets) -> _Unreached:
    import httpx

    reasons = list(_causes(error))
    said = f"{type(error).__name__}: {' '.join(secrets.hidden(str(error)).split())[:200]}"
    if any(isinstance(r, ssl.SSLError) for r in reasons):
        mend = "; a certificate of your own authority is read from the file that SSL_CERT_FILE names"
        return _Unreached(f"the connection is not secure: {said}", False, mend)
    if any(isinstance(r, socket.gaierror) for r in reasons):
        return _Unreached(f"its host is not known: {said}", False)
    again = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
    return _Unreached(f"no answer: {said}", again, "; is the server running?" if again else "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
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


def named(endpoint: Endpoint, url: str) -> str:
    """A request, as messages name it."""
    return f"endpoint {endpoint.name!r}, POST {url.partition('?')[0]}"


def address(url: str, path: str) -> str:
    """Where a request goes: the path behind that of the URL, unless that ends with it, or with its first part.

    ``http://h`` and ``http://h/v1`` and ``http://h/v1/embeddings`` are all asked at ``http://h/v1/embeddings``.
    """
    parts = urlsplit(url)
    base, wanted = parts.path.rstrip("/"), path.strip("/").split("/")
    have = next((n for n in range(len(wanted), 0, -1) if base.endswith("/" + "/".join(wanted[:n]))), 0)
    whole = base + "".join(f"/{part}" for part in wanted[have:])
    return urlunsplit((parts.scheme, parts.netloc, whole, parts.query, ""))


def asked_times(tries: int) -> str:
    """How often a request was sent, for the end of a sentence; nothing for once."""
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
