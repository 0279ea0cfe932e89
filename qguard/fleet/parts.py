"""Files that tasks need, by hash: used where a machine has them at the same path, else sent once and kept in its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from qguard.cache import built_once
from qguard.errors import ArtifactProblem
from qguard.files import cache_folder, inside, sha256_file, sha256_json


@dataclass(frozen=True)
class Part:
    """Some files of a folder.

    Attributes:
        name: What tasks call it.
        folder: Where it is on the machine that sends it.
        files: Path in the folder → SHA-256 and bytes.
    """

    name: str
    folder: Path
    files: Mapping[str, tuple[str, int]]

    @classmethod
    def of(cls, name: str, folder: Path, files: Iterable[Path]) -> Part:
        """Files below a folder.

        Raises:
            OSError: when one cannot be read.
        """
        found = sorted({p.relative_to(folder).as_posix(): p for p in files}.items())
        return cls(name, folder.absolute(), {name: (sha256_file(p), p.stat().st_size) for name, p in found})

    @classmethod
    def of_path(cls, name: str, path: Path, wanted: Callable[[Path], bool] = lambda path: True) -> Part:
        """A file, or those of a folder and of the folders in it that are not hidden."""
        if path.is_file():
            return cls.of(name, path.parent, [path])
        files = [p for p in path.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.relative_to(path).parts)]
        return cls.of(name, path, [p for p in files if wanted(p)])

    @cached_property
    def key(self) -> str:
        """SHA-256 over names and hashes, wherever the files are."""
        return sha256_json([self.name, sorted((n, *f) for n, f in self.files.items())])

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return {"name": self.name, "folder": str(self.folder), "files": {n: list(f) for n, f in self.files.items()}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Part:
        """As it was sent."""
        return cls(found["name"], Path(found["folder"]), {n: (f[0], f[1]) for n, f in found["files"].items()})

    def contents(self) -> dict[str, bytes]:
        """The bytes of every file, for a machine that does not have them.

        Raises:
            ArtifactProblem: when one changed since it was hashed.
        """
        found = {name: (self.folder / name).read_bytes() for name in self.files}
        self._prove(found)
        return found

    def here(self) -> Path | None:
        """The folder on this machine that holds exactly these files: at the same path, or in the cache; ``None`` for neither."""
        return _found(self.folder, self._cached, tuple((n, *f) for n, f in self.files.items()))

    def keep(self, contents: Mapping[str, bytes]) -> Path:
        """Keep what was sent in the cache of this machine; once, however many processes ask.

        Raises:
            ArtifactProblem: for other files than those that were announced.
        """
        self._prove(contents)

        def fill(work: Path) -> None:
            for name, data in contents.items():
                path = inside(work, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

        built_once(self._cached, lambda: self._cached if self._whole(self._cached) else None, fill)
        return self._cached

    @property
    def _cached(self) -> Path:
        return cache_folder() / f"sent-{self.key[:16]}"

    def _whole(self, folder: Path) -> bool:
        return _holds(folder, tuple((n, *f) for n, f in self.files.items()))

    def _prove(self, contents: Mapping[str, bytes]) -> None:
        import hashlib

        for name, (digest, _) in self.files.items():
            if name not in contents or hashlib.sha256(contents[name]).hexdigest() != digest:
                raise ArtifactProblem(f"{self.name}: {name} changed while the run used it; run again")


@lru_cache(64)  # a process hashes large files once
def _found(folder: Path, cached: Path, files: tuple[tuple[str, str, int], ...]) -> Path | None:
    return next((f for f in (folder, cached) if _holds(f, files)), None)


def _holds(folder: Path, files: tuple[tuple[str, str, int], ...]) -> bool:
    try:
        sizes = all((folder / name).stat().st_size == size for name, _, size in files)
        return sizes and all(sha256_file(folder / name) == digest for name, digest, _ in files)
    except OSError:
        return False
