"""Faults of quantized vectors: the int8 codes of the embeddings, judged as ``PRECISION+int8``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.kinds import DENSE, KINDS, MULTI_VECTOR
from qguard.metrics import Comparison
from qguard.outputs import vectors_of
from qguard.vectors.multi_vector import StoredTokens
from qguard.vectors.quantized import FLOAT, LEAST_CALIBRATION, Vectors

KIND = "int8"


def _checked(site: FaultSite, texts: int) -> None:
    if site.base.kind not in (DENSE, MULTI_VECTOR):
        raise NotApplicable(f"the model gives {KINDS[site.base.kind].gives}, which is not stored as quantized vectors are")
    if site.precision.vectors not in (FLOAT, KIND):
        raise NotApplicable(f"{site.precision} stores no int8 vectors")
    for name in site.suites:
        suite = site.session.suite(name)
        have = len(suite.documents) or len(suite.texts)
        if have < max(LEAST_CALIBRATION, texts + 1):
            raise NotApplicable(f"suite {name!r} has {have} texts to take ranges from")


def _ranges(found: Comparison, texts: int) -> Any:
    rows = list(found.suite.documents or range(len(found.suite.texts)))[:texts]
    golden = vectors_of(found.golden[rows]).astype(np.float32)
    return np.stack((golden.min(0), golden.max(0)))


def _vectors(found: Comparison) -> Vectors:
    """What is stored, one row a text or a token."""
    assert found.vectors is not None
    return found.vectors.vectors if isinstance(found.vectors, StoredTokens) else found.vectors


def _with(found: Comparison, vectors: Vectors) -> Comparison:
    """The same with other codes."""
    made = replace(found.vectors, vectors=vectors) if isinstance(found.vectors, StoredTokens) else vectors
    return replace(found, candidate=made.dequantized(), vectors=made)


def few(site: FaultSite, texts: int) -> Candidate:
    """Take ranges from the first texts alone."""
    _checked(site, texts)

    def stored(found: Comparison) -> Comparison:
        return _with(found, Vectors.of(_vectors(found).floats, found.kind, _ranges(found, texts)))

    return Candidate(stored=stored)


def wrap(site: FaultSite, texts: int) -> Candidate:
    """Take ranges from the first texts, and let what lies outside them wrap around."""
    _checked(site, texts)

    def stored(found: Comparison) -> Comparison:
        ranges, floats = _ranges(found, texts), _vectors(found).floats
        steps = np.where(ranges[1] > ranges[0], (ranges[1] - ranges[0]) / np.float32(255), np.float32(1))
        codes = np.floor((floats - ranges[0]) / steps).astype(np.int64) & 255
        return _with(found, Vectors(found.kind, (codes - 128).astype(np.int8), floats, ranges))

    return Candidate(stored=stored)
