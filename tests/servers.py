"""Servers on loopback in threads of this process: the reference server of a tiny model, and what breaks one thing of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.serving.app import application
from qguard.serving.listening import listen, server_of, url
from qguard.serving.model import ServedModel

__all__ = ["application", "model_of", "running"]


def model_of(folder: Path, precision: str = "int8", name: str = "tiny") -> ServedModel:
    """What the reference server serves of a model of a project."""
    session, wanted = Session(load_config(folder)), parse_precision(precision)
    return ServedModel(name, precision, session.encoder(wanted, name), session.artifact(wanted, name).pipeline)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The URL of an ASGI application that is served meanwhile."""
    listening, server = listen("127.0.0.1", 0), server_of(app)
    server.config.timeout_graceful_shutdown = 1
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what breaks here is meant to
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield url(listening)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"


Ask = Callable[[dict[str, Any]], Awaitable[tuple[int, Any]]]


class Around:
    """An ASGI application around another one, which may change what is asked and what is answered.

    Args:
        app: The application.
        change: Called with a function that asks the application, and the JSON object of a request; it gives the status and the
            JSON value of the answer. A ``bytes`` value is sent as it is, and ``None`` closes the connection without an answer.
    """

    def __init__(self, app: Any, change: Callable[[Ask, dict[str, Any]], Awaitable[tuple[int, Any]]]) -> None:
        self._app, self._change = app, change

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        body = await _read(receive)

        async def ask(request: dict[str, Any]) -> tuple[int, Any]:
            return await self._asked(scope, json.dumps(request).encode())

        try:
            request = json.loads(body)
        except ValueError:
            status, answer = await self._asked(scope, body)
        else:
            status, answer = await self._change(ask, request)
        if answer is None:  # uvicorn closes the connection of an answer that has no end
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    async def _asked(self, scope: Any, body: bytes) -> tuple[int, Any]:
        found: list[Any] = [0, bytearray()]

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found[0] = message["status"]
            else:
                found[1] += message.get("body", b"")

        headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
        await self._app({**scope, "headers": headers}, receive, send)
        return found[0], json.loads(found[1])


async def _read(receive: Any) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def either(first: Callable[[], bool], one: Any, other: Any) -> Any:
    """Of two ASGI applications the first one while a condition holds."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (one if first() else other)(scope, receive, send)

    return app
