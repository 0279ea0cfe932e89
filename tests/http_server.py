"""A small HTTP server on loopback for tests of endpoints: real sockets, and answers that a test chooses, right or wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class Request:
    """What a client sent."""

    path: str
    headers: dict[str, str]
    value: Any


@dataclass
class Response:
    """What is sent back: a JSON value, or bytes as they are."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A server that runs: where, and what it was asked."""

    url: str
    requests: list[Request]
    stop: Callable[[], None]


Answers = Callable[[Request], Response | None]


@contextmanager
def serving(answers: Answers, port: int = 0) -> Iterator[Server]:
    """A server that gives ``answers``; ``None`` closes the connection without one."""
    asked: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body))
            asked.append(request)
            found = answers(request)
            if found is None:
                self.close_connection = True
                return
            data = found.value if isinstance(found.value, bytes) else json.dumps(found.value).encode()
            self.send_response(found.status)
            for name, value in {"content-type": "application/json", "content-length": str(len(data)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", asked, stop)
    finally:
        stop()


def openai(encode: Callable[[list[str]], Any], heeds: bool = True) -> Answers:
    """OpenAI's embeddings of an encoder, out of order, as base64 if that is asked for and the server heeds it."""

    def answers(request: Request) -> Response:
        vectors = np.asarray(encode(request.value["input"]), np.float32)
        coded = heeds and request.value.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": base64.b64encode(v.tobytes()).decode() if coded else v.tolist()}
            for i, v in enumerate(vectors)
        ]
        usage = {"prompt_tokens": sum(len(t.split()) for t in request.value["input"]), "total_tokens": 0}
        return Response({"object": "list", "data": data[::-1], "model": request.value["model"], "usage": usage})

    return answers
