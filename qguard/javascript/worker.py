"""A process of Node.js that computes on request.

Both sides send frames: the letters ``QGW1``, the lengths of a JSON object and of the bytes behind it (two unsigned 32-bit
integers, little-endian), then both. Arrays travel as their bytes, never as text. A worker ends when its standard input does, so
that none outlives the process that started it, however that process ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.console.visible import visible
from qguard.errors import MeasurementProblem
from qguard.javascript.packages import NODE_MODULES, Packages, node

SCRIPTS = Path(__file__).parent / "scripts"
MAGIC, HEAD = b"QGW1", struct.Struct("<4sII")
LARGEST = 1 << 28  # bytes of one frame
DTYPES = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8", "uint8": "|u1"}
_LAST_LINES, _LINE = 20, 2000  # of what a worker says, and letters of each


@dataclass(frozen=True)
class Answer:
    """What a worker answers.

    Attributes:
        values: JSON values.
        arrays: Name → array.
    """

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class RefusedByWorker(MeasurementProblem):
    """An error that the worker's script raised; the worker goes on."""


class NodeWorker:
    """A worker, started and ready.

    Args:
        script: A module of :data:`SCRIPTS`, or a path; it calls ``serve`` of ``protocol.mjs``.
        modules: The folder ``node_modules`` that its packages come from.
        program: Node.js, its name or path.
        timeout: Seconds that one answer may take.

    Attributes:
        versions: Of Node.js and its engine, as the process says.

    Raises:
        MeasurementProblem: where Node.js is absent or the script does not start.
    """

    def __init__(self, script: str | Path, modules: Path, program: str = "node", timeout: float = 600.0) -> None:
        if modules.name != NODE_MODULES:
            raise MeasurementProblem(f"expected a folder called {NODE_MODULES}, as npm makes it, found {modules.name!r}")
        self._timeout, self._lock, self._asked = timeout, threading.Lock(), 0
        self.packages = Packages(modules)
        # without it, a package is looked for beside the script and not in the project
        command = [str(node(program)), "--experimental-import-meta-resolve", str(SCRIPTS / script), str(modules.absolute())]
        environment = {k: v for k, v in os.environ.items() if k not in ("NODE_OPTIONS", "NODE_PATH")}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0)
        except OSError as e:
            raise MeasurementProblem(f"Node.js cannot be started: {e.strerror or e}") from e
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        threading.Thread(target=_listen, args=(self._process.stderr, self._said), daemon=True).start()
        self._ended = weakref.finalize(self, _end, self._process)
        try:
            self.versions: dict[str, str] = self.ask("hello").values["versions"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> NodeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, task: str, arrays: Mapping[str, NDArray[Any]] | None = None, /, **values: Any) -> Answer:
        """The answer to one request; requests of several threads wait for each other.

        Args:
            task: A name that the script serves.
            arrays: Name → array of one of :data:`DTYPES`.
            values: JSON values.

        Raises:
            RefusedByWorker: when the script raises an error.
            MeasurementProblem: when the worker ended, took longer than it may, or answers something else.
        """
        with self._lock:
            self._asked += 1
            late = threading.Event()
            watch = threading.Timer(self._timeout, _stop, (self._process, late))
            watch.daemon = True
            watch.start()
            try:
                self._write({"id": self._asked, "task": task, "values": values}, arrays or {})
                header, body = self._read()
            except (OSError, EOFError, ValueError) as e:  # a closed pipe, an end, or what is no frame
                self.close()
                raise self._problem(late.is_set(), e) from e
            finally:
                watch.cancel()
        if header.get("id") != self._asked:
            self.close()
            raise self._problem(False, ValueError("an answer to another request"))
        if "error" in header:
            raise RefusedByWorker(visible(" ".join(str(header["error"]).split())[:500]))
        return Answer(header.get("values") or {}, _arrays(header.get("arrays") or [], body))

    def close(self) -> None:
        """End the process; what is asked later is an error."""
        self._ended()

    def _problem(self, late: bool, error: Exception) -> MeasurementProblem:
        if late:
            return MeasurementProblem(f"the worker of Node.js gave no answer in {self._timeout:g} seconds and was ended")
        time.sleep(0.05)  # for its last words
        said = next((line for line in reversed(self._said) if line.strip()), "")
        errors = [line for line in self._said if "Error" in line]
        words = (errors or [said])[-1] or f"{type(error).__name__}: {error}"
        return MeasurementProblem(f"the worker of Node.js ended or cannot be read: {visible(words.strip()[:300])}")

    def _write(self, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        known = {np.dtype(code): name for name, code in DTYPES.items()}
        told = [
            {"name": name, "dtype": known[array.dtype.newbyteorder("<")], "shape": array.shape} for name, array in arrays.items()
        ]
        text, size = json.dumps({**header, "arrays": told}).encode("ascii"), sum(array.nbytes for array in arrays.values())
        if len(text) + size > LARGEST:
            raise MeasurementProblem(f"a request of {len(text) + size} bytes; a worker takes {LARGEST} at most")
        body = b"".join(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays.values())
        assert self._process.stdin is not None
        data = memoryview(HEAD.pack(MAGIC, len(text), size) + text + body)
        while data:  # the pipe is not buffered and may take a part
            data = data[self._process.stdin.write(data) or 0 :]

    def _read(self) -> tuple[dict[str, Any], bytes]:
        magic, text, body = HEAD.unpack(self._exactly(HEAD.size))
        if magic != MAGIC or text + body > LARGEST:
            raise ValueError("something else than an answer on its standard output")
        header = json.loads(self._exactly(text))
        if not isinstance(header, dict):
            raise ValueError("an answer that is no object")
        return header, self._exactly(body)

    def _exactly(self, size: int) -> bytes:
        assert self._process.stdout is not None
        parts = bytearray()
        while len(parts) < size:
            part = self._process.stdout.read(min(size - len(parts), 1 << 20))
            if not part:
                raise EOFError("the end of its output")
            parts += part
        return bytes(parts)


def _arrays(told: list[dict[str, Any]], body: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an answer, which fill its bytes exactly.

    Raises:
        MeasurementProblem: where they do not.
    """
    found, at = {}, 0
    try:
        for one in told:
            shape, kind = tuple(int(n) for n in one["shape"]), np.dtype(DTYPES[one["dtype"]])
            if min(shape, default=0) < 0:
                raise ValueError(shape)
            count = int(np.prod(shape, dtype=np.int64))
            found[str(one["name"])] = np.frombuffer(body, kind, count, at).reshape(shape)
            at += count * kind.itemsize
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes too many")
    except (KeyError, TypeError, ValueError) as e:
        raise MeasurementProblem(f"the worker of Node.js answers arrays that do not fit their bytes ({e})") from e
    return found


def _listen(stream: Any, said: deque[str]) -> None:
    """Keep the last lines of what a worker says, so that it never waits for a reader."""
    with contextlib.suppress(OSError, ValueError):
        while line := stream.readline(_LINE):
            said.append(line.decode("utf-8", "replace"))


def _stop(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
