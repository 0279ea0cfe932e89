"""What is timed: a runtime on one padded batch, in this process or in another interpreter's."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qguard.encoders.feeding import Feeding
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import MeasurementProblem
from qguard.javascript.settings import JavaScript
from qguard.kinds import DENSE
from qguard.latency.fresh import last_words

Batch = tuple[Any, ...]  # input_ids, attention_mask and, of pairs, token_type_ids, each int64 (batch, tokens)


@dataclass(frozen=True)
class ArmSpec:
    """An arm as values, so that a fresh process can build the same one.

    Attributes:
        runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        path: The ONNX file, or the folder of a torch model.
        precision: See :func:`qguard.encoders.open_runtime`.
        threads: Threads of one run.
        python: Another environment's interpreter (ONNX Runtime only), or ``None`` for this process.
        device: Where it computes, ``cpu`` or ``cuda``.
        feeding: What an ONNX file does not say of its inputs and outputs.
        kind: Of the model.
        javascript: Where JavaScript is found.
    """

    runtime: str
    path: str
    precision: str
    threads: int = 1
    python: str | None = None
    device: str = "cpu"
    feeding: Feeding = field(default_factory=Feeding)
    kind: str = DENSE
    javascript: JavaScript = field(default_factory=JavaScript)

    redrawn = True

    @property
    def marks(self) -> dict[str, Any]:
        """What its times depend on, beside this machine: nothing."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"javascript": self.javascript.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ArmSpec:
        """What :meth:`to_json` gave."""
        return cls(
            **{**values, "feeding": Feeding(**values["feeding"]), "javascript": JavaScript.from_json(values["javascript"])}
        )

    def open_runtime(self) -> Any:
        """The runtime of :mod:`qguard.encoders`, on ``threads`` threads."""
        from qguard.encoders import of_kind, open_runtime

        told = of_kind(RUNTIMES.find(self.runtime), self.kind)
        return open_runtime(
            self.runtime, Path(self.path), self.precision, self.threads, self.device, self.feeding, self.javascript, **told
        )

    def arm(self, batch: Batch, first: Callable[[ArmSpec], Any] | None = None) -> LocalArm | WorkerArm:
        """The arm itself.

        Args:
            batch: What is timed.
            first: Gives the runtime of the arm's first session, which several trials may share; ``None`` opens one.
        """
        return WorkerArm(self, batch, self.python) if self.python else LocalArm(self, batch, first)


class LocalArm:
    """A runtime in this process."""

    def __init__(self, spec: ArmSpec, batch: Batch, first: Callable[[ArmSpec], Any] | None = None) -> None:
        self._spec, self._batch, self._first = spec, batch, first
        self._runtime: Any = None

    def open(self) -> None:
        """Create the session anew; the first may be one that is open already."""
        opened, self._first = self._first, None
        self._runtime = opened(self._spec) if opened else self._spec.open_runtime()

    def close(self) -> None:
        """Let the session go."""
        self._runtime = None

    def block(self, discard: int, timed: int) -> list[tuple[int, int]]:
        """See :class:`qguard.latency.trial.Arm`."""
        run = self._runtime.first_tokens if self._spec.device == "cuda" else self._runtime
        for _ in range(discard):
            run(*self._batch)
        timings = []
        for _ in range(timed):
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            run(*self._batch)
            if own := getattr(self._runtime, "spent", None):  # a worker measures itself
                timings.append(own)
                continue
            # a run returns when its device is done; a thread that waits for CUDA may sleep, and was not interrupted
            spent = time.perf_counter_ns() - wall
            timings.append((spent, spent if self._spec.device == "cuda" else time.thread_time_ns() - cpu))
        return timings


class WorkerArm:
    """An ONNX file in another interpreter, which needs onnxruntime and numpy but not qguard.

    Raises:
        MeasurementProblem: when the interpreter cannot be started or the worker ends.
    """

    def __init__(self, spec: ArmSpec, batch: Batch, python: str) -> None:
        if spec.runtime != "onnx":
            raise MeasurementProblem("another interpreter can time artifacts in ONNX Runtime only")
        self._spec, self._batch, self._python = spec, batch, python
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def _run(self) -> tuple[dict[str, Any], str]:
        """The session's inputs and the name of its output, found out once and not for every session."""
        from qguard.encoders.onnx import OnnxRuntime

        interface = OnnxRuntime(Path(self._spec.path), feeding=self._spec.feeding).interface
        return interface.feeds(*self._batch), interface.output.port.name

    def open(self) -> None:
        """Start the worker and wait until it has loaded the model."""
        import numpy as np

        self._folder = tempfile.TemporaryDirectory()
        feeds = Path(self._folder.name, "feeds.npz")
        values, output = self._run
        np.savez(feeds, **values)
        worker = str(Path(__file__).with_name("worker.py"))
        command = [self._python, worker, self._spec.path, str(feeds), str(self._spec.threads), output]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as e:
            raise MeasurementProblem(f"cannot start the interpreter {Path(self._python).name}: {e.strerror or e}") from e
        self._answer()  # its version: the model is loaded

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._folder is not None:
            self._folder.cleanup()
        self._process = self._folder = None

    def block(self, discard: int, timed: int) -> list[tuple[int, int]]:
        """See :class:`qguard.latency.trial.Arm`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{discard} {timed}\n")
        self._process.stdin.flush()
        return [(wall, cpu) for wall, cpu in self._answer()]

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, error = self._process.communicate()
            raise MeasurementProblem(
                f"the baseline interpreter ended: {last_words(error)}; it needs numpy and an onnxruntime that loads the file"
            )
        return json.loads(line)
