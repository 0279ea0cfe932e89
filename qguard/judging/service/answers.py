"""What answers say: their model, width, lengths, indices, encodings and token counts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from qguard.endpoints.protocols import BASE64
from qguard.endpoints.protocols.reading import indexed
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.judging.service.probe import Finding, Probe, dense, shown
from qguard.kinds import CROSS_ENCODER
from qguard.suites.paired import TextPair

_SKIP = '; where they need not: [tool.qguard.service] skip = ["{}"]'


def model(probe: Probe) -> Finding:
    """Answers name the model that was asked for."""
    named = _asked(probe, 1).model
    asked = probe.client.model
    if named is None:
        raise MeasurementProblem("the answers name no model" + _SKIP.format("model"))
    same = named.removesuffix(":latest") == asked.removesuffix(":latest")
    return Finding(
        float(same), 1, () if same else (f"asked for the model {asked!r}, the answer names the model {named[:100]!r}",)
    )


def dimension(probe: Probe) -> Finding:
    """A vector has as many values as fp32's."""
    found = int(probe.alone.shape[1])
    words = () if found == probe.width else (f"a vector has {found} values, and fp32's have {probe.width}",)
    return Finding(abs(found - probe.width), len(probe.texts), words)


def norm(probe: Probe) -> Finding:
    """Vectors are as long as fp32's, or of unit length where the settings say so."""
    unit = probe.endpoint.normalized or probe.pipeline.unit_length
    lengths = np.linalg.norm(dense(probe.alone), axis=1)
    low, high = (1.0, 1.0) if unit else (float(probe.norms.min()), float(probe.norms.max()))
    off = np.maximum(np.maximum(low - lengths, lengths - high), 0) / max(high, 1e-12)
    worst = int(off.argmax())
    expected = "1" if unit else f"{low:.4g} to {high:.4g}, as fp32's vectors have"
    words = f"the vector of {shown(probe.texts[worst])} has the length {lengths[worst]:.4g}; expected {expected}"
    if unit and not (off < 0.01).all():
        words += ". If the server is not to scale vectors, say so: normalized = false"
    return Finding(float(off.max()), len(lengths), (words,))


def index(probe: Probe) -> Finding:
    """Answers to several texts have each index once."""
    texts, wrong = list(probe.texts[:8]), []
    for some in (texts[:1], texts[:2], texts):
        reply = probe.client.send(probe.payload(some), len(some))
        items = _listed(_value(probe, reply.status, reply.body))
        try:
            indexed(items, len(some), "results")
        except ValueError as e:
            wrong.append(f"a request with {len(some)} texts: {e}")
    return Finding(len(wrong), 3, tuple(wrong), "requests")


def _value(probe: Probe, status: int, body: bytes) -> Any:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if status != 200 or value is None:
        raise MeasurementProblem(f"endpoint {probe.endpoint.name!r}: expected JSON with status 200, found status {status}")
    return value


def _listed(value: Any) -> list[Any]:
    """What an answer lists: itself, or its member ``data`` or ``results``."""
    for name in ("data", "results"):
        if isinstance(value, dict) and isinstance(value.get(name), list):
            return list(value[name])
    if not isinstance(value, list):
        raise MeasurementProblem("the answer lists no results")
    return value


def base64(probe: Probe) -> Finding:
    """Vectors in base64 are those in numbers."""
    texts = probe.texts[:4]
    plain = probe.outputs(texts)
    try:
        said = probe.client.ask(texts, encoding=BASE64).said
    except EndpointProblem as e:
        if e.status is not None and 400 <= e.status < 500:
            return Finding(0, len(texts), ("base64 is refused in words",))
        if e.status == 200:
            return Finding(1, len(texts), (f"vectors in base64 cannot be read: {e}",))
        raise
    if said.encoding != BASE64:
        raise MeasurementProblem("asked for base64, the server answers with numbers; see service.encoding_format")
    again = probe.outputs(texts)
    if said.outputs.shape != plain.shape:
        return Finding(1, len(texts), (f"vectors in base64 have {said.dim} values, and in numbers {plain.shape[1]}",))
    apart, noise = _distances(said.outputs, plain), _distances(again, plain)
    worst = int(apart.argmax())
    words = (
        f"the vector of {shown(texts[worst])} in base64 lies {apart[worst]:.2g} of its length away from the same in numbers; "
        f"asked twice in numbers: {noise[worst]:.2g}"
    )
    return Finding(float(np.maximum(apart - noise, 0).max()), len(texts), (words,))


def _distances(a: Any, b: Any) -> Any:
    x, y = dense(a), dense(b)
    return np.linalg.norm(x - y, axis=1) / np.maximum(np.linalg.norm(y, axis=1), 1e-12)


def usage(probe: Probe) -> Finding:
    """Token counts are those of the model's tokenizer, special tokens included."""
    texts = list(probe.texts[:8])
    asked = [[text] for text in texts] + [texts]
    own = [sum(map(len, probe.as_sent([probe.prompt + t for t in some]))) for some in asked]
    said = [probe.client.ask(some, encoding=None).said.tokens for some in asked]
    if None in said:
        raise MeasurementProblem("the answers have no token counts" + _SKIP.format("usage"))
    more = np.asarray([s - o for s, o in zip(said, own, strict=True) if s is not None])
    if not more.any():
        return Finding(0, len(asked), (), "requests")
    worst = int(np.abs(more).argmax())
    words = (
        f"{len(asked[worst])} texts, first {shown(asked[worst][0])}: {said[worst]} tokens counted, {own[worst]} read by the model"
    )
    singles, special = more[:-1], probe.count("")
    if (singles == -special).all() and special:
        words += "; each count is that of the text without special tokens"
    elif len(set(singles.tolist())) == 1 and singles[0] > 0:
        words += f"; each text has {singles[0]} more, as of a prompt or template that the server adds"
    return Finding(float(np.abs(more).max()), len(asked), (words,), "requests")


def _asked(probe: Probe, n: int) -> Any:
    texts = list(probe.texts[:n])
    if probe.kind == CROSS_ENCODER:
        pairs = [TextPair.of(t) for t in texts]
        return probe.client.ask([p.second for p in pairs], query=pairs[0].first, encoding=None).said
    return probe.client.ask(texts, encoding=None).said
