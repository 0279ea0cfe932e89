"""Recording a golden: fp32 outputs, confirmed by an independent path, compared with the old ones and stored."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.golden.identity import identity
from qguard.golden.reference import PATHS, confirm, fp32_outputs
from qguard.golden.stored import SCHEMA, golden_folder, locked, read, store
from qguard.models import Model, installed
from qguard.suites import Suite

TOP_K = 10


def record(model: Model, suite: Suite, root: Path, reason: str) -> dict[str, Any]:
    """Record fp32 outputs by sentence-transformers, have plain Transformers confirm them, and store them atomically.

    A model that comes as ONNX alone is recorded and confirmed by :func:`qguard.onnx_reference.reference`.
    A golden that already applies and whose outputs are reproduced byte for byte is left as it is, date included.

    Args:
        model: The fp32 model.
        suite: The texts.
        root: The golden folder of the project.
        reason: Why; kept in the manifest for reviewers.

    Returns:
        A summary: ``changed`` and, where an older golden was readable, ``largest_change`` and ``moved_neighbours``.

    Raises:
        GoldenProblem: when the independent path disagrees, or the folder cannot be written.
    """
    if not reason.strip():
        raise GoldenProblem('a golden needs a reason for its reviewers: --reason "…" (pytest: --golden-reason)')
    if model.onnx is not None:
        from qguard.onnx_reference import reference

        vectors, token_ids, paths = reference(model, suite)
    else:
        vectors, token_ids = fp32_outputs(model, suite)
        confirm(model, suite, vectors, token_ids)
        paths = PATHS
    libraries = ("onnx", "onnxruntime") if model.onnx else ("sentence-transformers", "transformers", "torch")
    data = _pack(vectors, token_ids, suite)
    folder = golden_folder(root, model.name, suite.name)
    manifest = {
        "schema": SCHEMA,
        "model": {"name": model.name, "ref": _public(model.ref), "revision": model.revision},
        "suite": {"name": suite.name, "texts": len(suite.texts)},
        "hashes": identity(model, suite),
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "dim": int(vectors.shape[1]),
        "paths": paths,
        "versions": installed("qguard", *libraries, "tokenizers", "numpy"),
        "host": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
        "reason": reason.strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            summary = _difference(folder, suite, vectors, manifest)
            if summary["changed"]:
                store(folder, data, manifest)
    except OSError as e:
        raise GoldenProblem(
            f"cannot write the golden folder {root.name}/{model.name}/{suite.name}: {e.strerror or e}; "
            "the old golden is untouched"
        ) from e
    return summary


def _public(ref: str) -> str:
    """A local folder is recorded by its last part only: absolute paths say where somebody lives."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def _pack(vectors: NDArray[np.float32], token_ids: list[list[int]], suite: Suite) -> bytes:
    from safetensors.numpy import save

    from qguard.metrics.ranking import top_k

    arrays: dict[str, Any] = {
        "vectors": vectors,
        "token_ids": np.concatenate([np.asarray(i, np.int32) for i in token_ids]),
        "token_offsets": np.cumsum([0, *map(len, token_ids)]).astype(np.int64),
    }
    if suite.queries and suite.documents:
        v = vectors.astype(np.float64)
        order, scores = top_k(v[list(suite.queries)], v[list(suite.documents)], TOP_K)
        arrays["topk_ids"], arrays["topk_scores"] = order.astype(np.int32), scores.astype(np.float32)
    return bytes(save(arrays))


def _difference(folder: Path, suite: Suite, vectors: NDArray[np.float32], manifest: dict[str, Any]) -> dict[str, Any]:
    if not (folder / "manifest.json").exists():
        return {"changed": True}
    try:
        old = read(folder)
    except GoldenProblem as e:
        return {"changed": True, "old": str(e)}
    same = old.manifest["data_sha256"] == manifest["data_sha256"] and old.manifest["hashes"] == manifest["hashes"]
    summary: dict[str, Any] = {"changed": not same}
    if old.vectors.shape == vectors.shape:
        from qguard.metrics.ranking import top_k

        summary["largest_change"] = float(np.abs(old.vectors - vectors).max())
        if len(vectors) > 1:
            a, b = (top_k(v, v, 1, exclude_self=True)[0] for v in (old.vectors.astype(np.float64), vectors.astype(np.float64)))
            summary["moved_neighbours"] = int((a != b).sum())
    return summary


def refuse_in_ci(allowed: bool) -> None:
    """Goldens are recorded by people; under ``CI`` only on explicit request.

    Raises:
        GoldenProblem: under ``CI`` without the flag.
    """
    if os.environ.get("CI") and not allowed:
        raise GoldenProblem("golden updates are refused where CI is set; pass --golden-update-in-ci if that is intended")
