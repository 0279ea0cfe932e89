"""What an endpoint is: its address, its protocol, and how it is asked. Never a secret: headers name environment variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from qguard.errors import UsageProblem, unknown

SERVED = "served"  # what --endpoint URL is judged as
CLIENT, SERVER = "client", "server"  # who puts prompts in front of texts
OPENAI, TEI, OLLAMA, COHERE = PROTOCOLS = ("openai", "tei", "ollama", "cohere")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# set by the client itself, and by what it sends
_RESERVED = ("host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding")


@dataclass(frozen=True)
class Endpoint:
    """One server that is asked for what its model gives.

    Attributes:
        name: Its name as a precision.
        url: Where it answers; the protocol's path is added unless the URL has it.
        protocol: One of :data:`PROTOCOLS`.
        model: The model that requests name; empty for the name of the judged model.
        headers: Pairs of a header and the environment variable that holds its value.
        batch: Texts of one request, at least 1.
        concurrency: Requests at the same time, at least 1.
        timeout: Seconds that one request may take, from its start to the last byte of the answer.
        retries: How often a request is sent again that the server did not take.
        normalized: What the server returns: vectors of unit length, or scores after the sigmoid; ``None`` if nobody says.
        prompts: :data:`CLIENT` if qguard puts prompts in front of texts, :data:`SERVER` if the server does.
        replicas: URLs of other replicas.
        restart: The command that restarts the server; empty for none.
        fingerprint: The file that keeps its outputs for later runs; empty for none.
    """

    name: str
    url: str
    protocol: str = OPENAI
    model: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    batch: int = 32
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 3
    normalized: bool | None = None
    prompts: str = CLIENT
    replicas: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self) -> None:
        check_urls((self.url, *self.replicas))
        check_protocol(self.protocol)
        check_headers(dict(self.headers))

    @property
    def shown(self) -> str:
        """The URL as messages and reports have it: without the values of a query, which may hold a key."""
        return shown_url(self.url)

    def to_json(self) -> dict[str, Any]:
        """What reports say of the settings; no secret, and no name of a variable that holds one."""
        return {
            "url": self.shown, "protocol": self.protocol, "model": self.model, "headers": sorted(n for n, _ in self.headers),
            "batch": self.batch, "concurrency": self.concurrency, "normalized": self.normalized, "prompts": self.prompts,
        }  # fmt: skip


def check_protocol(protocol: str) -> None:
    """A protocol is known.

    Raises:
        UsageProblem: with the nearest ones.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)


def shown_url(url: str) -> str:
    """A URL without the values of its query."""
    base, mark, _ = url.partition("?")
    return f"{base}?…" if mark else base


def check_url(url: str) -> None:
    """A URL can be asked, and holds no password.

    Raises:
        UsageProblem: for anything else. The message shows no part of a URL that may be secret.
    """
    try:
        parts = urlsplit(url)
        host, secret, _ = parts.hostname, parts.username is not None or parts.password is not None, parts.port
    except ValueError as e:
        raise UsageProblem(f"the URL of an endpoint cannot be read: {e}; expected for example http://localhost:8080") from None
    if secret or "@" in parts.netloc:
        raise UsageProblem(
            "the URL of an endpoint holds a user or password, which would end up in reports; remove it, and give a header whose "
            'value is read from the environment: headers = { Authorization = "MY_VARIABLE" }'
        )
    if parts.scheme not in ("http", "https") or not host:
        raise UsageProblem(f"the URL of an endpoint: expected http:// or https:// and a host, found {shown_url(url)!r}")
    if parts.fragment or any(not c.isprintable() or c.isspace() for c in url):
        raise UsageProblem(f"the URL of an endpoint has a fragment (#…), spaces or control characters: {shown_url(url)!r}")


def check_urls(urls: Iterable[str]) -> None:
    """As :func:`check_url`, of several."""
    for url in urls:
        check_url(url)


def check_headers(headers: Mapping[str, str]) -> None:
    """Headers and variables have names that can be used.

    Raises:
        UsageProblem: for others. A value where a variable is expected may be the secret itself, and is not shown.
    """
    for header, variable in headers.items():
        if not _HEADER.fullmatch(header):
            raise UsageProblem(f"headers: {header!r} is no name of a header")
        if header.lower() in _RESERVED:
            raise UsageProblem(f"headers: {header} is set by qguard itself; remove it")
        if not _VARIABLE.fullmatch(variable):
            raise UsageProblem(
                f"headers: {header}: expected the name of the environment variable that holds the value, such as MY_VARIABLE; "
                "found something else, which is not shown because it may be the secret itself"
            )
