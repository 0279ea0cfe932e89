"""Inputs that are empty, odd or huge: each gets an output or an error in words, and the server goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from qguard.endpoints.answer import Reply
from qguard.endpoints.protocols import Ask
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.judging.service.probe import Finding, Probe
from qguard.kinds import CROSS_ENCODER
from qguard.outputs import finite
from qguard.suites.paired import TextPair

HUGE, MANY = 2**20, 257  # letters of a text; texts of a request, over the limits that are common
_BUSY = (429, 503)

EMPTY: tuple[tuple[str, Any], ...] = (
    ("an empty text", [""]), ("a text of blanks", ["   "]), ("an empty text beside another", ["", "a text"]), ("no text", []),
)  # fmt: skip
ODD: tuple[tuple[str, Any], ...] = (
    ("a text with NUL", ["a\0b"]), ("control characters", ["\x1b[2J\x07\x08"]), ("half of a surrogate pair", ["a \ud83d b"]),
    ("joined emoji", ["\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e007f"]),
    ("text from right to left", ["\u202eabc \u05e9\u05dc\u05d5\u05dd"]), ("a word of 10,000 letters", ["a" * 10_000]),
    ("combining marks", ["a" + "\u0301" * 500]), ("a number for a text", 5), ("a list of numbers for a text", [[1.5]]),
    ("null", None),
    ("an object for a text", [{"a": 1}]),
)  # fmt: skip


def empty(probe: Probe) -> Finding:
    """Empty texts, and none."""
    return _tried(probe, EMPTY)


def odd(probe: Probe) -> Finding:
    """Odd texts, and what is no text."""
    return _tried(probe, ODD)


def huge(probe: Probe) -> Finding:
    """A text of a million letters, and many texts."""
    return _tried(probe, (("a text of a million letters", ["word " * (HUGE // 5)]), (f"{MANY} texts", ["a text"] * MANY)))


def _tried(probe: Probe, inputs: Iterable[tuple[str, Any]]) -> Finding:
    every = list(inputs)
    wrong = [f"{name}: {words}" for name, value in every if (words := _trouble(probe, value))]
    return Finding(len(wrong), len(every), tuple(wrong), "requests")


def _trouble(probe: Probe, value: Any) -> str:
    """What is wrong with the answer to an input, in words; empty for nothing.

    Raises:
        MeasurementProblem: when the server is too busy to tell.
    """
    for last in (False, True):
        try:
            reply = probe.client.send(_payload(probe, value), len(value) if isinstance(value, list) else 1)
        except EndpointProblem as e:
            after = _after(probe)
            if after or last:
                return f"{e}{after}"
            continue
        if reply.status in _BUSY:
            raise MeasurementProblem(f"the server is busy (status {reply.status}); ask it when it is idle")
        return _wrong(probe, reply, value) + _after_error(probe, reply)
    return ""


def _payload(probe: Probe, value: Any) -> dict[str, Any]:
    """A request with any value where its texts stand."""
    mark = ["qguard"]
    asked = [TextPair("query", mark[0])] if probe.kind == CROSS_ENCODER else mark
    payload = probe.payload(asked)
    name = next(name for name, found in payload.items() if found == mark)
    return {**payload, name: value}


def _wrong(probe: Probe, reply: Reply, value: Any) -> str:
    if reply.status == 200:
        return _wrong_outputs(probe, reply, value)
    said = reply.body.decode("utf-8", "replace")
    if 400 <= reply.status < 500:
        return "" if _has_words(reply.body) else f"status {reply.status} without a word"
    return f"status {reply.status} ({' '.join(said.split())[:80]!r}); expected an output, or an error of the client's in words"


def _wrong_outputs(probe: Probe, reply: Reply, value: Any) -> str:
    """Of an answer with status 200: outputs of the usual width for texts; nothing for no texts."""
    texts = value if isinstance(value, list) else [value]
    try:
        found = json.loads(reply.body)
        if not texts:
            return ""
        asked = Ask(texts, probe.kind, probe.client.model, "query", None, "", probe.endpoint.normalized, probe.client.width)
        outputs = probe.client.wire.read(found, asked).outputs
    except (ValueError, RecursionError) as e:
        probe.outputs([probe.texts[0]] * len(texts))  # where ordinary texts are not answered either, their checks tell
        return f"status 200, and no output that can be read: {e}"
    if int(outputs.shape[1]) != int(probe.alone.shape[1]):
        return f"status 200, and an output of {outputs.shape[1]} values, not {probe.alone.shape[1]}"
    if not finite(outputs).all() or (
        isinstance(outputs, np.ndarray) and probe.kind != CROSS_ENCODER and not outputs.any(1).all()
    ):
        return "status 200, and an output that is zero or not finite"
    return ""


def _has_words(body: bytes) -> bool:
    """Whether an error says something: any text in its JSON, or text that is no JSON."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return bool(body.strip())
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str) and found.strip():
            return True
        waiting += found.values() if isinstance(found, dict) else found if isinstance(found, list) else []
    return False


def _after_error(probe: Probe, reply: Reply) -> str:
    return _after(probe) if reply.status >= 500 else ""


def _after(probe: Probe) -> str:
    """Whether the server goes on, in words; empty where it does.

    Raises:
        MeasurementProblem: when it is so slow that nothing tells a slow answer from none.
    """
    start = time.monotonic()
    try:
        probe.outputs([probe.texts[0]])
    except EndpointProblem:
        return ", and then it answers a short text no more"
    if (took := time.monotonic() - start) > probe.endpoint.timeout / 4:
        raise MeasurementProblem(
            f"the server is too busy: a short text takes {took:.1f} of the {probe.endpoint.timeout:g} seconds that it may take"
        )
    return ""
