"""llama.cpp, in a worker process of Node.js: token ids go in, pooled vectors come out.

The worker uses what applications in Node.js use, the package node-llama-cpp with its own builds of llama.cpp. It takes token ids
as well as texts, so that vectors are compared with the golden's for the same tokens; what the file's own tokenizer makes of texts
is told apart from them (:meth:`LlamacppRuntime.tokens`). Texts are computed one at a time, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard.errors import ArtifactProblem, MeasurementProblem
from qguard.gguf.read import read_gguf
from qguard.javascript.settings import JavaScript
from qguard.javascript.worker import NodeWorker, RefusedByWorker
from qguard.machine.cpu import cores

PACKAGE = "node-llama-cpp"


class LlamacppRuntime:
    """A GGUF file in llama.cpp.

    Args:
        file: The file.
        precision: Not needed: the file says what it computes in.
        threads: Threads that compute one text; ``None`` for one thread and as many texts side by side as there are cores, less
            one: with all of them, a machine that does something else as well never comes to an end.
        javascript: Where Node.js and the package are.

    Attributes:
        versions: Of node-llama-cpp, llama.cpp and Node.js.
        room: Tokens of a text that the file has positions for.
        spent: Nanoseconds of the last call in the worker: wall-clock time, and processor time of all threads.

    Raises:
        ArtifactProblem: when the file is damaged or llama.cpp does not load it.
        MeasurementProblem: where Node.js or the package is absent.
    """

    def __init__(
        self, file: Path, precision: str = "fp32", threads: int | None = None, javascript: JavaScript | None = None
    ) -> None:
        self.room: int | None = read_gguf(file).number("context_length") or None  # a damaged file reaches no other software
        where = javascript or JavaScript()
        lanes = 1 if threads else max(1, cores() - 1)
        self._worker = NodeWorker("llamacpp.mjs", where.modules, where.node, where.timeout, [PACKAGE])
        try:
            facts = self._worker.ask("open", file=str(file.absolute()), lanes=lanes, threads=threads or 1).values
        except RefusedByWorker as e:
            raise ArtifactProblem(f"llama.cpp cannot load {file.name}: {e}; convert or copy it again") from e
        self.versions = {
            **self._worker.packages.need(PACKAGE),
            "llama.cpp": str(facts["release"]),
            "Node.js": self._worker.versions["node"],
        }
        self.spent = (0, 0)

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """Pooled vectors, float32 (batch, dim), of any length; see :class:`qguard.encoders.Runtime`."""
        rows = [ids[mask > 0] for ids, mask in zip(np.asarray(input_ids), np.asarray(attention_mask), strict=True)]
        arrays = {"ids": np.concatenate(rows).astype(np.int32), "lengths": np.asarray([len(r) for r in rows], np.int32)}
        try:
            answer = self._worker.ask("embed", arrays)
        except RefusedByWorker as e:
            raise MeasurementProblem(f"llama.cpp failed on {len(rows)} texts of up to {max(map(len, rows))} tokens: {e}") from e
        self.spent = int(answer.values["wall"]), int(answer.values["cpu"])
        return answer.arrays["vectors"]

    def peak_bytes(self) -> int:
        """Peak memory of the worker."""
        return int(self._worker.ask("memory").values["peak"])

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts by the file's own tokenizer, without tokens around them, and of any length."""
        return self._worker.token_ids(texts)
