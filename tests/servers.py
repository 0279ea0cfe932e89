"""Servers on loopback in threads of this process: the reference server of a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield url(listening)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"
