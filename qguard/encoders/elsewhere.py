"""ONNX Runtime in another process: that of another environment's interpreter, or one whose CPU is emulated."""

from __future__ import annotations

import io
import json
import os
import queue
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from qguard.encoders.feeding import Feeding
from qguard.encoders.interface import Interface
from qguard.encoders.ports import of_session
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import ArtifactProblem, MeasurementProblem
from qguard.machine.emulated import ended, said

WORKER = Path(__file__).with_name("worker.py")


class ElsewhereRuntime:
    """An ONNX file in ONNX Runtime of another process, which needs ``onnxruntime`` and ``numpy`` but not qguard.

    Batches are those of qguard's own ONNX Runtime, so that equal kernels give equal vectors.

    Args:
        file: The model file.
        command: What starts Python: an interpreter, with an emulator before it.
        feeding: What the file's inputs and outputs do not say themselves.
        entries: Of the session's configuration, such as ``{"session.x64quantprecision": "1"}``.
        processes: Batches side by side, each in a process of its own; one thread each.
        environment: Variables of the processes beside those of this one; ``None`` as a value removes one.
        name: Of what runs it, for messages.

    Attributes:
        versions: Library → version, as the process told it.
        features: Instruction sets that NumPy found there, by its own names, sorted.

    Raises:
        MeasurementProblem: when the command does not start, or ends.
        ArtifactProblem: when ONNX Runtime of there does not load the file.
    """

    def __init__(
        self,
        file: Path,
        command: Sequence[str],
        *,
        feeding: Feeding | None = None,
        entries: Mapping[str, str] | None = None,
        processes: int = 1,
        environment: Mapping[str, str | None] | None = None,
        name: str = "the other interpreter",
    ) -> None:
        started = [*command, str(WORKER), str(file.absolute()), "1", json.dumps(dict(entries or {}))]
        around = {k: v for k, v in {**os.environ, **(environment or {})}.items() if v is not None and k != "PYTHONPATH"}
        self._name, self._all = name, [_Process(started, around, name) for _ in range(processes)]
        self._finalizer = weakref.finalize(self, _end, self._all)
        told, *_ = [process.hello() for process in self._all]
        self.versions, self.features = dict(told["versions"]), tuple(told["features"])
        if "error" in told:
            release = self.versions["onnxruntime"]
            raise ArtifactProblem(f"ONNX Runtime {release} of {name} cannot load {file.name}: {told['error']}")
        inputs, outputs = ([SimpleNamespace(**port) for port in told[side]] for side in ("inputs", "outputs"))
        self.interface = Interface(of_session(inputs), of_session(outputs), file, feeding)
        self.batch_tokens, self.workers = RUNTIMES["onnx"].batch, processes
        self.room = self.interface.room
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def close(self) -> None:
        """End its processes."""
        self._finalizer()

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        return self.interface(self._run, input_ids, attention_mask, token_type_ids)

    def _run(self, feeds: dict[str, Any]) -> Any:
        process = self._free.get()
        try:
            found = process.ask(**feeds, wanted=np.array(self.interface.output.port.name))
        finally:
            self._free.put(process)
        if "error" in found:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in list(feeds.items())[:3])
            raise ArtifactProblem(f"ONNX Runtime of {self._name} failed on a batch ({shapes}): {found['error']}")
        return found["output"]


class _Process:
    """One worker."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        self._name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (end closes it)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen(command, env=dict(environment), **pipes)  # type: ignore[call-overload]
        except OSError as e:
            raise MeasurementProblem(f"cannot start {Path(command[0]).name}: {e.strerror or e}") from e

    def hello(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = json.loads(str(self._answer()["hello"]))
        return found

    def ask(self, **arrays: Any) -> dict[str, Any]:
        """One request and its answer."""
        held = io.BytesIO()
        np.savez(held, **arrays)
        try:
            self._process.stdin.write(len(held.getvalue()).to_bytes(8, "little") + held.getvalue())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        head = self._process.stdout.read(8)
        body = self._process.stdout.read(int.from_bytes(head, "little")) if len(head) == 8 else b""
        if len(head) < 8 or len(body) < int.from_bytes(head, "little"):
            raise self._ended()
        with np.load(io.BytesIO(body), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def _ended(self) -> MeasurementProblem:
        code = self._process.wait()
        self._errors.seek(0)
        lines = said(self._errors.read().decode(errors="replace"))
        if code < 0:  # whatever it wrote before, somebody else ended it
            more = f" ({lines[-1][:200]})" if lines else ""
            return MeasurementProblem(f"{self._name} ended: {ended(code)}{more}; run it again")
        last = lines[-1][:200] if lines else ended(code)
        return MeasurementProblem(
            f"{self._name} ended: {last}; it needs numpy and an onnxruntime that loads the file: pip install onnxruntime numpy"
        )

    def end(self) -> None:
        """Kill it and let its files go."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _end(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.end()
