"""Goldens: stored fp32 outputs of one model on one suite, and proof that they still apply."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.files import cache_folder, dump_json, read_json, sha256_json, write_atomic
from qguard.models import Model, installed
from qguard.suites import Suite

SCHEMA = 1
TOP_K = 10
# The independent path differs from sentence-transformers only by rounding.
AGREEMENT = 1e-5
PATHS = {"recorded": "sentence-transformers", "confirmed": "Transformers with the declared pooling"}


@dataclass(frozen=True)
class Golden:
    """Recorded fp32 outputs.

    Attributes:
        vectors: float32 (texts, dim).
        token_ids: One list per text, special tokens included.
        manifest: What it was recorded from; see DESIGN in the documentation.
    """

    folder: Path
    vectors: NDArray[np.float32]
    token_ids: list[list[int]]
    manifest: dict[str, Any]


def update_command(model: str, suite: str) -> str:
    """The command that records a golden anew."""
    return f'qguard golden update --model {model} --suite {suite} --reason "…"'


def identity(model: Model, suite: Suite) -> dict[str, str]:
    """The hashes that must be equal for a golden to apply."""
    return {
        "weights": model.weight_sha256,
        "tokenizer": model.tokenizer_sha256,
        "pipeline": model.pipeline.sha256(),
        "suite": suite.sha256,
    }


def golden_folder(root: Path, model: str, suite: str) -> Path:
    """``root/<model>/<suite>``."""
    return root / model / suite


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
        vectors, token_ids = _reference(model, suite)
        _confirm(model, suite, vectors, token_ids)
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
        with _locked(folder):
            summary = _difference(folder, suite, vectors, manifest)
            if summary["changed"]:
                _store(folder, data, manifest)
    except OSError as e:
        raise GoldenProblem(
            f"cannot write the golden folder {root.name}/{model.name}/{suite.name}: {e.strerror or e}; "
            "the old golden is untouched"
        ) from e
    return summary


def _public(ref: str) -> str:
    """A local folder is recorded by its last part only: absolute paths say where somebody lives."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def _reference(model: Model, suite: Suite) -> tuple[NDArray[np.float32], list[list[int]]]:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    st = SentenceTransformer(str(model.folder), device="cpu", trust_remote_code=False, local_files_only=True)
    st.float()
    if "max_seq_length" in model.settings:
        st.max_seq_length = model.pipeline.max_seq_length
    st.default_prompt_name = None  # every text gets the prompt of its role, which the pipeline knows
    prefixes = [model.pipeline.prefix(role) for role in suite.roles]
    parts = {}
    for prefix in dict.fromkeys(prefixes):
        rows = [i for i, p in enumerate(prefixes) if p == prefix]
        texts = [suite.texts[i] for i in rows]
        parts[prefix] = rows, st.encode(texts, prompt=prefix or None, show_progress_bar=False, convert_to_numpy=True)
    vectors = np.empty((len(suite.texts), next(iter(parts.values()))[1].shape[1]), np.float32)
    for rows, found in parts.values():
        vectors[rows] = found
    ids: list[list[int]] = []
    for prefix, text in zip(prefixes, suite.texts, strict=True):
        features = st.preprocess([prefix + text])
        ids.append([int(i) for i in features["input_ids"][0]])
    return vectors, ids


def _confirm(model: Model, suite: Suite, vectors: NDArray[np.float32], token_ids: list[list[int]]) -> None:
    """Plain Transformers with the declared pooling must agree before anything is written."""
    from qguard.encoders import open_encoder

    if not np.isfinite(vectors).all():
        raise GoldenProblem("sentence-transformers returned NaN or infinite values in fp32; nothing was written")
    encoder = open_encoder("torch", model.folder, model.pipeline, "fp32")
    for i, (want, found) in enumerate(zip(token_ids, encoder.tokenizer(suite.texts, suite.roles), strict=True)):
        if want != found:
            raise GoldenProblem(
                f"the independent tokenizer disagrees with sentence-transformers on text {i} ({suite.texts[i][:60]!r}): "
                f"{found[:8]}… against {want[:8]}…; nothing was written"
            )
    other = encoder.encode_ids(token_ids).astype(np.float64)
    scale = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    error = np.abs(other - vectors).max(1) / scale
    if error.max() > AGREEMENT:
        raise GoldenProblem(
            f"the independent path (plain Transformers, declared pooling) disagrees with sentence-transformers: largest "
            f"difference {error.max():.2g} on {suite.texts[int(error.argmax())][:60]!r}, allowed {AGREEMENT}; nothing was written"
        )


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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    # in the cache: a lock file beside the golden would end up in version control
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(cache_folder() / "locks" / f"golden-{name}.lock", timeout=120)
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        with lock:
            yield
    except Timeout as e:
        raise GoldenProblem(f"another process has been updating {folder.name} for two minutes; try again when it is done") from e


