"""Results of a run's tasks, kept in the cache until the run is over: a driver that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from qguard.files import cache_folder, sha256_json, write_atomic

_LENGTH = 8


class Kept:
    """A folder of results, each in a file of its own, whole or not at all.

    Results are of one run: they are forgotten when it ends, so that the next one measures again.

    Args:
        what: Everything that decides the run's results, as JSON: files by hash, versions, machine, options.
    """

    def __init__(self, *what: Any) -> None:
        self.folder: Path = cache_folder() / f"run-{sha256_json(what)[:16]}"

    def key(self, task: str, shared: str, given: dict[str, Any], data: bytes) -> str:
        """The name of a result."""
        return sha256_json([task, shared, given, hashlib.sha256(data).hexdigest()])

    def read(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """A result; ``None`` where there is none, or it is damaged."""
        try:
            whole = (self.folder / key).read_bytes()
        except OSError:
            return None
        digest, body = whole[:32], whole[32:]
        if hashlib.sha256(body).digest() != digest:
            return None
        size = int.from_bytes(body[:_LENGTH], "little")
        return json.loads(body[_LENGTH : _LENGTH + size]), body[_LENGTH + size :]

    def write(self, key: str, result: tuple[dict[str, Any], bytes]) -> None:
        """Keep a result; a cache that cannot be written keeps none."""
        text = json.dumps(result[0]).encode()
        body = len(text).to_bytes(_LENGTH, "little") + text + result[1]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / key, hashlib.sha256(body).digest() + body)
        except OSError:
            return

    @property
    def count(self) -> int:
        """How many results are there."""
        return len([p for p in self.folder.glob("*") if not p.name.startswith(".")])

    def forget(self) -> None:
        """The run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)
