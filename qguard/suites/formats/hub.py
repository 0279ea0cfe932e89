"""Data sets of the Hugging Face hub: their data files are fetched and read as a folder; their scripts never run."""

from __future__ import annotations

import re
from pathlib import Path

from qguard.errors import DataProblem
from qguard.suites.source import HUB

# What is fetched: data, never code
SUFFIXES = ("parquet", "jsonl", "csv", "tsv")
_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w./-]+))?(?:@(?P<revision>.+))?")


def fetch(suite: str, reference: str) -> Path:
    """The folder with the data files of ``hf:ORG/NAME[/CONFIG][@REVISION]``, from the hub's cache or fetched now.

    Args:
        suite: The configuration's name for it, for messages.
        reference: ``CONFIG`` is the folder of a data set that has several; ``REVISION`` a branch, tag or commit.

    Raises:
        DataProblem: for a reference of another form, what the hub does not have, and a hub that cannot be reached.
    """
    match = _REFERENCE.fullmatch(reference.removeprefix(HUB))
    if not match or ".." in reference:
        raise DataProblem(f"suite {suite!r}: expected hf:ORG/NAME[/CONFIG][@REVISION], found {reference!r}")
    repo, config, revision = match["repo"], match["config"], match["revision"]
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    below = f"{config.rstrip('/')}/" if config else ""
    patterns = [f"{below}{deep}*.{suffix}" for suffix in SUFFIXES for deep in ("", "**/")]
    try:
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)) / below
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as e:
        raise DataProblem(f"suite {suite!r}: the hub has no {reference}; check the id, the revision and your access") from e
    except (LocalEntryNotFoundError, OSError, RuntimeError) as e:
        raise DataProblem(
            f"suite {suite!r}: {reference} is not in the local hub cache and the hub cannot be reached ({type(e).__name__}). "
            "Give a file or folder, or fill the cache where there is a network"
        ) from e
    if not any(f.suffix.lstrip(".") in SUFFIXES for f in folder.rglob("*")):
        raise DataProblem(
            f"suite {suite!r}: {reference} holds no {', '.join(SUFFIXES)} files; scripts are never run. Most data sets have a "
            f"converted copy: hf:{repo}/CONFIG@refs/convert/parquet"
        )
    return folder
