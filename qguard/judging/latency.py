"""What is timed of each precision, and against what: the session's side of the latency gates."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from qguard import accepted
from qguard.encoders.runtimes import ENDPOINT
from qguard.gates import Gate
from qguard.gates.check import Check, judge
from qguard.goldens import golden_folder
from qguard.judging import load
from qguard.judging.once import once
from qguard.kinds import CROSS_ENCODER
from qguard.latency.arms import ArmSpec
from qguard.latency.check import GATED_TOKENS, Bucket, PlannedTrial, compare, same_outputs, spec_of
from qguard.latency.memory import NAME, kept_peak, peak_bytes
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.precisions import Precision, fp32_of

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target


SMALL = 1 << 30  # bytes of fp32, of which two processes at once fit everywhere
# of a cross-encoder: one pair, and the candidates of one query
OF_PAIRS = (Bucket(64, 1), Bucket(64, 100))


def buckets(session: Session, precision: Precision, model: str | None = None) -> list[Bucket]:
    """The latency buckets of a precision; none where nothing is promised and nothing is to be compared with.

    Nor with vectors that are quantized or cut: they are made after the model ran, and its latency is that of the plain
    precision. Nor of a runtime that is not timed in this process; a server is timed from outside.
    """
    latency = session.config.latency
    if latency.mode == "off" or precision != precision.plain:
        return []
    if precision.runtime == ENDPOINT:
        return load.buckets(session, precision)
    if not precision.runs_in.timed:
        return []
    if not (speedup(session, precision, model) or session.has_baseline):
        return []
    if model is not None and session.kind(model) == CROSS_ENCODER and not {"tokens", "batches"} & latency.model_fields_set:
        return list(OF_PAIRS)
    return [Bucket(t, b) for t in latency.tokens for b in latency.batches]


def speedup(session: Session, precision: Precision, model: str | None = None) -> Gate | None:
    """The bound on ``latency.speedup`` that a precision promises or the project sets; fp32 promises none.

    Nor does any precision of a static model: it looks rows up, and both sides take some microseconds.

    Args:
        session: Whose configuration is asked.
        precision: What is timed.
        model: Of which model; without, of one with multiplications.
    """
    if model is not None and session.static(model) and session.config.latency.speedup is None:
        return None
    promised = precision.recipe.speedup and Bound.of(precision.recipe.speedup, "latency.speedup")
    bound = None if precision.base == "fp32" else session.config.latency.speedup or promised
    return Gate("latency.speedup", None, bound) if bound else None


def gates(session: Session, precision: Precision, model: str, bucket: Bucket) -> list[Gate]:
    """The gates of one bucket, but for the trend."""
    if precision.runtime == ENDPOINT:
        return load.gates(session, precision, bucket)
    settings = session.config.latency
    if settings.mode != "gate":
        return []
    promised = speedup(session, precision, model)
    found = [Gate(promised.metric, str(bucket), promised.bound)] if promised else []
    if session.has_baseline and bucket.tokens >= GATED_TOKENS:
        found.append(Gate("latency.regression", str(bucket), settings.regression))
    return found


def gate_count(session: Session, precisions: list[Precision]) -> int:
    """How many latency gates a run with these precisions has; the chance of a false alarm is shared among them."""
    of = [(p, m, b) for p in precisions for m in session.config.models for b in buckets(session, p, m)]
    return max(1, sum(len(gates(session, *each)) for each in of))


Timed = list[tuple[Check, dict[str, Any], list[float]]]


def trials(session: Session, target: Target, bucket: Bucket, count: int) -> Timed:
    """What is timed in one bucket: check, facts and the candidate's timed runs (seconds) of each.

    Args:
        session: What is judged.
        target: Precision, model and suite.
        bucket: The shape, and of a server the load.
        count: Latency gates of the whole run.

    Raises:
        MeasurementProblem: when the timed outputs are not the judged ones, or nothing could be timed.
    """
    if target.precision.runtime == ENDPOINT:
        if bucket.mode:
            return load.measured(session, target, bucket, count)
        with load.planned(session, target, bucket) as (asked, texts):
            return _run(session, target, bucket, asked, texts, count)
    settings, precision = session.config.latency, target.precision
    device = session.config.device
    batch = bucket.fill(session.golden(target.model, target.suite).token_ids)
    artifact = session.artifact(precision, target.model)
    candidate = spec_of(artifact, precision, settings.threads, device=device)
    first = partial(_first, session) if session.model(target.model).fp32_bytes < SMALL else None
    same_outputs((first or ArmSpec.open_runtime)(candidate), batch, session.encoder(precision, target.model))
    todo = []
    if promised := speedup(session, precision, target.model):
        fp32 = session.fp32(target.model, candidate.runtime)
        gate = promised if settings.mode == "gate" else None
        baseline = spec_of(fp32, fp32_of(candidate.runtime), settings.threads, device=device)
        todo.append(PlannedTrial("latency.speedup", gate, baseline, candidate, first))
    if session.has_baseline:
        deployed = session.deployed(target.model) or artifact
        limit = Gate("latency.regression", None, settings.regression)
        gated = settings.mode == "gate" and bucket.tokens >= GATED_TOKENS
        # with another interpreter both arms run in workers, so that only the environments differ
        python = session.baseline_python
        arms = (
            spec_of(deployed, precision, settings.threads, python, device),
            spec_of(artifact, precision, settings.threads, sys.executable if python else None, device),
        )
        todo.append(PlannedTrial("latency.regression", limit if gated else None, *arms))
    return _run(session, target, bucket, todo, batch, count)


@once
def _first(session: Session, spec: ArmSpec) -> Any:
    """The runtime of an arm's first session, which all buckets share: to open it takes as long as a short trial."""
    return spec.open_runtime()


