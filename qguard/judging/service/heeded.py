"""Whether the server heeds what a request asks, or refuses it: status 200 does not mean either."""

from __future__ import annotations

from typing import Any

from qguard.endpoints.answer import Said
from qguard.endpoints.protocols import BASE64
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.judging.service.probe import Finding, Probe, dense
from qguard.vectors.cosine import cosine

NO_MODEL = "qguard-asks-for-no-such-model"
NO_FORMAT = "qguard-asks-for-no-such-format"
_AGREES = 0.999  # a cut vector with the same values of the whole one


def dimensions(probe: Probe) -> Finding:
    """Fewer dimensions are given, or refused."""
    wanted = max(1, probe.width // 2)
    text, whole = [probe.texts[0]], probe.alone[:1]
    found, refused = _asked(probe, text, dimensions=wanted)
    if found is None:
        return Finding(0, 1, (f"refused in words: {refused}",), "requests")
    if found.dim == int(whole.shape[1]):
        return Finding(
            1, 1, (f"dimensions = {wanted} is ignored: the vector has {found.dim} values, and status 200",), "requests"
        )
    if found.dim != wanted:
        return Finding(1, 1, (f"dimensions = {wanted} gives {found.dim} values",), "requests")
    agreement = float(cosine(dense(found.outputs), dense(whole)[:, :wanted])[0])
    if agreement < _AGREES:
        words = f"dimensions = {wanted} gives other values than the first {wanted} of the whole vector (cosine {agreement:.4f})"
        return Finding(1, 1, (words,), "requests")
    return Finding(0, 1, (), "requests")


def encoding_format(probe: Probe) -> Finding:
    """base64 is given, and what nobody knows is refused."""
    text, wrong = [probe.texts[0]], []
    found, _ = _asked(probe, text, encoding_format=BASE64)
    if found is not None and found.encoding != BASE64:
        wrong.append("encoding_format = 'base64' is ignored: the answer has numbers, and status 200")
    found, _ = _asked(probe, text, encoding_format=NO_FORMAT)
    if found is not None:
        wrong.append(
            f"encoding_format = {NO_FORMAT!r}, which nobody knows, is ignored: the answer has {found.encoding}, and status 200"
        )
    return Finding(len(wrong), 2, tuple(wrong), "requests")


def unknown_model(probe: Probe) -> Finding:
    """A model that does not exist is refused."""
    reply = probe.client.send(probe.payload([probe.texts[0]], model=NO_MODEL))
    if reply.status == 200:
        return Finding(1, 1, (f"the model {NO_MODEL!r}, which does not exist, is served with status 200",), "requests")
    if not 400 <= reply.status < 500 or reply.status == 429:
        raise MeasurementProblem(f"asked for the model {NO_MODEL!r}, the server answers with status {reply.status}")
    return Finding(0, 1, (), "requests")


def _asked(probe: Probe, texts: Any, **more: Any) -> tuple[Said | None, str]:
    """What the server says, or why it refuses.

    Raises:
        EndpointProblem: for anything but an answer or a refusal.
    """
    try:
        return probe.client.ask(texts, encoding=None, more=more).said, ""
    except EndpointProblem as e:
        if e.status is not None and 400 <= e.status < 500 and e.status != 429:
            return None, str(e)
        raise
