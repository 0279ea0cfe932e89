"""The candidate here against its file in another interpreter: the accuracy of ``--baseline-python``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.judging.elsewhere import ONNX, encoder_elsewhere, refused
from qguard.judging.once import once
from qguard.judging.session import Session, Target
from qguard.kinds import CROSS_ENCODER
from qguard.machine.versions import installed
from qguard.metrics import Comparison, Measured, reduced, regression
from qguard.vectors.similarity import similarity_of

NAME = "the baseline interpreter"


@once
def vectors_there(session: Session, target: Target) -> tuple[Floats, dict[str, str]]:
    """What the other interpreter gives for the suite: of ``--baseline-artifact`` if one is given, else of the candidate's file.
    And its versions.

    Raises:
        MeasurementProblem: for an interpreter that does not start, or a runtime that is not ONNX Runtime.
        ArtifactProblem: when ONNX Runtime of there does not load the file.
    """
    assert session.baseline_python is not None
    if session.artifact_path is None and target.precision.runtime != ONNX:  # nothing is built for that
        raise refused(target.precision, target.precision.runtime)
    ids, deployed = session.token_ids(target), session.deployed(target.model)
    command = [str(Path(session.baseline_python))]
    with encoder_elsewhere(session, target.precision, target.model, command, NAME, deployed) as there:
        return there.encode_rows(session.rows(target, there, ids)), there.versions


@once
def comparison(session: Session, target: Target) -> Comparison:
    """The other interpreter's vectors and those of here, side by side."""
    (there, _), here = vectors_there(session, target), session.embeddings(target)
    pipeline = session.model(target.model).pipeline
    similarity = similarity_of(pipeline).fitted(there, pipeline.declared(), None)
    if there.shape != here.shape:
        raise MeasurementProblem(f"{NAME} gives vectors of shape {there.shape}, and this one {here.shape}")
    return Comparison.of(session.suite(target.suite, target.model), there, here, similarity)


def judge_regression(session: Session, target: Target) -> list[Measured]:
    """The values of a target; of pairs of texts and of suites whose documents are not held those of the vectors alone."""
    c, (_, there) = comparison(session, target), vectors_there(session, target)
    mean, *found = reduced(regression.vectors(c), regression.OF_VECTORS, c.suite)
    here = installed("onnxruntime", "numpy")
    words = tuple(f"{side}: {', '.join(f'{n} {v[n]}' for n in here)}" for side, v in (("there", there), ("here", here)))
    found = [replace(mean, worst=words), *found]
    if session.kind(target.model) == CROSS_ENCODER or c.suite.corpus is not None:
        return found
    return found + reduced(regression.neighbors(c), regression.OF_NEIGHBORS, c.suite)
