"""Folders as Hugging Face ``datasets`` has them: written by ``save_to_disk``, or data files named after their splits."""

from __future__ import annotations

import re
from pathlib import Path

from qguard.errors import DataProblem
from qguard.files import inside, read_json
from qguard.suites.formats import Table, rows_of, suffixes

SPLITS = ("train", "test", "validation", "valid", "val", "dev")


def holds(path: Path) -> bool:
    """Whether there are data files, here or below."""
    return bool(_files(path))


def tables(path: Path, split: str) -> list[Table]:
    """One table for each file of the split, in the order of their names."""
    files = choose(path.name, path, _files(path), split)
    return [Table(f.relative_to(path).as_posix(), rows_of(f), chosen=_split(f, path, split) is not None) for f in files]


def _files(path: Path) -> list[Path]:
    states = sorted(path.glob("**/state.json"))
    if not states:
        return sorted(f for f in path.rglob("*") if f.suffix in suffixes() and f.is_file())
    # save_to_disk: the state names the files of its folder, and their order
    found = []
    for state in states:
        listed = read_json(state, DataProblem).get("_data_files")
        named = [f.get("filename") for f in listed if isinstance(f, dict)] if isinstance(listed, list) else []
        names = [n for n in named if isinstance(n, str)]
        if not names:
            raise DataProblem(f"{state.parent.name}/state.json names no data files; write the data set again with save_to_disk")
        found += [inside(state.parent, n) for n in names]
    return found


def _split(file: Path, folder: Path, stated: str) -> str | None:
    """The split that a file's path below ``folder`` names."""
    inner = file.relative_to(folder).with_suffix("").as_posix()
    names = (stated,) if stated else SPLITS
    return next((s for s in names if re.search(rf"(^|[/._-]){re.escape(s)}([/._-]|$)", inner)), None)


def choose(name: str, folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files of a split; without one ``test``, or the only one that there is.

    Raises:
        DataProblem: when none is of that split, or it is open which of several is meant.
    """
    if split:
        known = sorted({s for f in files if (s := _split(f, folder, ""))})
        chosen = [f for f in files if _split(f, folder, split)]
        if not chosen and known:
            raise DataProblem(f"{name}/ has no split {split!r}, only {', '.join(known)}")
        return chosen or files  # a column may tell
    splits = {f: _split(f, folder, "") for f in files}
    if len(set(splits.values())) < 2:
        return files
    if "test" not in splits.values():
        known = sorted({s or "(none)" for s in splits.values()})
        raise DataProblem(f'{name}/ has the splits {", ".join(known)}; state one: split = "{known[-1]}"')
    return [f for f, s in splits.items() if s == "test"]
