"""The latency gate: which arms are compared in which bucket, and what the outcome means."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from qguard.artifacts.artifact import Artifact
from qguard.encoders.runtimes import RUNTIMES, libraries
from qguard.errors import MeasurementProblem
from qguard.gates import Gate
from qguard.gates.check import Check
from qguard.latency.arms import ArmSpec, Batch
from qguard.latency.confirm import confirm
from qguard.latency.decision import BUSY, FAIL, UNDECIDED, UNTIMED, Rule
from qguard.latency.served import ServedSpec
from qguard.latency.trial import Arm, Trial, run_trial
from qguard.machine.cpu import ISA, cpu
from qguard.machine.cuda import card
from qguard.precisions import Precision
from qguard.vectors.similarity import similarity_of

SUSPICIOUS = 8.0  # times fp32: more than any recipe here can explain
SHOWN = 2  # texts: a session that computes something else does so on any
GATED_TOKENS = 64  # below, the luck of a session is as large as the margin


@dataclass(frozen=True, order=True)
class Bucket:
    """Texts of one length in batches of one size.

    Attributes:
        tokens: Of each text.
        batch: Texts of a batch, or of a request.
        mode: Of a load, one of :data:`qguard.latency.load.MODES`; empty for a paired trial.
    """

    tokens: int
    batch: int
    mode: str = ""

    def __str__(self) -> str:
        return f"{self.tokens}x{self.batch}" + (f"-{self.mode}" if self.mode else "")

    def fill(self, token_ids: Sequence[Sequence[int]]) -> Batch:
        """A batch of this shape from real token ids: texts cut to ``tokens``, joined where the suite has none so long.

        Args:
            token_ids: Token ids of texts, first and last are special tokens.

        Returns:
            input_ids, attention_mask and, of pairs, token_type_ids, int64 (batch, tokens); every token is text.
        """
        from qguard.encoders import padded
        from qguard.encoders.tokenizer import Tokens, shortened, types_of

        near = sorted((row for row in token_ids if len(row) >= self.tokens), key=len)[: self.batch]
        if not near:
            inner = self.tokens - 2
            joined = [t for row in token_ids for t in row[1:-1]]
            if not joined:
                raise MeasurementProblem("the suite has no text to measure latency with")
            types = types_of(token_ids[0])
            ids = [token_ids[0][0], *(joined * (inner // len(joined) + 1))[:inner], token_ids[0][-1]]
            half = self.tokens // 2  # as of two texts of one length
            near = [ids if types is None else Tokens(ids, types=[0] * half + [1] * (self.tokens - half))]
        return padded([shortened(near[i % len(near)], self.tokens) for i in range(self.batch)])


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to run: ``latency.speedup`` (baseline fp32 / candidate) or ``latency.regression`` (candidate / baseline).

    ``first`` gives the runtimes of both first sessions, for arms in this process; see :meth:`qguard.latency.arms.ArmSpec.arm`.
    """

    metric: str
    gate: Gate | None
    baseline: ArmSpec | ServedSpec
    candidate: ArmSpec | ServedSpec
    first: Callable[[ArmSpec], Any] | None = None

    def arms(self, batch: Any) -> tuple[Arm, Arm]:
        """Baseline and candidate."""
        a, b = (s.arm(batch, self.first) if isinstance(s, ArmSpec) else s.arm(batch) for s in (self.baseline, self.candidate))
        return a, b

    @property
    def limit(self) -> float:
        """The gate as a bound on log(candidate / baseline)."""
        if self.gate is None:
            return 0.0
        return -math.log(self.gate.bound.number) if self.metric == "latency.speedup" else math.log(self.gate.bound.number)

    def ratio(self, d: float) -> float:
        """The metric's value for a log ratio candidate / baseline."""
        return math.exp(-d if self.metric == "latency.speedup" else d)


def spec_of(artifact: Artifact, precision: Precision, threads: int, python: str | None = None, device: str = "cpu") -> ArmSpec:
    """The arm that runs an artifact; a runtime that has not the configured ``device`` runs on its own.

    Raises:
        MeasurementProblem: for a runtime that is not timed in this process.
    """
    record = RUNTIMES.find(artifact.runtime(precision.runtime))
    if why := record.cannot_measure("latency"):
        raise MeasurementProblem(f"{precision}: {why}")
    where = threads, python, record.device(device)
    around = artifact.feeding, artifact.pipeline.kind, artifact.javascript
    return ArmSpec(record.name, str(artifact.runs), precision.base, *where, *around)


