"""What is wrong in the folder of all goldens, and the command that mends it: ``qguard golden check``."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import GoldenProblem
from qguard.files import read_json
from qguard.goldens.stored import ACCEPTED, MANIFEST, SUMMARY, Golden, update_command

UNMEASURABLE, MISCONFIGURED = 3, 2
_BESIDE = ("README.md", ".gitattributes", ".gitignore")  # of the project, in the folder of all goldens


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        where: Relative to the folder of all goldens.
        words: What was found, and what mends it.
        exit_code: 3 where a gate cannot be judged or trusted, 2 where the folder and the configuration do not fit.
    """

    where: str
    words: str
    exit_code: int = MISCONFIGURED

    def __str__(self) -> str:
        return f"{self.where}: {self.words}"


def stray(root: Path, used: Collection[tuple[str, str]]) -> Iterator[Finding]:
    """Goldens that nothing uses, and files that belong to no golden.

    Args:
        root: The folder of all goldens.
        used: Model and suite of every golden that the configuration has a use for.
    """
    if not root.is_dir():
        return
    models = {model for model, _ in used}
    for entry in sorted(root.iterdir()):
        if not entry.is_dir() or entry.is_symlink():
            if entry.name not in _BESIDE:
                yield _foreign(root, entry)
            continue
        if entry.name not in models:
            yield Finding(entry.name, f"unused: no model of that name is configured; {_remove(root, entry)}, or configure it")
            continue
        for folder in sorted(entry.iterdir()):
            if not folder.is_dir() or folder.is_symlink():
                yield _foreign(root, folder)
            elif (entry.name, folder.name) not in used:
                words = f"unused: no suite of that name is configured; {_remove(root, folder)}, or configure it"
                yield Finding(f"{entry.name}/{folder.name}", words)


def unsigned(root: Path, folder: Path) -> Iterator[Finding]:
    """Files of one golden's folder that its manifest does not name: left over by a kill, by a merge, or put there by somebody."""
    if not folder.is_dir():
        return
    named = {MANIFEST, ACCEPTED}
    if (folder / MANIFEST).exists():
        try:
            manifest = read_json(folder / MANIFEST, GoldenProblem)
        except GoldenProblem:
            return  # the golden itself is reported
        named |= {str(manifest.get("data_file")), str(manifest.get("tokenizer_file"))} | (
            {SUMMARY} if "summary_sha256" in manifest else set()
        )
    for entry in sorted(folder.iterdir()):
        if entry.name not in named:
            yield _foreign(root, entry, "not named by the manifest")


def unfit(golden: Golden, accepted: list[dict[str, Any]]) -> Iterator[Finding]:
    """What does not fit a golden that is itself whole and current: its summary, and scores accepted on other texts."""
    folder = golden.folder
    where = f"{folder.parent.name}/{folder.name}"
    if not golden.summary_is_whole:
        path = folder / SUMMARY
        state = "missing"
        if path.exists():
            found = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            state = f"not the file that the manifest describes (SHA-256 {found}, not {golden.manifest['summary_sha256'][:8]})"
        mend = f"restore it from version control, or: {update_command(*where.split('/', 1))}"
        yield Finding(f"{where}/{SUMMARY}", f"{state}; {mend}", UNMEASURABLE)
    hashes = golden.manifest["hashes"]
    old: dict[str, int] = {}
    for entry in accepted:
        of = entry.get("golden", {})
        if any(hashes.get(part, "")[:16] != of.get(part) for part in ("suite", "weights")):
            precision = str(entry.get("precision"))
            old[precision] = old.get(precision, 0) + 1
    for precision, count in old.items():
        yield Finding(
            f"{where}/{ACCEPTED}",
            f"{count} scores of {precision} were accepted on other texts or weights and no longer apply; accept them again: "
            f'qguard accept --precision {precision} --suite {folder.name} --reason "…"',
        )


def _foreign(root: Path, path: Path, why: str = "does not belong to a golden") -> Finding:
    return Finding(path.relative_to(root).as_posix(), f"foreign: {why}; {_remove(root, path)}")


def _remove(root: Path, path: Path) -> str:
    recursive = "-r " if path.is_dir() and not path.is_symlink() else ""
    return f"remove it: rm {recursive}{root.name}/{path.relative_to(root).as_posix()}"
