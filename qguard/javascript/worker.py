"""Processes that compute in JavaScript on request. A worker ends when the process that started it does, however that ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.console.visible import visible
from qguard.errors import MeasurementProblem
from qguard.javascript.frames import HEAD, Answer, arrays_of, header_of, lengths, packed
from qguard.javascript.packages import NODE_MODULES, Packages, node

SCRIPTS = Path(__file__).parent / "scripts"
_LAST_LINES, _LINE = 20, 2000  # of what a worker says, and letters of each


class RefusedByWorker(MeasurementProblem):
    """An error that the worker's script raised; the worker goes on."""


class Worker(ABC):
    """Something that answers requests in turn.

    Args:
        where: What it is, for messages.
        timeout: Seconds that one answer may take.

    Attributes:
        versions: Of what computes, as it says itself.
    """

    def __init__(self, where: str, timeout: float) -> None:
        self._where, self._timeout = where, timeout
        self._lock, self._asked = threading.Lock(), 0
        self.versions = dict[str, str]()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, task: str, arrays: Mapping[str, NDArray[Any]] | None = None, /, **values: Any) -> Answer:
        """The answer to one request; requests of several threads wait for each other.

        Args:
            task: A name that the script serves.
            arrays: Name → array of one of :data:`qguard.javascript.frames.DTYPES`.
            values: JSON values.

        Raises:
            RefusedByWorker: when the script raises an error.
            MeasurementProblem: when the worker ended, took longer than it may, or answers something else.
        """
        with self._lock:
            self._asked += 1
            data = packed({"id": self._asked, "task": task, "values": values}, arrays or {})
            try:
                text, body = self._exchange(data)
                header = header_of(text)
                if header.get("id") != self._asked:
                    raise ValueError("an answer to another request")
                found = arrays_of(header.get("arrays") or [], body)
            except (OSError, EOFError, ValueError) as e:  # a closed pipe, an end, or what is no frame
                self.close()
                raise MeasurementProblem(f"{self._where} {self._last_words(e)}") from e
        if "error" in header:
            raise RefusedByWorker(visible(" ".join(str(header["error"]).split())[:500]))
        return Answer(header.get("values") or {}, found)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, of a script that serves the task ``tokens``."""
        found = self.ask("tokens", texts=list(texts)).arrays
        return [row.tolist() for row in np.split(found["ids"], np.cumsum(found["lengths"]))[:-1]]

    @abstractmethod
    def close(self) -> None:
        """End it; what is asked later is an error."""

    @abstractmethod
    def _exchange(self, data: bytes) -> tuple[bytes, bytes]:
        """Send a frame; the JSON object and the bytes of the answer.

        Raises:
            OSError: as EOFError and ValueError, when there is none.
        """

    @abstractmethod
    def _last_words(self, error: Exception) -> str:
        """What happened, as the rest of a sentence whose subject is the worker."""


class NodeWorker(Worker):
    """A worker of Node.js, started and ready.

    Args:
        script: A module of :data:`SCRIPTS`, or a path; it calls ``serve`` of ``protocol.mjs``.
        modules: The folder ``node_modules`` that its packages come from.
        program: Node.js, its name or path.
        timeout: Seconds that one answer may take.
        needs: npm packages that the script imports.

    Attributes:
        packages: Those of ``modules``.

    Raises:
        MeasurementProblem: where Node.js or a package is absent, or the script does not start.
    """

    def __init__(
        self, script: str | Path, modules: Path, program: str = "node", timeout: float = 600.0, needs: Sequence[str] = ()
    ) -> None:
        super().__init__("the worker of Node.js", timeout)
        if modules.name != NODE_MODULES:
            raise MeasurementProblem(f"expected a folder called {NODE_MODULES}, as npm makes it, found {modules.name!r}")
        self.packages, self._late = Packages(modules), threading.Event()
        found = node(program)
        self.packages.need(*needs)
        # without it, a package is looked for beside the script and not in the project
        command = [str(found), "--experimental-import-meta-resolve", str(SCRIPTS / script), str(modules.absolute())]
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
            self.versions = self.ask("hello").values["versions"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """See :meth:`Worker.close`."""
        self._ended()

    def _exchange(self, data: bytes) -> tuple[bytes, bytes]:
        watch = threading.Timer(self._timeout, _stop, (self._process, self._late))
        watch.daemon = True
        watch.start()
        try:
            self._write(data)
            text, body = lengths(self._exactly(HEAD.size))
            return self._exactly(text), self._exactly(body)
        finally:
            watch.cancel()

    def _last_words(self, error: Exception) -> str:
        if self._late.is_set():
            return f"gave no answer in {self._timeout:g} seconds and was ended"
        time.sleep(0.05)  # for its last words
        said = [line for line in self._said if line.strip()]
        errors = [line for line in said if "Error" in line] or said
        words = errors[-1] if errors else f"{type(error).__name__}: {error}"
        return f"ended or cannot be read: {visible(words.strip()[:300])}"

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        left = memoryview(data)
        while left:  # the pipe is not buffered and may take a part
            left = left[self._process.stdin.write(left) or 0 :]

    def _exactly(self, size: int) -> bytes:
        assert self._process.stdout is not None
        parts = bytearray()
        while len(parts) < size:
            part = self._process.stdout.read(min(size - len(parts), 1 << 20))
            if not part:
                raise EOFError("the end of its output")
            parts += part
        return bytes(parts)


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
