"""A candidate's vectors of a suite as one host computed them, in a file that another host's are compared with.

The file stands alone: it holds which texts search which documents, and what they find in fp32, so that hosts are compared where
neither the model nor its golden is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qguard.errors import UsageProblem
from qguard.files import write_atomic

SCHEMA, _ENTRY = "1", "qguard"
_ARRAYS = {"vectors": (2, "float32"), "searchers": (1, "int64"), "documents": (1, "int64"), "neighbours": (2, "int64")}
FACTS = ("model", "suite", "precision", "runtime", "similarity", "suite_sha256", "golden_sha256", "artifact_sha256")


@dataclass(frozen=True)
class HostVectors:
    """Vectors of one host.

    Attributes:
        vectors: float32 (texts, dim).
        searchers: The texts that search, by index (q,).
        documents: The texts that are searched, by index (d,).
        neighbours: What each of them finds in fp32, best first: places in ``documents``, int64 (q, k).
        facts: :data:`FACTS`, each a text; the hash of the artifact is empty where it has no files.
    """

    vectors: Any
    searchers: Any
    documents: Any
    neighbours: Any
    facts: Mapping[str, str]

    def write(self, folder: Path) -> dict[str, str]:
        """Write the file; its name tells what it is of, and which one.

        Returns:
            Its name, as ``file``, and its ``sha256``.

        Raises:
            OSError: when the folder cannot be written.
        """
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype) for name, (_, dtype) in _ARRAYS.items()}
        # one entry: safetensors writes several in another order each time
        facts = json.dumps({"schema": SCHEMA, **{name: self.facts[name] for name in FACTS}}, sort_keys=True)
        data = save(arrays, {_ENTRY: facts})
        digest = hashlib.sha256(data).hexdigest()
        words = "-".join(re.sub(r"[^A-Za-z0-9._@]", "_", self.facts[k]) for k in ("model", "suite", "precision", "runtime"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{words[:120]}-{digest[:16]}.safetensors"
        write_atomic(path, data)
        return {"file": path.name, "sha256": digest}

    @classmethod
    def read(cls, path: Path, sha256: str) -> HostVectors:
        """The vectors of a file.

        Args:
            path: The file.
            sha256: Its hash, as the report of the run has it.

        Raises:
            UsageProblem: for a file that cannot be read, is of another run, or does not hold what it should.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = path.read_bytes()
        except OSError as e:
            raise UsageProblem(f"cannot read {path}: {e.strerror or e}") from e
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UsageProblem(
                f"{path.name} is not the file that the report names (another SHA-256): it is of another run, or damaged; give "
                "the report and the vectors of one run"
            )
        try:
            arrays, facts = load(data), _facts(data)
        except (SafetensorError, ValueError, KeyError) as e:
            raise UsageProblem(f"{path.name}: expected vectors that pytest --qguard-vectors wrote ({e})") from e
        found = cls(**{name: arrays.get(name) for name in _ARRAYS}, facts=facts)
        found._check(path.name)
        return found

    def _check(self, name: str) -> None:
        """The arrays fit each other; the hash of a report proves who wrote them, and not that they are whole."""
        if self.facts.get("schema") != SCHEMA or any(k not in self.facts for k in FACTS):
            raise UsageProblem(f"{name}: another version of qguard wrote it; run pytest again with one version on all hosts")
        for key, (dimensions, dtype) in _ARRAYS.items():
            array = getattr(self, key)
            if array is None or array.ndim != dimensions or array.dtype != np.dtype(dtype) or not len(array):
                raise UsageProblem(f"{name}: expected {key} of {dimensions} dimensions in {dtype}; write the file again")
        texts = len(self.vectors)
        limits = {"searchers": texts, "documents": texts, "neighbours": len(self.documents)}
        inside = all((getattr(self, k) >= 0).all() and (getattr(self, k) < most).all() for k, most in limits.items())
        if not inside or len(self.neighbours) != len(self.searchers) or not np.isfinite(self.vectors).all():
            raise UsageProblem(f"{name}: its arrays do not fit each other, or hold what is no number; write the file again")


def _facts(data: bytes) -> dict[str, str]:
    """The metadata of safetensors' header."""
    size = int.from_bytes(data[:8], "little")
    found = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_ENTRY])
    return {str(k): str(v) for k, v in found.items()}