def _store(folder: Path, data: bytes, manifest: dict[str, Any]) -> None:
    """Data under its own hash first, then the manifest that names it in one rename: a kill leaves the old or the new pair."""
    name = f"golden-{manifest['data_sha256'][:16]}.safetensors"
    write_atomic(folder / name, data)
    write_atomic(folder / "manifest.json", dump_json(seal({**manifest, "data_file": name})))
    for old in [*folder.glob("golden-*.safetensors"), *folder.glob(".*.tmp")]:
        if old.name != name:
            old.unlink(missing_ok=True)


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the SHA-256 of everything else in it, so that an edit by hand is seen."""
    rest = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return {**rest, "manifest_sha256": sha256_json(rest)}


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


def read(folder: Path) -> Golden:
    """Read a golden and check that it is whole.

    A writer may replace the data file between our two reads; then the manifest has changed too, and we read again.

    Raises:
        GoldenProblem: when it is missing, truncated, edited, or of another schema.
    """
    where = f"golden {folder.parent.name}/{folder.name}"
    mend = update_command(folder.parent.name, folder.name)
    if not (folder / "manifest.json").exists():
        raise GoldenProblem(f"{where} does not exist; record it with: {mend}")
    manifest: dict[str, Any] = {}
    data: bytes | None = None
    name = ""
    unchanged = 0
    for _ in range(100):
        manifest = read_json(folder / "manifest.json", GoldenProblem)
        name = str(manifest.get("data_file", ""))
        try:
            data = (folder / name).read_bytes() if name and Path(name).name == name else None
            break
        except OSError:
            # two writers in turn may put the very same manifest back between our reads: missing is what stays missing
            unchanged = unchanged + 1 if read_json(folder / "manifest.json", GoldenProblem) == manifest else 0
            if unchanged == 10:
                break
            time.sleep(0.005)
    if manifest.get("schema") != SCHEMA:
        raise GoldenProblem(f"{where}: schema {manifest.get('schema')!r}, expected {SCHEMA}; record it anew: {mend}")
    if manifest != seal(manifest):
        raise GoldenProblem(
            f"{where}: manifest.json was edited by hand (its manifest_sha256 does not fit); restore it from version control, "
            f"or: {mend}"
        )
    if data is None:
        raise GoldenProblem(f"{where}: its data file {name!r} is missing; restore it from version control, or: {mend}")
    if hashlib.sha256(data).hexdigest() != manifest.get("data_sha256"):
        raise GoldenProblem(
            f"{where}: {name} ({len(data)} bytes) is truncated or was edited: its SHA-256 is not the manifest's; "
            f"restore both from version control, or: {mend}"
        )
    from safetensors.numpy import load

    try:
        arrays = load(data)
        offsets, flat = arrays["token_offsets"], arrays["token_ids"].tolist()
        ids = [flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        golden = Golden(folder, arrays["vectors"], ids, manifest)
        whole = set(manifest["hashes"]) == {"weights", "tokenizer", "pipeline", "suite"}
    except Exception as e:  # the binding has its own error types
        raise GoldenProblem(f"{where} is damaged ({e!r}); restore it from version control, or: {mend}") from e
    if not whole or len(ids) != len(golden.vectors) or not np.isfinite(golden.vectors).all():
        raise GoldenProblem(f"{where} is damaged: its parts do not fit together; restore it, or: {mend}")
    return golden


def check(golden: Golden, model: Model, suite: Suite) -> None:
    """A golden must be of this very model, tokenizer, pipeline and suite.

    Raises:
        GoldenProblem: naming every part that differs.
    """
    want, have = identity(model, suite), golden.manifest["hashes"]
    differs = [k for k in want if want[k] != have[k]]
    if differs:
        kind = "foreign: it was recorded for another model" if "weights" in differs else "stale"
        raise GoldenProblem(
            f"golden {model.name}/{suite.name} is {kind}; {', '.join(differs)} differ "
            f"({', '.join(f'{k} {have[k][:8]} → {want[k][:8]}' for k in differs)}). "
            f"If the change is intended: {update_command(model.name, suite.name)}"
        )


def compare_tokens(golden: Golden, suite: Suite, token_ids: list[list[int]]) -> None:
    """Token ids must equal the golden's before any vector is compared.

    Raises:
        GoldenProblem: with the first text that differs.
    """
    wrong = [i for i, (a, b) in enumerate(zip(golden.token_ids, token_ids, strict=True)) if a != b]
    if wrong:
        i = wrong[0]
        a, b = golden.token_ids[i], token_ids[i]
        at = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        raise GoldenProblem(
            f"token ids differ from the golden's in {len(wrong)} of {len(token_ids)} texts: the artifact's tokenizer is not the "
            f"model's (casing, accents, special tokens, length?). First: {suite.texts[i][:60]!r}, position {at}: "
            f"{b[at : at + 5]} against the golden's {a[at : at + 5]}; lengths {len(b)} and {len(a)}"
        )


def refuse_in_ci(allowed: bool) -> None:
    """Goldens are recorded by people; under ``CI`` only on explicit request.

    Raises:
        GoldenProblem: under ``CI`` without the flag.
    """
    if os.environ.get("CI") and not allowed:
        raise GoldenProblem("golden updates are refused where CI is set; pass --golden-update-in-ci if that is intended")


def describe(golden: Golden) -> str:
    """The manifest as readable JSON."""
    return json.dumps(golden.manifest, indent=2, sort_keys=True, ensure_ascii=False)
