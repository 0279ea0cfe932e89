"""An encoder whose batches are kept in the cache, for a runtime that takes seconds for a text: an interrupted run goes on."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders import Encoder, Floats, Runtime
from qguard.encoders.pooling import Head
from qguard.encoders.tokenizer import TextTokenizer
from qguard.files import write_kept


class LaterRuntime:
    """A runtime that is opened when its first batch is computed.

    Args:
        opened: What opens it.
        batch_tokens: See :class:`qguard.encoders.Runtime`.
        workers: The same.
    """

    def __init__(self, opened: Callable[[], Runtime], batch_tokens: int, workers: int) -> None:
        self.batch_tokens, self.workers = batch_tokens, workers
        self._open, self._lock, self._found = opened, threading.Lock(), list[Any]()

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        with self._lock:
            if not self._found:
                self._found.append(self._open())
        return self._found[0](input_ids, attention_mask, token_type_ids)

    def close(self) -> None:
        """Close it where it was opened, and can be."""
        for runtime in self._found:
            getattr(runtime, "close", lambda: None)()
        self._found.clear()


class KeptEncoder(Encoder):
    """An encoder that looks for each batch in a folder first.

    Args:
        tokenizer: See :class:`qguard.encoders.Encoder`.
        runtime: The same.
        head: The same.
        folder: Of everything that decides the vectors but the token ids; its name holds a hash of that.
        advance: Is told how many texts are done, after each batch.
    """

    def __init__(
        self, tokenizer: TextTokenizer, runtime: Runtime, head: Head, folder: Path, advance: Callable[[int], None]
    ) -> None:
        super().__init__(tokenizer, runtime, head)
        self._folder, self._advance, self._lock = folder, advance, threading.Lock()

    def _batch(self, ids: Sequence[Any], padding: int = 0) -> Floats:
        found = self._kept(ids, padding)
        with self._lock:
            self._advance(len(ids))
        return found

    def _kept(self, ids: Sequence[Any], padding: int) -> Floats:
        path = self._folder / f"{_digest(ids, padding)}.npy"
        if (kept := _read(path, len(ids))) is not None:
            return kept
        found = super()._batch(ids, padding)
        held = io.BytesIO()
        np.save(held, found, allow_pickle=False)
        write_kept(path, held.getvalue())
        return found


def _digest(ids: Sequence[Any], padding: int) -> str:
    """Of the rows of one batch, in their order."""
    found = hashlib.sha256(f"{padding}".encode())
    for row in ids:
        found.update(np.asarray(list(row), np.int64).tobytes() + b"|")
        found.update(repr([getattr(row, name, None) for name in ("attended", "role", "prompt", "types")]).encode())
    return found.hexdigest()[:32]


def _read(path: Path, rows: int) -> Floats | None:
    """The vectors of a batch; ``None`` where they are not there, or damaged."""
    try:
        found: Floats = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == np.float32 and found.ndim == 2 and len(found) == rows and bool(np.isfinite(found).all())
    return found if whole else None
