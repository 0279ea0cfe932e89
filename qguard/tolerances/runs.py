"""Runs of one artifact that should give the same values: other threads, batches, orders and kernels."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qguard.encoders import Encoder, Floats, TextEncoder, of_kind, open_runtime
from qguard.encoders.runtimes import RUNTIMES
from qguard.families import measure, sampled
from qguard.judging.invariance import measure_invariance
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison, Measured

BATCHES = (128, 2048)  # padded tokens; the gate's are 512 in ONNX Runtime and OpenVINO, 2,048 in torch
SERVED = 8  # texts of a batch filled as texts come, whatever their lengths


@dataclass(frozen=True)
class Run:
    """One run's values, whole suite and slices, without their worst items."""

    name: str
    measured: tuple[Measured, ...]


def repeated_runs(session: Session, target: Target, families: set[str]) -> Iterator[Run]:
    """The run of the gate, then others of the same files.

    Args:
        session: Holds the artifact and the golden.
        target: What is judged.
        families: Metric families to measure: those over the items of a suite, and ``invariance``; others are left out.

    Raises:
        QguardError: when the artifact cannot be judged.
    """
    ids = session.token_ids(target)
    encoder = session.encoder(target.precision, target.model)
    suite, rows = session.suite(target.suite, target.model), session.rows(target, encoder, ids)

    def run(name: str, comparison: Comparison, computed_by: Encoder | None = None) -> Run:
        found = [m for f in sampled(suite, session.kind(target.model)) if f in families for m in measure(comparison, f, worst=0)]
        if computed_by is not None and "invariance" in families:
            found += [replace(m, worst=()) for m in measure_invariance(computed_by, suite, ids, comparison.similarity)]
        return Run(name, tuple(found))

    yield run("as the gate runs", session.comparison(target), encoder)
    for name, other in _encoders(session, target, encoder):
        yield run(name, session.compared(target, other.encode_ids(ids)), other)
    yield from (run(name, session.compared(target, vectors)) for name, vectors in _batched(encoder, rows))
    order = list(range(len(ids)))
    random.Random(0).shuffle(order)
    served = [order[i : i + SERVED] for i in range(0, len(order), SERVED)]
    yield run(f"texts in random order, {SERVED} a batch", session.compared(target, encoder.encode_batches(rows, served)))


def _batched(encoder: Encoder, rows: Sequence[Any]) -> Iterator[tuple[str, Floats]]:
    """The same encoder with other batches."""
    if isinstance(encoder, TextEncoder):
        yield "each text alone", encoder.encode_batches(rows, [[i] for i in range(len(rows))])
        return
    usual = encoder.runtime.batch_tokens
    for tokens in BATCHES:
        if tokens != usual:
            encoder.runtime.batch_tokens = tokens
            try:
                yield f"batches of {tokens} tokens", encoder.encode_rows(rows)
            finally:
                encoder.runtime.batch_tokens = usual


def _encoders(session: Session, target: Target, encoder: Encoder) -> Iterator[tuple[str, Encoder]]:
    """The same files with other threads and, in ONNX Runtime, other kernels; none without files, or where texts are taken."""
    precision = target.precision
    artifact = session.artifact(precision, target.model)
    runtime = artifact.runtime(precision.runtime)
    if not artifact.has_files or isinstance(encoder, TextEncoder):
        return
    path, feeding = artifact.runs, artifact.feeding.padded_by(encoder.tokenizer)
    told = of_kind(RUNTIMES.find(runtime), artifact.pipeline.kind)
    for threads in (1, 2):
        if not (runtime == "onnx" and threads == 1):  # which is the gate's
            given = threads, session.config.device, feeding, artifact.javascript
            opened = open_runtime(runtime, path, precision.base, *given, **told)
            yield f"{threads} thread{'s' * (threads > 1)} a batch", Encoder(encoder.tokenizer, opened, encoder.head)
    if runtime == "onnx":
        opened = open_runtime(runtime, path, precision.base, feeding=feeding, optimise=False)
        yield "kernels not fused", Encoder(encoder.tokenizer, opened, encoder.head)
