"""The subject of a verdict on a server: its measured fingerprint, with what it says of itself and when.

A server has no bytes to hash. What can be asked again is whether it answers a few fixed texts as it did when it was judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qguard import goldens
from qguard.attest.refusal import Refusal
from qguard.encoders.runtimes import ENDPOINT
from qguard.endpoints.client import Client
from qguard.endpoints.fingerprint import Fingerprint

if TYPE_CHECKING:
    from qguard.attest.shape import Verdict
    from qguard.attest.verification import Asked
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision

PREFIX = "endpoint/"  # of the subject's name
_SAID = ("protocol", "model", "says", "normalized", "prompts", "dimensions", "encoding", "date")


def is_served(precision: Precision) -> bool:
    """Whether a verdict on it is of a server."""
    return precision.runtime == ENDPOINT


def subject(session: Session, target: Target) -> dict[str, str]:
    """Name and SHA-256 of what was judged."""
    from qguard.judging.endpoint import fingerprint

    return {PREFIX + target.precision.name: fingerprint(session, target).sha256}


def subject_now(session: Session, target: Target) -> dict[str, str]:
    """The same at the end of a run.

    Raises:
        MeasurementProblem: if another model answers than the one that was judged.
    """
    from qguard.judging.endpoint import prove_still

    prove_still(session, target)
    return subject(session, target)


def facts(session: Session, target: Target) -> dict[str, Any]:
    """What a statement says of the server; no URL, as a statement names no host."""
    from qguard.judging import endpoint

    said = endpoint.facts(session, target)
    return {**{k: said[k] for k in _SAID}, "fingerprint": endpoint.fingerprint(session, target).to_json()}


def refusals(verdict: Verdict, asked: Asked) -> Iterator[Refusal]:
    """Why the server that answers now is not the one that was judged."""
    if len(verdict.subjects) != 1 or verdict.endpoint is None or verdict.subjects[0].name != PREFIX + asked.precision.name:
        found = ", ".join(s.name for s in verdict.subjects[:3])
        yield Refusal("subject", f"one server, {PREFIX}{asked.precision.name}", found, asked.again)
        return
    try:
        then = Fingerprint.from_json(verdict.endpoint.fingerprint)
    except (ValueError, KeyError, TypeError) as e:
        yield Refusal("endpoint", "its fingerprint", f"none that can be read ({e})", asked.again)
        return
    if then.sha256 != verdict.subjects[0].digest.sha256:
        yield Refusal("endpoint", "a fingerprint with the SHA-256 of the subject", "another", f"it was edited: {asked.again}")
        return
    now = Fingerprint.of(_client(asked))
    if not now.same(then):
        apart = "of another width" if now.width != then.width else f"up to {now.apart(then):.2g} apart, relative to their length"
        yield Refusal(
            "endpoint", f"the answers that were judged, fingerprint {then.sha256[:12]}…",
            f"others, {apart}: another model or precision is served", f"deploy the model that was judged, or {asked.again}",
        )  # fmt: skip


def _client(asked: Asked) -> Client:
    session, server = asked.session, asked.precision.server
    suite = session.config.suites[0]
    golden = goldens.read(goldens.golden_folder(session.config.golden_root, asked.model, suite))
    return Client(server, session.kind(asked.model), asked.model, int(golden.manifest["dim"]))
