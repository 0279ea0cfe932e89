"""BEIR's layout: ``corpus queries qrels``, and ``texts``, ``pairs`` and ``candidates`` beside them, each a file or a folder of
files.

``qrels/SPLIT.tsv`` as BEIR has it, or flat: ``qrels.tsv``, ``qrels_SPLIT.tsv``.
"""

from __future__ import annotations

from pathlib import Path

from qguard.errors import DataProblem
from qguard.suites.formats import Table, rows_of, suffixes
from qguard.suites.formats import table as tsv
from qguard.suites.formats.datasets import choose

PARTS = ("texts", "pairs", "corpus", "queries", "candidates")


def holds(path: Path) -> bool:
    """Whether there is any of the parts."""
    return any(_files(path, part) for part in PARTS)


def tables(path: Path, split: str) -> list[Table]:
    """One table for each part.

    Raises:
        DataProblem: when a part is there in two formats, or a retrieval suite lacks one.
    """
    found = {part: files for part in PARTS if (files := _files(path, part))}
    judged = _qrels(path, split)
    if "candidates" in found and "queries" not in found:
        raise DataProblem(f"{path.name}/ holds candidates, and no queries.jsonl says of which queries")
    alone = len({"corpus", "queries"} & set(found)) == 1 and "candidates" not in found  # candidates may be texts of their own
    if alone or (judged and "corpus" not in found):
        raise DataProblem(f"{path.name}/ is no retrieval suite: it needs corpus.jsonl and queries.jsonl both")
    for part, files in found.items():
        if len({f.suffix for f in files}) > 1:
            raise DataProblem(f"{path.name}/ holds {part} twice: {', '.join(f.name for f in files)}")
    out = [Table(f.name, rows_of(f), part) for part, files in found.items() for f in files]
    return out + [Table(f.name, tsv.qrels(f) if f.suffix == ".tsv" else rows_of(f), "qrels", bool(split)) for f in judged]


def _files(path: Path, part: str) -> list[Path]:
    flat = [f for suffix in suffixes() if (f := path / f"{part}{suffix}").is_file()]
    inner = path / part
    return flat or (sorted(f for f in inner.iterdir() if f.suffix in suffixes()) if inner.is_dir() else [])


def _qrels(path: Path, split: str) -> list[Path]:
    if split:
        named = [path / f"qrels_{split}{s}" for s in suffixes()]
        if found := next((f for f in named if f.is_file()), None):
            return [found]
    # newer data sets of the hub keep their judgments in the folder of the default configuration
    inner = next((f for n in ("qrels", "default", "data") if (f := path / n).is_dir()), None)
    if inner is not None:
        return choose(f"{path.name}/{inner.name}", inner, sorted(f for f in inner.iterdir() if f.suffix in suffixes()), split)
    flat = [f for s in suffixes() if (f := path / f"qrels{s}").is_file()]
    if flat and split:
        others = ", ".join(sorted(f.name for f in path.glob("qrels*")))
        raise DataProblem(f"{path.name}/ has no judgments of split {split!r}, only {others}; leave split out for those")
    return flat
