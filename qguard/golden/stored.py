"""A golden as files: data under its own hash, and the manifest that names and seals it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import GoldenProblem
from qguard.files import cache_folder, dump_json, read_json, sha256_json, write_atomic

SCHEMA = 1


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


def golden_folder(root: Path, model: str, suite: str) -> Path:
    """``root/<model>/<suite>``."""
    return root / model / suite


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
    for _ in range(100):
        manifest = read_json(folder / "manifest.json", GoldenProblem)
        name = str(manifest.get("data_file", ""))
        try:
            data = (folder / name).read_bytes() if name and Path(name).name == name else None
            break
        except OSError:
            if read_json(folder / "manifest.json", GoldenProblem) == manifest:
                break
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time."""
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


def store(folder: Path, data: bytes, manifest: dict[str, Any]) -> None:
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


def describe(golden: Golden) -> str:
    """The manifest as readable JSON."""
    return json.dumps(golden.manifest, indent=2, sort_keys=True, ensure_ascii=False)
