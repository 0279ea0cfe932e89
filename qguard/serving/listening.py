"""The server as a process: it listens, says where, and ends when it is told to."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from qguard.errors import UsageProblem

CONNECTIONS = 1024
GRACE = 5  # seconds that requests have to end when the server is told to stop


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait in it until the server takes them.

    Args:
        host: A name or an address of this machine.
        port: 0 for a free one.

    Raises:
        UsageProblem: where nothing can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as e:
        raise UsageProblem(f"--host {host!r} is no address of this machine: {_said(e)}") from e
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(CONNECTIONS)
    except OSError as e:
        made.close()
        raise UsageProblem(f"cannot listen at {host} port {port}: {_said(e)}; give another --port, or 0 for a free one") from e
    return made


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def url(listening: socket.socket) -> str:
    """Where clients find it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def run(application: Any, listening: socket.socket, until: TextIO | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests that are being answered get :data:`GRACE` seconds.

    Args:
        application: ASGI.
        listening: What :func:`listen` gave; it is closed at the end.
        until: A stream whose end also ends the server, as that of a pipe when the other process is gone.
    """
    with _told(server := server_of(application)), listening:
        if until is not None:
            threading.Thread(target=_watch, args=(until, server), daemon=True).start()
        server.run(sockets=[listening])


def _watch(stream: TextIO, server: Any) -> None:
    while stream.readline():
        pass
    server.should_exit = True


def server_of(application: Any) -> Any:
    """uvicorn's server of an application."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # uvicorn's own would end this process by the signal again, after the server has stopped

    return Server(
        uvicorn.Config(
            application, log_level="warning", access_log=False, ws="none", limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GRACE, server_header=False,
        )
    )  # fmt: skip


@contextlib.contextmanager
def _told(server: Any) -> Iterator[None]:
    """Whoever asks the process to end, ends the server."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.handle_exit(number, frame)

    before: list[tuple[int, Callable[..., Any] | int | None]] = [
        (n, signal.signal(n, stop)) for n in (signal.SIGTERM, signal.SIGINT)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
