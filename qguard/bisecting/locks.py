"""Lock files: the versions that they pin, and what differs between two."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement

from qguard.bisecting.index import plain
from qguard.errors import DataProblem

_MEND = "write one with: uv export --no-hashes --format requirements-txt, pip freeze, or pip-compile"


@dataclass(frozen=True)
class Change:
    """A distribution that two lock files pin otherwise.

    Attributes:
        name: The distribution.
        before: Its version in the good file; ``None`` if it is not there.
        after: Its version in the bad file; likewise.
    """

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.before or 'none'} -> {self.after or 'none'}"


def read_lock(path: Path) -> dict[str, str]:
    """Distribution → version that a file pins for this Python and machine: requirements with ``==``, or ``pylock.toml``.

    Raises:
        DataProblem: for a file that cannot be read, or that leaves a version open.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataProblem(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    if path.name == "uv.lock":
        raise DataProblem(f"{path} is uv's own format, which holds several environments; {_MEND}")
    found = dict(_of_toml(path, text) if path.suffix == ".toml" else _of_requirements(path, text))
    found.pop("qguard", None)  # this one judges
    if not found:
        raise DataProblem(f"{path} pins no package; expected lines such as numpy==2.4.6; {_MEND}")
    return found


def changes(good: Mapping[str, str], bad: Mapping[str, str]) -> list[Change]:
    """What differs, by name."""
    names = sorted(good.keys() | bad.keys())
    return [Change(n, good.get(n), bad.get(n)) for n in names if good.get(n) != bad.get(n)]


def changed(good: Mapping[str, str], made: list[Change]) -> dict[str, str]:
    """The pins of the good file with some changes."""
    after = {**good, **{c.name: c.after for c in made}}
    return {name: version for name, version in after.items() if version is not None}


def _of_requirements(path: Path, text: str) -> Iterator[tuple[str, str]]:
    joined = re.sub(r"\\\r?\n", " ", text)
    for number, line in enumerate(joined.splitlines(), 1):
        words = re.sub(r"(^|\s)#.*$", "", line).strip()
        words = re.sub(r"\s--(?:hash|config-settings?)[= ]\S+", "", words).strip()
        if not words or words.startswith("--hash"):
            continue
        where = f"{path}, line {number}"
        if words.startswith("-"):
            raise DataProblem(
                f"{where}: options of pip are not read, found {words[:60]!r}; put them into pip's configuration; {_MEND}"
            )
        try:
            wanted = Requirement(words)
        except InvalidRequirement:
            raise DataProblem(f"{where}: expected NAME==VERSION, found {words[:60]!r}; {_MEND}") from None
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        pins = [s.version for s in wanted.specifier if s.operator in ("==", "===") and not s.version.endswith(".*")]
        if wanted.url or len(pins) != 1 or len(list(wanted.specifier)) != 1:
            raise DataProblem(f"{where}: {words[:60]!r} pins no version; expected NAME==VERSION; {_MEND}")
        yield plain(wanted.name), pins[0]


def _of_toml(path: Path, text: str) -> Iterator[tuple[str, str]]:
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise DataProblem(f"{path} is not valid TOML ({e})") from e
    packages = data.get("packages")
    if "lock-version" not in data or not isinstance(packages, list):
        raise DataProblem(f"{path}: expected a pylock.toml, with lock-version and packages; {_MEND}")
    for each in packages:
        name, version, marker = (
            (each.get(key) for key in ("name", "version", "marker")) if isinstance(each, dict) else (None,) * 3
        )
        try:
            applies = not marker or Marker(marker).evaluate({"extra": "", "extras": set(), "dependency_groups": set()})
        except InvalidMarker:
            raise DataProblem(f"{path}: {name}: {marker!r} is no marker") from None
        if not applies:
            continue
        if not isinstance(name, str) or not isinstance(version, str):
            raise DataProblem(f"{path}: {name or 'a package'} has no version; {_MEND}")
        yield plain(name), version
