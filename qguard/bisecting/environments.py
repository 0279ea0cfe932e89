"""Environments of packages: made once, kept in qguard's cache, and never taken for whole when they are not."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement

from qguard.bisecting.index import Index, interpreter, plain
from qguard.boundary import step
from qguard.cache import built_once, lock_of
from qguard.errors import MeasurementProblem
from qguard.files import cache_folder, read_json, sha256_file, sha256_json
from qguard.version import __version__

RECORD = "environment.json"


@dataclass(frozen=True)
class Conflict:
    """A requirement that an environment does not meet.

    Attributes:
        owner: The distribution that has it.
        version: Of the owner.
        name: The distribution that it is about.
        specifier: What is required of it.
        found: The version that is there; empty for none.
    """

    owner: str
    version: str
    name: str
    specifier: str
    found: str

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.owner} {self.version} needs {self.name}{self.specifier}, found {self.found or 'none'}"


@dataclass(frozen=True)
class Environment:
    """An environment of the cache.

    Attributes:
        folder: Its place in the cache.
        installed: Distribution → version.
        conflicts: Requirements that are not met.
        note: What else is to be known of it.
    """

    folder: Path
    installed: Mapping[str, str]
    conflicts: tuple[Conflict, ...] = ()
    note: str = ""

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(interpreter(self.folder / "env"))


def place() -> Path:
    """The folder of all environments."""
    return cache_folder() / "environments"


def environment(
    index: Index,
    requirements: Sequence[str],
    *,
    dependencies: bool = True,
    alone: Sequence[str] = (),
    refresh: bool = False,
) -> Environment:
    """The environment of some requirements, made where it is not in the cache.

    Args:
        index: Where packages come from.
        requirements: As pip takes them.
        dependencies: Also install what they need.
        alone: More requirements, without what they need.
        refresh: Make it anew.

    Raises:
        MeasurementProblem: when it cannot be made, with the installer's words.
    """
    wanted, only = sorted(requirements), sorted(alone)
    python = [sys.implementation.name, sys.version, sysconfig.get_platform(), str(Path(sys.executable).resolve())]
    folder = place() / sha256_json([python, wanted, only, dependencies, index.key])[:24]
    if refresh:
        remove(folder)

    def whole() -> Environment | None:
        if not (folder / RECORD).is_file() or not interpreter(folder / "env").exists():
            return None
        kept = read_json(folder / RECORD, MeasurementProblem)
        return Environment(folder, kept["installed"], tuple(Conflict(**c) for c in kept["conflicts"]))

    def fill(work: Path) -> None:
        made = index.create(work / "env")
        index.install(made, wanted, dependencies)
        if only:
            index.install(made, only, dependencies=False)
        installed, conflicts = contents(made)
        record = {"requirements": [*wanted, *only], "installed": installed, "conflicts": [asdict(c) for c in conflicts]}
        (work / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    with step("making an environment", folder):
        return built_once(folder, whole, fill)


def remove(folder: Path) -> None:
    """Remove an environment that nobody is making."""
    from filelock import FileLock

    if folder.exists():
        with FileLock(lock_of(folder)):
            shutil.rmtree(folder)


def contents(python: Path) -> tuple[dict[str, str], list[Conflict]]:
    """Distribution → version of an environment, and what is required there and not met."""
    root = python.parent.parent
    sites = [*root.glob("lib/python*/site-packages"), *root.glob("Lib/site-packages")]
    there = list(importlib.metadata.distributions(path=[str(s) for s in sites]))
    installed = {plain(d.metadata["Name"]): d.version for d in there}
    found = []
    for owner in there:
        for wanted in _requirements(owner):
            version = installed.get(plain(wanted.name), "")
            if not version or not wanted.specifier.contains(version, prereleases=True):
                name = plain(owner.metadata["Name"])
                found.append(Conflict(name, owner.version, plain(wanted.name), str(wanted.specifier), version))
    return dict(sorted(installed.items())), sorted(found, key=lambda c: c.words)


def pins(roots: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
    """Versions installed here of some distributions and of all that they need; distribution → version.

    Args:
        roots: Distributions.
        files: Others, of which nothing but their files is needed.

    Raises:
        MeasurementProblem: for one of ``roots`` that is not installed, or was not installed from a package index.
    """
    found: dict[str, str] = {}
    only = {plain(name) for name in files}
    left = [(name, "") for name in (*roots, *only)]
    asked = {plain(name) for name, _ in left}
    seen = set()
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            there = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if plain(name) in asked:
                raise MeasurementProblem(f"{name} is not installed here; run: pip install {name}") from None
            continue
        if plain(name) not in only:
            left += [(r.name, e) for r in _requirements(there, extra) for e in ("", *r.extras)]
        if plain(name) == "qguard":  # of which a copy is used
            continue
        if local := _elsewhere(there):
            raise MeasurementProblem(
                f"{name} {there.version} was installed from {local}, so that no package index gives it to another environment; "
                f"install a release of it: pip install {name}"
            )
        found[plain(name)] = there.version
    return dict(sorted(found.items()))


def _requirements(owner: importlib.metadata.Distribution, extra: str = "") -> Iterator[Requirement]:
    for line in owner.requires or ():
        try:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                yield wanted
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue


def _elsewhere(there: importlib.metadata.Distribution) -> str:
    """Where a distribution was installed from that is not of an index; empty for one of an index."""
    said = there.read_text("direct_url.json")
    if not said:
        return ""
    value = json.loads(said)
    return "a folder" if "dir_info" in value else "a repository" if "vcs_info" in value else "a file"


def own_copy() -> Path:
    """A folder with a copy of this qguard and of its metadata alone, for ``PYTHONPATH`` of other environments."""
    source = Path(__file__).parents[1]
    files = sorted(p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    metadata = _own_metadata()
    key = sha256_json([[p.relative_to(source).as_posix(), sha256_file(p)] for p in files] + [metadata])[:24]
    folder = place() / f"qguard-{key}"

    def whole() -> Path | None:
        return folder if folder.is_dir() else None

    def fill(work: Path) -> None:
        for p in files:
            target = work / "qguard" / p.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(p, target)
        info = work / f"qguard-{__version__}.dist-info"
        info.mkdir()
        for name, text in metadata.items():
            (info / name).write_text(text, encoding="utf-8")

    with step("copying qguard", folder):
        return built_once(folder, whole, fill)


def _own_metadata() -> dict[str, str]:
    try:
        there = importlib.metadata.distribution("qguard")
    except importlib.metadata.PackageNotFoundError:
        there = None
    kept = {name: there.read_text(name) for name in ("METADATA", "entry_points.txt")} if there else {}
    return {
        "METADATA": kept.get("METADATA") or f"Metadata-Version: 2.1\nName: qguard\nVersion: {__version__}\n",
        "entry_points.txt": kept.get("entry_points.txt") or "[pytest11]\nqguard = qguard.plugin\n",
    }
