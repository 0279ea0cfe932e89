"""Faults of the golden: damaged, edited, foreign, coarse, recorded from a broken pipeline."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qguard import goldens
from qguard.faults.files import cut
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.goldens import Golden
from qguard.kinds import DENSE
from qguard.outputs import arrays_of, with_values

MANIFEST = "manifest.json"


def _copied(site: FaultSite) -> Iterator[Path]:
    """The folder of each suite's golden, in a copy of the folder of all goldens."""
    for suite in site.suites:
        source = goldens.golden_folder(site.session.config.golden_root, site.model, suite)
        target = goldens.golden_folder(site.work / "golden", site.model, suite)
        shutil.copytree(source, target)
        yield target


def _data(folder: Path) -> Path:
    return folder / str(goldens.read(folder).manifest["data_file"])


def missing(site: FaultSite, _: None) -> Candidate:
    """Nothing was committed."""
    (site.work / "golden").mkdir()
    return Candidate(golden=site.work / "golden")


def truncated(site: FaultSite, share: float) -> Candidate:
    """Shorten the data file; see :func:`qguard.faults.files.cut`."""
    for folder in _copied(site):
        cut(_data(folder), share)
    return Candidate(golden=site.work / "golden")


def edited(site: FaultSite, what: str) -> Candidate:
    """Edit by hand.

    Args:
        site: Where.
        what: ``data``: one byte of a vector; ``manifest``: one word.
    """
    for folder in _copied(site):
        if what == "manifest":
            path = folder / MANIFEST
            path.write_text(path.read_text(encoding="utf-8").replace('"reason": "', '"reason": "x', 1), encoding="utf-8")
            continue
        path = _data(folder)
        with path.open("r+b") as f:
            f.seek(-4, 2)
            f.write(bytes(4))
    return Candidate(golden=site.work / "golden")


def _stored(site: FaultSite, change: Callable[[Golden], Any], hashes: dict[str, str] | None = None) -> Candidate:
    """Goldens with other vectors, whole and sealed: nothing but their content can tell.

    Args:
        site: Where.
        change: Given a golden, its new vectors.
        hashes: Of the manifest, where they change.
    """
    from safetensors.numpy import load, save

    for folder in _copied(site):
        old = goldens.read(folder)
        arrays = load(_data(folder).read_bytes())
        new = arrays_of(change(old).astype(np.float32))
        arrays |= {name: np.ascontiguousarray(values) for name, values in new.items()}
        data = save(arrays)
        manifest = {**old.manifest, "data_sha256": hashlib.sha256(data).hexdigest()}
        manifest["hashes"] = {**manifest["hashes"], **(hashes or {})}
        goldens.store(folder, data, manifest, old.summary)
    return Candidate(golden=site.work / "golden")


def foreign(site: FaultSite, part: str) -> Candidate:
    """A golden of another suite, tokenizer or model lies under this name."""
    return _stored(
        site, lambda g: g.vectors[np.roll(np.arange(len(g.vectors)), 1)], {part: hashlib.sha256(part.encode()).hexdigest()}
    )


def coarse(site: FaultSite, digits: Any) -> Candidate:
    """Round the vectors.

    Args:
        site: Where.
        digits: Decimals, or ``half`` for 16-bit floats.
    """

    def rounded(golden: Golden) -> Any:
        def fewer(values: Any) -> Any:
            return values.astype(np.float16).astype(np.float32) if digits == "half" else np.round(values, digits)

        found = with_values(golden.vectors, fewer)
        if isinstance(found, np.ndarray) and digits != "half":
            found[~found.any(1), 0] = 10.0**-digits  # all zeros would be refused, and is not what is meant
        return found

    return _stored(site, rounded)


def broken(site: FaultSite, mode: str) -> Candidate:
    """Record from fp32 with another pooling.

    Args:
        site: Where.
        mode: See :func:`qguard.faults.pipeline.pooling`.
    """
    from qguard.encoders import open_encoder

    site.need(DENSE)
    base = site.base
    own = base.pipeline.pooling
    mode = "mean" if own == (mode,) else mode
    if len(own) != 1 or own == (mode,):
        raise NotApplicable("several poolings are concatenated" if own else "no one pooling holds for every text")
    fp32 = site.session.fp32(site.model, "torch" if site.artifact.file is None else "onnx")
    pipeline = base.pipeline.pooled_by((mode,))
    encoder = open_encoder(fp32.runtime("onnx"), fp32.folder, pipeline, "fp32", fp32.file, site.session.config.device)

    def change(golden: Golden) -> Any:
        suite = site.session.suite(golden.manifest["suite"]["name"], site.model)
        return encoder.encode_ids(encoder.tokenizer.told(golden.token_ids, suite.roles))

    return _stored(site, change)
