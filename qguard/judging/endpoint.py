"""What a server says of itself, and what it answers to a few fixed texts: the parts of an endpoint that is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qguard.boundary import step
from qguard.encoders import TextEncoder
from qguard.endpoints.fingerprint import TEXTS, Fingerprint, now
from qguard.endpoints.fingerprint import facts as described
from qguard.endpoints.runtime import NEAR_ONE, EndpointRuntime
from qguard.endpoints.settings import SERVER
from qguard.errors import MeasurementProblem
from qguard.judging.once import once
from qguard.kinds import CROSS_ENCODER, DENSE
from qguard.models.pipeline import Pipeline

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision


def runtime_of(session: Session, precision: Precision, model: str) -> EndpointRuntime:
    """What asks the server of a precision."""
    encoder = session.encoder(precision, model)
    assert isinstance(encoder, TextEncoder)
    assert isinstance(encoder.text_runtime, EndpointRuntime)
    return encoder.text_runtime


def fingerprint(session: Session, target: Target) -> Fingerprint:
    """The fingerprint of a target's server, measured once a session."""
    return _measured(session, target.precision.plain, target.model)[0]


def prove_still(session: Session, target: Target) -> None:
    """The server answers as it did when its fingerprint was measured: what was computed in between is of one model.

    Raises:
        MeasurementProblem: if it does not.
    """
    client = runtime_of(session, target.precision, target.model).client
    then = fingerprint(session, target)
    if not all(then.still(client, number) for number in range(len(TEXTS))):
        raise MeasurementProblem(
            f"endpoint {target.precision.name!r} answers otherwise than before its texts were encoded: another model was put "
            "behind it meanwhile; judge it again when one model is served"
        )


def facts(session: Session, target: Target) -> dict[str, Any]:
    """What a report says of a target's server: its settings, what it says of itself, its fingerprint and when it was measured."""
    found, moment = _measured(session, target.precision.plain, target.model)
    return described(runtime_of(session, target.precision, target.model).client, found, moment)


@once
def _measured(session: Session, precision: Precision, model: str) -> tuple[Fingerprint, str]:
    with step(f"asking endpoint {precision.name!r} for its fingerprint"):
        found = Fingerprint.of(runtime_of(session, precision, model).client)
    return found, now()


def asked(session: Session, target: Target) -> str:
    """The model that requests name."""
    return runtime_of(session, target.precision, target.model).client.model


def parts(session: Session, target: Target) -> Iterator[tuple[str, str, str]]:
    """Name, value and source of each part; see :class:`qguard.judging.judged.Part`."""
    server, found, pipeline = target.precision.server, fingerprint(session, target), session.model(target.model).pipeline
    of_kind = session.kind(target.model)
    coded = f", vectors in {found.encoding}" if of_kind == DENSE else ""
    yield "server", server.shown, f"protocol {server.protocol}{coded}"
    says = "the server names none" if found.model is None else f"the server says {found.model!r}"
    yield "model", asked(session, target), f"as requests name it; {says}"
    yield "prompts", _prompts(pipeline, server.prompts), f'prompts = "{server.prompts}"'
    if of_kind == DENSE:
        yield "normalization", _lengths(pipeline, found, server.normalized), f"of {len(TEXTS)} texts asked now"
    if of_kind == CROSS_ENCODER:
        sigmoid = runtime_of(session, target.precision, target.model).client.sigmoid
        yield "scores", "after the sigmoid, taken back to logits" if sigmoid else "logits", "configuration and protocol"
    exact = "the same bits" if not found.noise else f"{found.noise:.1g} apart"
    yield "fingerprint", found.sha256[:16], f"{len(TEXTS)} texts asked now, twice: {exact}"


def _prompts(pipeline: Pipeline, who: str) -> str:
    if who == SERVER:
        return "left to the server"
    given = {role or "other text": pipeline.prefix(role) for role in ("query", "document", None) if pipeline.prefix(role)}
    return "put in front by qguard: " + ", ".join(f"{k}: {v!r}" for k, v in given.items()) if given else "none"


def _lengths(pipeline: Pipeline, found: Fingerprint, stated: bool | None) -> str:
    """What the server does about lengths, and what the model declares."""
    least, most = found.lengths
    length = "1" if _one(found) else f"{least:.4g} to {most:.4g}"
    said = f"vectors of length {length}"
    if _one(found):
        but = "" if stated is not False else ", although normalized = false"
        return said + (f", as the model declares{but}" if pipeline.unit_length else f"; the model declares no Normalize{but}")
    if not pipeline.unit_length:
        return f"{said}, as the model declares no Normalize"
    if stated is False:
        return f"{said}; qguard scales them to 1, as whoever uses this server must (normalized = false)"
    return (
        f"{said}, and the model declares Normalize: its vectors have length 1. If whoever uses this server scales them, say so: "
        "normalized = false"
    )


def _one(found: Fingerprint) -> bool:
    return max(abs(x - 1) for x in found.lengths) <= NEAR_ONE
