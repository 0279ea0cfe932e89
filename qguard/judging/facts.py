"""What a report says of a target beside its checks."""

from __future__ import annotations

from typing import Any

from qguard.accepted.scores import Scope
from qguard.encoders.runtimes import ENDPOINT
from qguard.goldens.marked import said
from qguard.judging import endpoint
from qguard.judging.judged import judged
from qguard.judging.session import Session, Target
from qguard.kinds import SPARSE
from qguard.machine.versions import installed
from qguard.metrics.sparse import ENTRY
from qguard.outputs import vectors_of
from qguard.vectors.quantized import FLOAT, quantize


def facts(session: Session, target: Target) -> dict[str, Any]:
    """What the report says about an artifact besides its checks."""
    artifact = session.artifact(target.precision, target.model)
    facts: dict[str, Any] = {"device": session.device(target), "changed": changed(session, target)}
    facts["judged"] = parts(session, target)
    if target.precision.runtime == ENDPOINT:
        facts["endpoint"] = endpoint.facts(session, target)
    if source := said(session.golden(target.model, target.suite).manifest):
        facts["golden_from"] = source
    if artifact.has_files:
        facts["artifact"] = {"sha256": artifact.sha256, "bytes": artifact.bytes}
    facts["scope"] = scope(session, target).to_json()
    texts = session.suite_of(target.suite, target.model).texts
    left_out = session.golden(target.model, target.suite).left_out
    facts["texts_left_out"] = [f"{texts[i][:60]!r}: {why}" for i, why in left_out.items()]
    if target.precision != target.precision.plain:
        calibration = session.calibration(target)
        facts["stored"] = {
            "bytes": stored_bytes(session, target),
            "float32_bytes": vectors_of(session.golden(target.model, target.suite).vectors)[:1].nbytes,
            "calibration": calibration and calibration.to_json(),
            "latency_of": str(target.precision.plain),
        }
    return facts


def parts(session: Session, target: Target) -> list[dict[str, Any]]:
    """What is judged; see :func:`qguard.judging.judged.judged`."""
    return [part.to_json() for part in judged(session, target)]


def stored_bytes(session: Session, target: Target) -> int:
    """Bytes of one vector as the precision stores it; of a model with a vector to each token, those of one token; of a sparse
    model those of a text's entries in an inverted index, on average.
    """
    if session.kind(target.model) == SPARSE:
        return round(ENTRY * float(session.embeddings(target).counts.mean()))  # type: ignore[attr-defined]
    kind, cut = target.precision.vectors, session.cut(target, vectors_of(session.golden(target.model, target.suite).vectors)[:1])
    return cut.nbytes if kind == FLOAT else quantize(cut, kind, session.ranges(target)).nbytes


def scope(session: Session, target: Target) -> Scope:
    """What scores measured here belong to: precision, machine, weights and texts."""
    hashes = session.golden(target.model, target.suite).manifest["hashes"]
    return Scope.of(target.precision, session.device(target), hashes)


def holds(session: Session, target: Target) -> str:
    """What the artifact's files compute, in one line; empty without files."""
    from qguard.judging.artifact import summary

    artifact = session.artifact(target.precision, target.model)
    return summary(artifact) if artifact.has_files else ""


def changed(session: Session, target: Target) -> list[str]:
    """Versions that differ from those the golden was recorded with."""
    then = session.golden(target.model, target.suite).manifest.get("versions", {})
    now = installed(*then)
    return [f"{k} {then[k]} → {now[k]}" for k in then if then[k] != now[k]]
