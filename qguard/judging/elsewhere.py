"""A candidate's ONNX file in the ONNX Runtime of another interpreter, with the tokenizer and the head of here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qguard.artifacts.artifact import Artifact
from qguard.encoders import Encoder
from qguard.encoders.elsewhere import ElsewhereRuntime
from qguard.encoders.onnx import EXACT, exact_products
from qguard.encoders.pooling import Head
from qguard.errors import MeasurementProblem
from qguard.judging.session import Session
from qguard.machine.cpu import cores, saturates
from qguard.precisions import Precision

ONNX = "onnx"


@contextmanager
def encoder_elsewhere(
    session: Session, precision: Precision, model: str, command: Sequence[str], name: str, artifact: Artifact | None = None
) -> Iterator[Encoder]:
    """An encoder whose network runs in another interpreter, which is ended at the end.

    Args:
        session: What is judged.
        precision: A precision for ONNX Runtime.
        model: Its name.
        command: What starts Python there.
        name: Of what runs there, for messages.
        artifact: What runs there; by default the candidate.

    Raises:
        MeasurementProblem: for another runtime, or an interpreter that does not start.
        ArtifactProblem: when ONNX Runtime of there does not load the file.
    """
    found = artifact or session.artifact(precision, model)
    if (runtime := found.runtime(precision.runtime)) != ONNX or found.file is None:
        raise refused(precision, runtime)
    tokenizer = session.tokenizer(precision, model)
    feeding = found.feeding.padded_by(tokenizer)
    entries = {EXACT: "1"} if saturates() and exact_products(found.file) else {}
    runs = ElsewhereRuntime(found.file, command, feeding=feeding, entries=entries, processes=cores(), name=name)
    try:
        yield Encoder(tokenizer, runs, Head.open(found.folder, found.pipeline))
    finally:
        runs.close()


def refused(precision: Precision, runtime: str) -> MeasurementProblem:
    """The error for a runtime that no other interpreter is asked for."""
    return MeasurementProblem(f"{precision} runs in {runtime}; another interpreter can run artifacts in ONNX Runtime only")
