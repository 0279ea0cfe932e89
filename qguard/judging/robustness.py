"""From a session to the values of generated texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import MeasurementProblem
from qguard.gates import Gate
from qguard.gates.check import Check, judge
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.judging.once import once
from qguard.kinds import DENSE
from qguard.latency.check import fingerprint
from qguard.metrics import Measured
from qguard.robustness.exact import Exact
from qguard.robustness.features import describe
from qguard.robustness.kept import MOST, keep, kept_file, read_kept
from qguard.robustness.metrics import COSINE, NAMES, reduced
from qguard.robustness.probe import Probe
from qguard.robustness.search import Found, search

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision


def gated(session: Session, precision: Precision, model: str) -> list[Gate]:
    """The bounds that generated texts must hold; none where they are only reported."""
    if session.config.robustness.mode != "gate":
        return []
    return [g for g in session.gates(precision, model) if g.metric in NAMES]


def tried(session: Session, precision: Precision) -> bool:
    """Whether generated texts are tried; not with vectors that are quantized or cut: the model is that of the plain precision."""
    return session.config.robustness.mode != "off" and precision == precision.plain


def judge_robustness(session: Session, target: Target) -> list[Check]:
    """The checks of a target's precision and model: all suites share one search.

    Raises:
        MeasurementProblem: when nothing failed, and a gate bounds what none of the texts and batches gave.
    """
    made, gates = measure_robustness(session, target.precision, target.model), gated(session, target.precision, target.model)
    found = judge(made, gates, target.suite)
    lost = sorted({g.metric for g in gates} - {m.name for m in made})
    if lost and all(c.outcome != "fail" for c in found):
        raise MeasurementProblem(
            f"no value for {', '.join(lost)}: none of the generated texts and batches gave one; try more of them: "
            f"examples = {max(20, 2 * session.config.robustness.examples)} in [tool.qguard.robustness]"
        )
    return found


def probe_of(session: Session, precision: Precision, model: str) -> Probe:
    """The candidate beside fp32 of its runtime, or of another that computes fp32; see :func:`qguard.judging.fp32.fp32_runtime`.

    Raises:
        QguardError: when either cannot be made or run.
    """
    base, candidate = session.model(model), session.encoder(precision, model)
    runtime = fp32_runtime(session, precision, model)
    pipeline = base.pipeline
    tokenizer = session.reference_tokenizer(model)
    fp32 = session.fp32(model, runtime)

    dense = session.kind(model) == DENSE
    files = fp32.provenance.get("files")
    where = fingerprint(0, RUNTIMES.find(runtime).device(session.config.device), runtime)
    key = [files, runtime, where, pipeline.sha256()] if dense and files else None
    longest = pipeline.max_seq_length
    exact = Exact.of(lambda: fp32_encoder(session, model, runtime), key)
    return Probe(candidate, exact, tokenizer, pipeline.unit_length, longest, session.similarity(model))


@once
def measure_robustness(session: Session, precision: Precision, model: str) -> list[Measured]:
    """Search, keep the worst texts, and reduce what was tried to one value a property.

    Raises:
        QguardError: when the encoder fails on a text, or nothing could be tried.
    """
    probe = probe_of(session, precision, model)
    settings, base = session.config.robustness, session.model(model)
    file = kept_file(base.weight_sha256, base.tokenizer_sha256, f"{precision.name}@{precision.runtime}")
    known = list(dict.fromkeys([*read_kept(file), *replayed(session)]))
    gates = gated(session, precision, model)
    found = search(probe, gates, settings.examples, settings.seed, known, probe.candidate.workers)
    probe.exact.keep()
    _keep_worst(file, found)
    values = reduced(found.tried, lambda text: describe(text, probe.tokenizer), found.broken)
    failed = {v.name for v in values for g in gates if g.applies(v) and not g.bound.holds(v.value)}
    return [replace(v, worst=(*v.worst, _told(found))) if v.name in failed else v for v in values]


def replayed(session: Session) -> list[str]:
    """The texts that the project has tried first."""
    source = session.config.robustness.replay
    if source is None:
        return []
    from qguard.suites.reader import read_suite

    return list(read_suite("replay", session.config.located("robustness.replay", source)).texts)


def _keep_worst(file: Path, found: Found) -> None:
    worst = sorted(found.tried, key=lambda t: t.values[COSINE])
    first = [found.broken] if found.broken is not None else []
    keep(file, [*first, *(t.text for t in worst[: 2 * MOST])])


def _told(found: Found) -> str:
    how = "known from an earlier run, and tried first" if found.replayed else f"shrunk by Hypothesis, seed {found.seed}"
    company = "" if len(found.batch) == 1 else f", in the batch {[t[:60] for t in found.batch]!r}"
    return f"the first of these is {how}{company}; it is tried first in the next run"
