"""Files: hashes, atomic writes and paths that stay inside their folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qguard.errors import ArtifactProblem, QguardError, UsageProblem


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def dump_json(value: Any) -> bytes:
    """A JSON value as stable, readable bytes: sorted keys, two spaces, a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path, problem: type[QguardError]) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        QguardError: of class ``problem`` when the file is unreadable, not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise problem(f"cannot read {path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:  # not UTF-8, not JSON, or a number of more digits than Python reads
        raise problem(f"{path} is not valid JSON ({e})") from e
    if not isinstance(value, dict):
        raise problem(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, refused when it would leave ``folder`` (``..``, absolute paths, links).

    The hub's cache keeps the files of a snapshot beside it, in ``blobs``: links from a snapshot there do not leave it.

    Raises:
        ArtifactProblem: if the resolved path is outside the resolved folder.
    """
    try:
        path = (folder / relative).resolve()
    except (ValueError, OSError) as e:  # a NUL, a lone surrogate, a name that is too long
        raise ArtifactProblem(f"{folder.name}: {relative[:80]!r} is no path ({e})") from e
    if not path.is_relative_to(folder.resolve()) and not _is_blob(folder, relative, path):
        raise ArtifactProblem(
            f"{folder.name}: the path {relative!r} leaves the folder; files of a model or an artifact must lie inside it"
        )
    return path


def _is_blob(folder: Path, relative: str, path: Path) -> bool:
    """Whether ``folder / relative`` is a link of a snapshot in a hub cache, and ``path`` a file of the same repository."""
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        return False
    whole = folder.absolute()
    return any(
        p.parent.name == "snapshots" and path.parent == (p.parents[1] / "blobs").resolve() for p in (whole, *whole.parents)
    )


def cache_folder() -> Path:
    """Where artifacts and locks are kept: ``QGUARD_CACHE``, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("QGUARD_CACHE") or platformdirs.user_cache_dir("qguard"))


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a kill at any moment, sees the whole old or the whole new file.

    Raises:
        OSError: when the folder is read-only or the disk is full; the old file is then untouched.
    """
    staged(path, data).replace(path)
    sync_folder(path.parent)


def write_kept(path: Path, data: bytes) -> None:
    """Write a file of the cache that can be made again; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError:
        return


def staged(path: Path, data: bytes) -> Path:
    """``data`` in a temporary file beside ``path``, flushed to disk and ready to be renamed to it; nothing is left on an error.

    Raises:
        OSError: as :func:`write_atomic`.
    """
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with work.open("xb") as f:  # with the rights that the user's umask leaves
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if path.exists():
            shutil.copymode(path, work)  # what is replaced keeps its own
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    return work


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a crash; Windows opens no folders, and NTFS logs renames."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replaces(folder: Path, force: bool, what: str) -> bool:
    """Whether ``--out`` names a folder that holds something, which ``--force`` may replace.

    Args:
        folder: Of ``--out``.
        force: Whether it was given.
        what: A noun for what it may hold, such as ``artifact``.

    Raises:
        UsageProblem: for a link, a file, and without ``force`` a folder that is not empty.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageProblem(f"--out {folder}: expected a folder, found {'a link' if folder.is_symlink() else 'a file'}")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not force:
        raise UsageProblem(f"--out {folder} is not empty; choose another folder, or replace the {what} in it with --force")
    return True


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to be made, which takes the place of ``folder`` at the end; a kill at any moment leaves the old or the new one.

    Raises:
        OSError: when the disk does not take it; the old one is then there.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    work.mkdir()
    try:
        yield work / "new"
        if folder.exists():
            folder.rename(work / "old")
        (work / "new").rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        if (work / "old").exists() and not folder.exists():
            (work / "old").rename(folder)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def copy_files(source: Path, target: Path) -> None:
    """Copy a folder's files to a new folder, with the rights that the user's umask leaves, whatever the source's are.

    Raises:
        OSError: when one cannot be read or written.
    """
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_files(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def tree_hashes(folder: Path, skip: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, keyed by its relative POSIX path; links are refused by :func:`inside`."""
    left_out = set(skip)
    return {
        rel: sha256_file(inside(folder, rel))
        for p in sorted(folder.rglob("*"))
        if p.is_file() and (rel := p.relative_to(folder).as_posix()) not in left_out
    }
