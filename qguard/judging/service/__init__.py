"""What only a server can get wrong: it answers with status 200, and did not do what it was asked.

Each check asks the server a few questions and says in words what it did. One that could not ask has no value, and the family's
test is then not measured, unless another check fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qguard.boundary import step
from qguard.encoders.runtimes import ENDPOINT
from qguard.endpoints.settings import COHERE, OLLAMA, TEI
from qguard.errors import QguardError
from qguard.gates.check import Check, PartlyMeasured, judge
from qguard.judging.once import once
from qguard.judging.service import answers, changed, company, heeded, inputs, replicas, truncation
from qguard.judging.service.probe import Finding, Probe
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.metrics.service import BOUNDS, INVARIANCE, METRICS, NAMES, NONE, OF_BATCH
from qguard.models.pipeline import UNLIMITED

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision

Ask = Callable[[Probe], Finding]

_ASKED = re.compile(r"^endpoint \S+, POST \S+: ")  # which leads every message of the client

_VECTORS, _TEXTS, _ALL = (DENSE,), (DENSE, SPARSE), (DENSE, SPARSE, CROSS_ENCODER)
# metric → the kinds of models that have it, and what asks
CHECKS: Mapping[str, tuple[tuple[str, ...], Ask]] = {
    "model": (_ALL, answers.model),
    "dimension": (_TEXTS, answers.dimension),
    "norm": (_VECTORS, answers.norm),
    "index": (_ALL, answers.index),
    "order": (_ALL, company.order),
    "base64": (_VECTORS, answers.base64),
    "alone_vs_batch": (_ALL, company.alone_vs_batch),
    "concurrent": (_ALL, company.concurrent),
    "usage": (_TEXTS, answers.usage),
    "prompt": (_TEXTS, changed.prompt),
    "whitespace": (_TEXTS, changed.whitespace),
    "case": (_TEXTS, changed.case),
    "truncation": (_TEXTS, truncation.length),
    "truncation_side": (_TEXTS, truncation.side),
    "dimensions": (_VECTORS, heeded.dimensions),
    "encoding_format": (_VECTORS, heeded.encoding_format),
    "unknown_model": (_ALL, heeded.unknown_model),
    "empty": (_ALL, inputs.empty),
    "odd": (_ALL, inputs.odd),
    "huge": (_ALL, inputs.huge),
    "replicas": (_ALL, replicas.agree),
    "restart": (_ALL, replicas.restart),
}

# what a protocol has no words for
_UNSAID = {
    TEI: ("model", "unknown_model", "usage", "base64", "encoding_format"),
    OLLAMA: ("index", "base64", "encoding_format"),
    COHERE: ("dimensions",),
}
_UNINDEXED = ((TEI, DENSE), (TEI, SPARSE))


def is_server(precision: Precision) -> bool:
    """Whether a precision is what a server answers; with vectors that are quantized or cut, the plain one is."""
    return precision.runtime == ENDPOINT and precision == precision.plain


def tried(session: Session, precision: Precision) -> bool:
    """Whether the server of a precision is examined."""
    return is_server(precision) and session.config.service.mode != "off"


def judge_service(session: Session, target: Target) -> list[Check]:
    """The checks of a target's server; all suites share one examination.

    Raises:
        PartlyMeasured: when some could not be measured; it holds the others.
    """
    measured, problems = examine(session, target.precision, target.model)
    gating = session.config.service.mode == "gate"
    gates = [g for g in session.gates(target.precision, target.model) if g.metric.startswith("service.")] if gating else []
    checks = judge(measured if gating else [replace(m, bound=None) for m in measured], gates, target.suite)
    if problems:
        some = "; ".join(f"{name}: {why}" for name, why in problems.items())
        raise PartlyMeasured(f"endpoint {target.precision.server.name!r} could not be asked everything. {some}", checks)
    return checks


def _promised(session: Session, precision: Precision, model: str, name: str) -> Bound:
    """What a value must hold where the project says nothing."""
    if name in OF_BATCH:
        own = [g for g in session.gates(precision, model) if (g.metric, g.slice) == (INVARIANCE, None)]
        return own[0].bound if own else BOUNDS[name]
    return BOUNDS.get(name, NONE)


def left_out(session: Session, precision: Precision, model: str) -> dict[str, str]:
    """The metrics that are not measured of a server on purpose, each with its reason."""
    if not tried(session, precision):
        return {}
    endpoint, kind = precision.server, session.kind(model)
    found = dict.fromkeys(_UNSAID.get(endpoint.protocol, ()), f"the protocol {endpoint.protocol!r} has no words for it")
    if (endpoint.protocol, kind) in _UNINDEXED:
        found["index"] = "answers of this protocol have no index"
    if not endpoint.replicas:
        found["replicas"] = "no other replica is given (--endpoint-replica URL)"
    if not (endpoint.restart or endpoint.fingerprint):
        found["restart"] = "the endpoint's table names neither a command that restarts it (restart) nor a file (fingerprint)"
    if session.declared(model).get("max_seq_length", 0) >= UNLIMITED // 2:
        found |= dict.fromkeys(("truncation", "truncation_side"), "the model reads texts of any length")
    if endpoint.normalized is False and session.declared(model).get("normalize"):
        found["norm"] = "the settings say that the server does not scale vectors to unit length (normalized = false)"
    found |= dict.fromkeys(session.config.service.skip, "[tool.qguard.service] skip")
    return {f"service.{name}": why for name, why in found.items() if kind in CHECKS[name][0]}


@once
def examine(session: Session, precision: Precision, model: str) -> tuple[list[Measured], dict[str, str]]:
    """Every value that a server allows, and why the others could not be measured.

    Raises:
        QguardError: when the server does not answer at all.
    """
    gone = left_out(session, precision, model)
    infos = {m.name: m for m in METRICS}
    measured, problems = [], {}
    with Probe.open(session, precision, model) as probe:
        probe.first_answer()
        for name in NAMES:
            kinds, ask = CHECKS[name]
            full = f"service.{name}"
            if probe.kind not in kinds or full in gone:
                continue
            try:
                with step(f"measuring {full}"):
                    found = ask(probe)
            except QguardError as e:
                problems[full] = _ASKED.sub("", str(e))
                continue
            bound = _promised(session, precision, model, name)
            words = () if bound.holds(found.value) else found.words  # which say what is wrong
            better = infos[full].higher_is_better
            measured.append(Measured(full, None, found.value, found.items, better, words, bound, noun=found.noun))
    return measured, problems
