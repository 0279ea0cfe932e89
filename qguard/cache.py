"""Folders of the cache: built once, whole or not at all, and used where nothing can be written."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def built_once(folder: Path, whole: Callable[[], T | None], fill: Callable[[Path], None]) -> T:
    """What a folder of the cache holds, built at most once however many processes ask.

    A folder that is whole is used without a lock, so that a cache which was built before may be read-only.

    Args:
        folder: Where it lies.
        whole: What it holds; ``None`` where it is not there, or not what was built.
        fill: Fills an empty folder, which is renamed into place when it is whole.

    Raises:
        OSError: when the cache has to be written and cannot be.
    """
    if (found := whole()) is not None:
        return found
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(folder)):
        if (found := whole()) is not None:  # another process built it meanwhile
            return found
        if folder.exists():
            shutil.rmtree(folder)
        sweep(folder)
        work = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        try:
            work.mkdir()  # with the rights that the user's umask leaves: others may use what one has built
            fill(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if (found := whole()) is None:
            raise OSError(f"{folder.name} is not what was just built")
        return found


def lock_of(folder: Path) -> Path:
    """The file whose lock whoever builds a folder holds."""
    return folder.with_name(f"{folder.name}.lock")


def sweep(folder: Path) -> None:
    """Remove what killed builds left beside a folder whose lock is held: the work of builds that nobody is at any more."""
    from filelock import FileLock, Timeout

    for work, target in _works(folder.parent):
        try:
            if target == folder:
                shutil.rmtree(work, ignore_errors=True)
                continue
            with FileLock(lock_of(target), timeout=0):  # whoever builds it holds that
                shutil.rmtree(work, ignore_errors=True)
        except (Timeout, OSError):
            continue


def _works(place: Path) -> Iterator[tuple[Path, Path]]:
    """Work folders, with the folder that each was to become."""
    for path in place.iterdir():
        target, dot, _ = path.name.removeprefix(".").rpartition(".")
        if path.name.startswith(".") and dot and target and lock_of(place / target).exists() and path.is_dir():
            yield path, place / target
