"""fp32 as this machine computes it now, beside a candidate."""

from __future__ import annotations

from qguard.encoders import Encoder, Floats
from qguard.judging.session import Session, Target
from qguard.precisions import Precision, fp32_of


def live_fp32(session: Session, target: Target, rows: list[int]) -> tuple[str, Floats]:
    """fp32 as this machine computes it now; see :func:`fp32_runtime` for where.

    Args:
        target: Its model, suite and artifact.
        rows: Indices of n texts.

    Returns:
        The precision's name, and float32 (n, dim).

    Raises:
        QguardError: when fp32 cannot be made or run here.
    """
    runtime = fp32_runtime(session, target.precision, target.model)
    name = f"fp32@{runtime}"
    if target.precision.base == "fp32" and session.artifact_path is None and runtime == target.precision.runtime:
        return name, session.embeddings(target)[rows]  # the candidate is what would be run
    ids, roles = session.golden(target.model, target.suite).token_ids, session.suite(target.suite, target.model).roles
    encoder = fp32_encoder(session, target.model, runtime)
    return name, encoder.encode_ids(encoder.tokenizer.told([ids[i] for i in rows], [roles[i] for i in rows]))


def fp32_runtime(session: Session, precision: Precision, model: str) -> str:
    """The runtime that computes fp32 beside a candidate: the one that its recipe's record names.

    Raises:
        QguardError: when there is none.
    """
    return fp32_of(session.artifact(precision, model).runtime(precision.runtime)).runtime


def fp32_encoder(session: Session, model: str, runtime: str) -> Encoder:
    """fp32 in a runtime, to be run now; opened anew each time, since whoever keeps it keeps all of its weights in memory.

    Raises:
        QguardError: when fp32 cannot be made or run here.
    """
    fp32 = session.fp32(model, runtime)
    return session.opened(runtime, fp32, fp32.file)
