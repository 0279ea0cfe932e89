"""Faults of the artifact as a file: an interrupted upload, bit rot."""

from __future__ import annotations

from pathlib import Path

from qguard.artifacts.artifact import PROVENANCE
from qguard.faults.site import Candidate, FaultSite, NotApplicable


def cut(path: Path, share: float) -> None:
    """Shorten a file.

    Args:
        path: The file.
        share: Of the bytes that stay; -1: all but the last byte.
    """
    size = path.stat().st_size
    with path.open("r+b") as f:
        f.truncate(size - 1 if share < 0 else int(size * share))


def truncated(site: FaultSite, share: float) -> Candidate:
    """Shorten the file; without provenance, whose hash would tell at once."""
    cut(site.single, share)
    (site.folder / PROVENANCE).unlink(missing_ok=True)
    return Candidate(site.folder)


def flipped(site: FaultSite, _: None) -> Candidate:
    """Flip one bit in the middle of the weights, under the provenance that was written when the file was built."""
    if not (site.folder / PROVENANCE).exists():
        raise NotApplicable("the artifact has no provenance that could tell")
    path = site.artifact.weight_files[0]
    target = site.single if site.artifact.file is not None else site.folder / path.relative_to(site.artifact.folder)
    with target.open("r+b") as f:
        f.seek(target.stat().st_size // 2)
        byte = f.read(1)[0]
        f.seek(-1, 1)
        f.write(bytes([byte ^ 1]))
    return Candidate(site.folder)
