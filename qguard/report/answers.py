"""A run's verdict as separate answers: that speed was not measured says nothing about accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qguard.families import FAMILIES, TIMED
from qguard.latency.decision import BUSY, UNDECIDED, UNTIMED
from qguard.vectors.quantized import FLOAT

ACCURACY, SERVICE, PRECISION, SIZE, SPEED, MEMORY = "Accuracy", "Service", "Precision", "Size", "Speed", "Memory"
TOPICS = (ACCURACY, SERVICE, PRECISION, SIZE, SPEED, MEMORY)
HEADS = {"artifact.unit_length", "artifact.output_agreement", "artifact.head"}  # what a file pools and normalizes itself
_HOLDS, _FAILS, _UNMEASURED, _UNGATED, _OFF = "holds", "fails", "not measured", "not gated", "left out"


def answers(run: Mapping[str, Any]) -> dict[str, str]:
    """Topic → ``holds``, ``fails``, ``not measured``, ``not gated`` or ``left out``, in the order of :data:`TOPICS`.

    Accuracy is what vectors, neighbors and tasks say, and whether a file pools and normalizes as the model does; service,
    whether a server does what it is asked; precision, whether the file computes in what it is named after.

    Args:
        run: Of a report, schema 2. What nothing asks for has no answer.
    """
    found: dict[str, set[str]] = {topic: set() for topic in TOPICS}
    for c in run["checks"]:
        gated = c["bound"] or c.get("accepted")
        state = _UNMEASURED if c["outcome"] in UNDECIDED else _FAILS if c["outcome"] == "fail" else _HOLDS if gated else _UNGATED
        # whoever takes what a file pooled itself gets other vectors
        found[ACCURACY if c["name"] in HEADS else _topic(str(c["name"]))].add(state)
    for test in run["missing"]:
        for topic in _topics_of(test, run.get("vectors", FLOAT)):
            found[topic].add(_UNMEASURED)
    if any(UNTIMED in error for error in run["errors"]):
        found[SPEED].add(_UNMEASURED)
    for name in run.get("left_out", []):
        found[_topic(str(name))].add(_OFF)
    worst_first = (_FAILS, _UNMEASURED, _HOLDS, _UNGATED, _OFF)
    told = {topic: next(s for s in worst_first if s in states) for topic, states in found.items() if states}
    return {topic: state for topic, state in told.items() if state not in (_UNGATED, _OFF) or topic == SPEED}


def sentences(run: Mapping[str, Any]) -> str:
    """The answers in words: ``Accuracy holds. Size holds. Speed not measured: machine too busy.``"""
    busy = any(BUSY in error for error in run["errors"])
    return " ".join(
        f"{topic} {state}{f': {BUSY}' if busy and (topic, state) == (SPEED, _UNMEASURED) else ''}."
        for topic, state in answers(run).items()
    )


def only_speed(run: Mapping[str, Any]) -> bool:
    """Whether nothing but speed was not measured."""
    return [topic for topic, state in answers(run).items() if state == _UNMEASURED] == [SPEED]


def _topic(metric: str) -> str:
    if metric.endswith(".size_ratio"):
        return SIZE
    family = FAMILIES.get(metric.partition(".")[0])
    needs = family.needs if family else ()  # of another package that is not installed here
    if "process" in needs:
        return MEMORY if family and family.name == "memory" else SPEED
    if "endpoint" in needs:
        return SERVICE
    return PRECISION if "files" in needs else ACCURACY


def _topics_of(test: str, vectors: str) -> list[str]:
    """What a gate test would have told."""
    name = test.partition("[")[0]
    if name == TIMED:
        return [SPEED]
    metrics = [m.name for f in FAMILIES.values() if f.test == name for m in f.metrics if vectors in m.vectors]
    return list(dict.fromkeys(map(_topic, metrics))) or [ACCURACY]
