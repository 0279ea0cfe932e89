"""fp32's vectors of generated texts: computed once, and kept in the cache, since equal texts are tried in every run."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from qguard.encoders import Encoder
from qguard.files import cache_folder, sha256_json, write_kept

LARGEST = 4000  # texts that are kept


class Exact:
    """fp32 of texts, which is run for those that are not known yet.

    Args:
        encode: Token ids of n texts → float64 (n, dim), or what another kind of model gives.
        key: Everything that decides its outputs: the artifact, the runtime and the machine; ``None`` keeps nothing.
    """

    def __init__(self, encode: Callable[[Sequence[Sequence[int]]], Any], key: Any = None) -> None:
        self._encode = encode
        self._file = None if key is None else cache_folder() / "robustness" / f"fp32-{sha256_json(key)[:16]}.npz"
        self._kept = _read(self._file) if self._file is not None else {}
        self._used: dict[str, Any] = {}
        self._new = False
        self._lock = Lock()

    @classmethod
    def of(cls, opened: Callable[[], Encoder], key: Any = None) -> Exact:
        """Of an encoder, which is opened when it is needed; each text is a batch of its own."""
        encoder = cache(opened)
        return cls(lambda ids: encoder().encode_batches(ids, [[k] for k in range(len(ids))]).astype(np.float64), key)

    def __call__(self, ids: Sequence[Sequence[int]]) -> list[Any]:
        """The outputs of each text, float64 (1, dim)."""
        with self._lock:  # batches are tried side by side
            return self._of(ids)

    def _of(self, ids: Sequence[Sequence[int]]) -> list[Any]:
        names = [_name(row) for row in ids]
        missing = {n: row for n, row in zip(names, ids, strict=True) if n not in self._used and n not in self._kept}
        if missing:
            found = self._encode(list(missing.values()))
            self._used |= {name: found[k : k + 1] for k, name in enumerate(missing)}
            self._new = True
        self._used |= {n: self._kept[n] for n in names if n in self._kept and n not in self._used}
        return [self._used[n] for n in names]

    def keep(self) -> None:
        """Write what was used to the cache, where that is anything new; a cache that cannot be written is none."""
        rows = {n: v for n, v in self._used.items() if isinstance(v, np.ndarray) and v.ndim == 2}
        if self._file is None or not self._new or not rows or len(rows) > LARGEST:
            return
        buffer = io.BytesIO()
        vectors = np.concatenate(list(rows.values())).astype(np.float32)
        np.savez(buffer, names=np.frombuffer(json.dumps(list(rows)).encode(), np.uint8), vectors=vectors)
        write_kept(self._file, buffer.getvalue())


def _name(ids: Sequence[int]) -> str:
    types = getattr(ids, "types", None)
    return hashlib.sha256(repr((list(ids), types, getattr(ids, "role", None))).encode()).hexdigest()


def _read(file: Path) -> dict[str, Any]:
    """What an earlier run kept; nothing where it is not there or damaged."""
    try:
        with np.load(file, allow_pickle=False) as data:
            names, vectors = json.loads(bytes(data["names"]).decode()), data["vectors"]
        if vectors.ndim != 2 or len(names) != len(vectors) or not np.isfinite(vectors).all():
            return {}
    except Exception:  # zip's and NumPy's own errors: it can be computed again
        return {}
    return {str(n): v[None].astype(np.float64) for n, v in zip(names, vectors, strict=True)}
