"""Keeps a candidate's vectors of a suite for ``qguard merge --across-hosts``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.kinds import DENSE
from qguard.metrics.ranking import K, best_first, scored
from qguard.vectors.hosts import HostVectors
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target


def host_vectors(session: Session, target: Target) -> HostVectors | None:
    """What this host computed; ``None`` for what is no float32 vector of a dense model, and for large suites."""
    suite = session.suite(target.suite, target.model)
    if target.precision.vectors != FLOAT or session.kind(target.model) != DENSE or suite.corpus is not None:
        return None
    c, golden = session.comparison(target), session.golden(target.model, target.suite)
    artifact = session.artifact(target.precision, target.model)
    searchers = np.arange(len(suite.texts))
    documents, scores = scored(c)
    facts = {
        "model": target.model, "suite": target.suite, "precision": target.precision.label, "runtime": target.precision.runtime,
        "similarity": c.similarity.name, "suite_sha256": suite.sha256, "golden_sha256": str(golden.manifest["data_sha256"]),
        "artifact_sha256": artifact.sha256 if artifact.has_files else "",
    }  # fmt: skip
    vectors = session.cut(target, session.embeddings(target))
    return HostVectors(vectors, searchers, documents, best_first(scores[0], min(K, len(documents) - 1)), facts)


def kept(session: Session, target: Target, folder: Path) -> dict[str, str] | None:
    """Write :func:`host_vectors`; the file's name and hash, or ``None`` where there is nothing to keep.

    Raises:
        MeasurementProblem: when the folder cannot be written: another host could not be compared.
    """
    found = host_vectors(session, target)
    if found is None:
        return None
    try:
        return found.write(folder)
    except OSError as e:
        raise MeasurementProblem(f"--qguard-vectors: cannot write {folder.name}: {e.strerror or e}; give another folder") from e