def _run(session: Session, target: Target, bucket: Bucket, todo: list[PlannedTrial], batch: Any, count: int) -> Timed:
    settings, out = session.config.latency, Timed()
    threads = 1 if target.precision.runtime == ENDPOINT else settings.threads
    for comparison in todo:
        check, facts, trial = compare(
            comparison, bucket, batch, target.suite, gates=count, threads=threads, budget=settings.budget
        )
        out.append((check, facts, trial.runs))
        if moved := _trend(session, target, facts):
            out.append((moved, {}, []))
    return out


def _trend(session: Session, target: Target, facts: dict[str, Any]) -> Check | None:
    """``latency.trend``: slowdown against the ratio accepted on an equal fingerprint; gated only if configured."""
    folder = golden_folder(session.config.golden_root, target.model, target.suite)
    found = accepted.trend(folder, f"{target.precision.name}@{target.precision.runtime}", facts)
    if found is None:
        return None
    slowdown, entry = found
    facts["accepted"] = {k: entry[k] for k in ("ratio", "interval", "date")} | {"slowdown": slowdown}
    words = f"{facts['metric']}[{facts['bucket']}] {facts['ratio']:.2f}, accepted {entry['ratio']:.2f} on {entry['date']}"
    if accepted.moved(slowdown):
        words += f": moved by more than {accepted.MOVED:.0%} on an equal machine"
    measured = Measured("latency.trend", facts["bucket"], slowdown, facts["pairs"], False, (words,))
    bound = session.config.latency.trend if session.config.latency.mode == "gate" else None
    gates = [Gate("latency.trend", "*", bound)] if bound else []
    return judge([measured], gates, target.suite)[0]


def memory(session: Session, target: Target, bucket: Bucket) -> list[Check]:
    """``memory.ratio``: peak memory of a process that runs the candidate, over fp32 in the same runtime and device.

    In the last bucket alone, and not of a server.
    """
    if bucket != buckets(session, target.precision, target.model)[-1] or target.precision.runs_in.cannot_measure(NAME):
        return []
    threads, device = session.config.latency.threads, session.config.device
    batch = bucket.fill(session.golden(target.model, target.suite).token_ids)
    candidate = spec_of(session.artifact(target.precision, target.model), target.precision, threads, device=device)
    baseline = session.fp32(target.model, candidate.runtime)
    fp32 = spec_of(baseline, fp32_of(candidate.runtime), threads, device=device)
    known = baseline.provenance.get("files")
    of_fp32 = partial(kept_peak, files=known) if known else peak_bytes
    with ThreadPoolExecutor(2 if baseline.bytes < SMALL else 1) as pool:  # nothing is timed meanwhile
        peaks = list(pool.map(lambda measure, spec: measure(spec, batch), (peak_bytes, of_fp32), (candidate, fp32)))
    words = f"{peaks[0] / 1e6:.0f} MB against {peaks[1] / 1e6:.0f} MB, {bucket.tokens} tokens x {bucket.batch}"
    measured = Measured(NAME, None, peaks[0] / peaks[1], 1, False, (words,))
    return judge([measured], session.gates(target.precision, target.model), target.suite)


def judge_latency(session: Session, target: Target) -> list[Check]:
    """The checks of every bucket of a target."""
    count = gate_count(session, [target.precision])
    found = (trials(session, target, bucket, count) for bucket in buckets(session, target.precision, target.model))
    return [check for made in found for check, _, _ in made]


def judge_memory(session: Session, target: Target) -> list[Check]:
    """The check of peak memory, in the last bucket of a target."""
    return memory(session, target, buckets(session, target.precision, target.model)[-1])
