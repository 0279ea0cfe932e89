"""Servers as what is timed: requests for the load engine, and the arm of a paired trial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from qguard.endpoints.answer import Reply
from qguard.endpoints.client import Client
from qguard.endpoints.protocols import Ask
from qguard.endpoints.settings import Endpoint
from qguard.errors import EndpointProblem
from qguard.kinds import CROSS_ENCODER, DENSE
from qguard.latency.load import Clock
from qguard.suites.paired import TextPair

Batch = tuple[tuple[str, ...], ...]  # the texts of each request; of a reranker pairs, whose first text is the query


@dataclass(frozen=True)
class ServedSpec:
    """A server and how it is asked for its latency: a request that fails is not sent again.

    Attributes:
        endpoint: The server.
        kind: Of its model, a name in :data:`qguard.kinds.KINDS`.
        model: The model that requests name, unless the endpoint's settings name one.
        width: Of a sparse model, the words of its vocabulary.
        prefix: What is put in front of each text.
        prompt: Name of the prompt that the server is asked to put in front; empty for none.
        clients: Clients of a paired trial, each of which sends its next request when its last one is answered.
    """

    endpoint: Endpoint
    kind: str = DENSE
    model: str = ""
    width: int = 0
    prefix: str = ""
    prompt: str = ""
    clients: int = 1

    device = "server"
    redrawn = False

    @property
    def marks(self) -> dict[str, Any]:
        """What its times depend on, beside this machine."""
        return {"endpoint": self.endpoint.shown, "clients": self.clients}

    @cached_property
    def _encoding(self) -> str | None:
        """How the server is asked for vectors, found out once."""
        with self._client(1) as client:
            client.one(TextPair("a", "b") if self.kind == CROSS_ENCODER else "a")
            return client.encoding

    def _client(self, connections: int) -> Client:
        endpoint = replace(self.endpoint, retries=0, concurrency=connections)
        return Client(endpoint, self.kind, self.model, self.width)

    def requests(self, batch: Batch, connections: int) -> Requests:
        """Requests for these texts, over a pool of so many connections of its own. Whoever has them closes them.

        Raises:
            EndpointProblem: where the server does not answer a first request.
        """
        encoding, client = self._encoding, self._client(connections)
        asks = []
        for texts in batch:
            query, put = "", tuple(self.prefix + text for text in texts)
            if self.kind == CROSS_ENCODER:
                query, put = self.prefix + TextPair.of(texts[0]).first, tuple(TextPair.of(text).second for text in texts)
            asks.append(client.question(put, query=query, encoding=encoding, prompt=self.prompt))
        return Requests(client, asks)

    def arm(self, batch: Batch) -> ServedArm:
        """The arm itself."""
        return ServedArm(self, batch)


class Requests:
    """A :class:`qguard.latency.load.Sender` over a client: the same few requests in turn.

    Args:
        client: Who sends; it is closed with this.
        asks: The requests, at least one.
    """

    def __init__(self, client: Client, asks: Sequence[Ask]) -> None:
        self._client = client
        self._made = [(ask, client.wire.payload(ask)) for ask in asks]
        self._width: int | None = None

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def send(self, number: int) -> tuple[Ask, Reply]:
        """See :class:`qguard.latency.load.Sender`."""
        ask, payload = self._made[number % len(self._made)]
        return ask, self._client.send(payload, len(ask.texts))

    def check(self, answer: tuple[Ask, Reply]) -> None:
        """See :class:`qguard.latency.load.Sender`: an output for each text, all of one width."""
        width = self._client.answer(*answer).said.dim
        self._width = self._width or width
        if width != self._width:
            raise EndpointProblem(f"answers have {self._width} values a text and then {width}", 200)


class ServedArm:
    """A server as an :class:`qguard.latency.trial.Arm`: a session is a pool of connections, and a run is a request.

    Args:
        spec: The server.
        batch: The texts of its requests, which are sent in turn.
    """

    def __init__(self, spec: ServedSpec, batch: Batch) -> None:
        self._spec, self._batch = spec, batch
        self._requests: Requests | None = None
        self._number = 0

    def open(self) -> None:
        """Connect anew."""
        self.close()
        self._requests = self._spec.requests(self._batch, self._spec.clients)

    def close(self) -> None:
        """Close all connections."""
        if self._requests is not None:
            self._requests.close()
        self._requests = None

    def block(self, discard: int, timed: int) -> list[tuple[int, int]]:
        """See :class:`qguard.latency.trial.Arm`; every client sends so many requests.

        Nobody knows whether another process interrupted the server, so that no request counts as interrupted.
        """
        requests, each = self._requests, discard + timed
        assert requests is not None
        found: list[tuple[int, int]] = []

        def client(first: int) -> None:
            for number in range(first, first + each):
                start = time.perf_counter_ns()
                answer = requests.send(number)
                spent = time.perf_counter_ns() - start
                requests.check(answer)
                if number >= first + discard:
                    found.append((spent, spent))

        starts = range(self._number, self._number + self._spec.clients * each, each)
        self._number = starts.stop
        Clock().together([lambda first=first: client(first) for first in starts], lambda: None)  # type: ignore[misc]
        return found
