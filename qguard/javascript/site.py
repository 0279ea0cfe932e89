"""A site on this machine's loopback that one browser opens: it has the files of one run, and hands frames to its page."""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from qguard.javascript.frames import HEAD, LARGEST

_TYPES = {
    ".html": "text/html",
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
}
_HEADERS = {
    # threads of WebAssembly need a page that is isolated from other origins
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "default-src 'self' blob:; script-src 'self' blob: 'wasm-unsafe-eval'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_WAIT = 1.0  # seconds that a page waits for a request before it asks again
NEXT, ANSWER = "next", "answer"


class Site:
    """The site, running.

    Args:
        files: Path below the site → file.

    Attributes:
        url: Of the site; nobody else on this machine can guess it.
        served: Path → SHA-256 of the bytes that were sent, of each file that was asked for and sent whole.
        refused: Paths that were asked for and are not there.
        seen: Set once the page asks for its first request.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.served, self.refused, self.seen = dict[str, str](), list[str](), threading.Event()
        self._files, self._secret = dict(files), secrets.token_urlsafe(16)
        self._requests, self._answers = queue.Queue[bytes](), queue.Queue[bytes]()
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}/{self._secret}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def path(self, asked: str, host: str | None) -> str | None:
        """The path below the site that was asked for; ``None`` for whoever does not know the site."""
        start = f"/{self._secret}/"
        return asked[len(start) :].partition("?")[0] if asked.startswith(start) and host == self.host else None

    def file(self, path: str) -> Path | None:
        """The file of a path."""
        return self._files.get(path)

    def send(self, frame: bytes) -> None:
        """Hand a frame to the page."""
        self._requests.put(frame)

    def next(self) -> bytes:
        """The frame that the page is to answer; empty where there is none yet."""
        self.seen.set()
        try:
            return self._requests.get(timeout=_WAIT)
        except queue.Empty:
            return b""

    def answered(self, frame: bytes) -> None:
        """Keep an answer of the page."""
        self._answers.put(frame)

    def answer(self, timeout: float) -> bytes | None:
        """The page's next answer; ``None`` where there is none in that many seconds."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the site."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser that is gone reads no answers, and whoever waits for its own is told that it is gone."""


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be silent

    def do_GET(self) -> None:
        path = self.site.path(self.path, self.headers.get("Host"))
        if path == NEXT:
            frame = self.site.next()
            self._send(200 if frame else 204, frame, "application/octet-stream")
        elif path is not None and (file := self.site.file(path)) is not None:
            self._send_file(path, file)
        else:
            if path is not None:
                self.site.refused.append(path)
            self._send(404, b"", "text/plain")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path, length = self.site.path(self.path, self.headers.get("Host")), self.headers.get("Content-Length", "")
        if path != ANSWER or not length.isdecimal() or not HEAD.size <= int(length) <= LARGEST + HEAD.size:
            self.close_connection = True
            self._send(404, b"", "text/plain")
            return
        self.site.answered(self.rfile.read(int(length)))
        self._send(204, b"", "")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self._head(code, len(body), kind)
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, path: str, file: Path) -> None:
        size, sent = file.stat().st_size, hashlib.sha256()
        self._head(200, size, _TYPES.get(file.suffix, "application/octet-stream"))
        if self.command == "HEAD":
            return
        with file.open("rb") as f:
            while chunk := f.read(1 << 20):
                sent.update(chunk)
                self.wfile.write(chunk)
        self.site.served[path] = sent.hexdigest()

    def _head(self, code: int, length: int, kind: str) -> None:
        self.send_response(code)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        if code != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""