def compare(
    comparison: PlannedTrial, bucket: Bucket, batch: Any, suite: str, *, gates: int, threads: int, budget: float
) -> tuple[Check, dict[str, Any], Trial]:
    """Run one trial, confirm a failure, and judge.

    Args:
        comparison: What is compared with what.
        bucket: The shape; gated from :data:`GATED_TOKENS` for a regression.
        batch: The timed batch, or the texts of a server's requests.
        suite: For the check.
        gates: Latency gates of the whole run; the probability of a false alarm is shared among them.
        threads: Threads of each arm.
        budget: Seconds for the trial.

    Returns:
        The check (outcome ``pass``, ``fail``, ``reported``, ``inconclusive`` or ``runner unfit``), the facts for
        reports, and the trial.

    Raises:
        UntimedProblem: where other work interrupted every run.
    """
    rule = replace(Rule(comparison.limit), redrawn=comparison.candidate.redrawn).divided(gates)
    options = {"tokens": bucket.tokens, "threads": threads, "budget": budget}
    trial = run_trial(*comparison.arms(batch), rule, **options)  # type: ignore[arg-type]
    if not trial.look.pairs:
        raise UntimedProblem(
            f"{not_measured(trial.note)}\n    {comparison.metric}[{bucket}]: no pair in {trial.seconds:.1f} s; {trial.note}"
        )
    outcome, note = trial.look.outcome, trial.note
    if comparison.gate is None:
        outcome = "reported"
    elif outcome == FAIL:
        outcome, note = confirm(trial, (comparison.baseline, comparison.candidate), batch, rule, options)
    value = comparison.ratio(trial.look.estimate)
    low, high = sorted((comparison.ratio(trial.look.low), comparison.ratio(trial.look.high)))
    # few pairs bound one side only: no number stands for the other (JSON has no infinity)
    ends = [low if low > 0 else None, high if math.isfinite(high) else None]
    a, b = (m * 1000 for m in trial.medians)
    words = (
        f"{bucket.tokens} tokens x {bucket.batch}: baseline {a:.2f} ms, candidate {b:.2f} ms, ratio {value:.2f} "
        f"({interval_text(ends)}), {trial.look.pairs} pairs in {trial.look.sessions} sessions, {trial.seconds:.1f} s"
        + (f"; {note}" if note else "")
    )
    if comparison.metric == "latency.speedup" and value > SUSPICIOUS:
        words += f"; suspicious: over {SUSPICIOUS:g} x fp32 is more than quantization explains, look at what was left out"
    gate, candidate = comparison.gate, comparison.candidate
    runtime = candidate.runtime if isinstance(candidate, ArmSpec) else "torch"
    bound = None if gate is None else gate.bound
    margin = None if bound is None else bound.margin(value)
    check = Check(comparison.metric, suite, str(bucket), value, bound, outcome, margin, trial.look.pairs, (words,))
    facts = {
        "metric": comparison.metric, "bucket": str(bucket), "outcome": outcome, "ratio": value, "interval": ends,
        "baseline_ms": a, "candidate_ms": b, "pairs": trial.look.pairs, "sessions": trial.look.sessions,
        "ratios": [round(comparison.ratio(d), 4) for session in trial.sessions for d in session],
        "suspicious": comparison.metric == "latency.speedup" and value > SUSPICIOUS,
        "seconds": round(trial.seconds, 2), "dropped": round(trial.dropped, 3),
        "fingerprint": fingerprint(threads, candidate.device, runtime) | candidate.marks,
    }  # fmt: skip
    return check, facts, trial


def interval_text(ends: Sequence[float | None]) -> str:
    """An interval, either end of which may be unknown."""
    low, high = ends
    if low is None or high is None:
        return "no bound" if low is high else f"at least {low:.2f}" if low is not None else f"at most {high:.2f}"
    return f"{low:.2f} to {high:.2f}"


def undecided(check: Check) -> bool:
    """Whether a check says neither yes nor no."""
    return check.outcome in UNDECIDED


class UntimedProblem(MeasurementProblem):
    """A latency that this machine could not time now: it says nothing about the artifact."""


def not_measured(note: str) -> str:
    """What leads the text on a latency that was not measured."""
    return f"{UNTIMED}, {BUSY}" if BUSY in note else UNTIMED


def same_outputs(candidate: Any, batch: Batch, encoder: Any) -> None:
    """What is timed must compute what the accuracy checks judged, shown on the first :data:`SHOWN` texts of the batch.

    Args:
        candidate: The runtime of the candidate's first session.
        batch: What is timed.
        encoder: That of the accuracy checks.

    Raises:
        MeasurementProblem: when the timed runtime's outputs differ from the encoder's (cosine, or what the similarity of another
            kind of model has, below 0.9999).
    """
    from qguard.encoders.tokenizer import Tokens

    batch = tuple(array[:SHOWN] for array in batch)
    rows = [Tokens(row, counted=[True] * len(row)) for row in batch[0].tolist()]  # of no role, and every token is text
    timed, judged = (encoder.head(runtime(*batch), batch[1], rows) for runtime in (candidate, encoder.runtime))
    least = similarity_of(encoder.head.pipeline).nearness(timed, judged).min()
    if not least >= 0.9999:
        raise MeasurementProblem(f"the timed outputs are not those of the accuracy run: cosine {least:.4f}")


@cache
def fingerprint(threads: int, device: str = "cpu", runtime: str = "torch") -> dict[str, Any]:
    """What a ratio of times depends on: CPU, its instruction sets, runtime version, threads; the name of a CUDA device.

    Args:
        threads: Of one run.
        device: Where it computes, ``cpu`` or ``cuda``.
        runtime: What computes on a CUDA device; torch tells of it where it is torch, else the driver.
    """
    from qguard.machine.versions import installed

    model, flags = cpu()
    name: dict[str, Any] = {}
    if device == "cuda" and "torch" not in RUNTIMES.find(runtime).libraries:
        found = card()
        name = {"device": found.name if found else "absent", "cuda": found.cuda if found else None}
    elif device == "cuda":
        import torch

        there = torch.cuda.is_available()
        name = {"device": torch.cuda.get_device_name() if there else "absent", "cuda": torch.version.cuda}
    return {
        **name, "cpu": model, "isa": [f for f in ISA if f in flags], "cores": os.cpu_count(), "threads": threads,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}", **installed(*libraries(timed=True)),
    }  # fmt: skip
