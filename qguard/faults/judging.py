"""The real gate on one faulty candidate: which check fails first, by how much, and what else fails."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qguard.encoders import Encoder, Floats, TextEncoder
from qguard.errors import GoldenProblem, LibraryProblem, QguardError
from qguard.faults import Fault
from qguard.faults.site import Candidate, FaultSite, NotApplicable
from qguard.gates.check import Check
from qguard.judging import latency
from qguard.judging.once import once
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.metrics.bounds import Bound
from qguard.precisions import Precision
from qguard.vectors.quantized import FLOAT

CAUGHT, MISSED, UNDECIDED, NOT_APPLICABLE, BROKEN = "caught", "missed", "undecided", "not applicable", "broken"
_LONGEST = 150  # characters of a message that are kept


@dataclass(frozen=True)
class Failure:
    """What one gate test says against a candidate: its first failed check, or why it could not measure.

    Attributes:
        gate: ``golden``, a metric family or ``latency``.
        check: Name and slice of the check; empty where ``words`` is an error.
        words: The first sentence of the error; empty for a check.
    """

    gate: str
    check: str = ""
    value: float | None = None
    bound: Bound | None = None
    margin: float | None = None
    words: str = ""

    @classmethod
    def of(cls, gate: str, check: Check) -> Failure:
        """Of a failed check."""
        return cls(gate, check.label, check.judged, check.bound, check.margin, check.accepted or "")

    @classmethod
    def error(cls, gate: str, error: Exception) -> Failure:
        """Of an error."""
        return cls(gate, words=first_sentence(str(error)))


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one candidate on one suite.

    Attributes:
        failures: One for each gate test that fails, in the order of the gate; none where all hold.
        values: The values of the whole suite, by metric.
        open: What could be told neither way.
    """

    failures: tuple[Failure, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    open: str = ""


@dataclass(frozen=True)
class Result:
    """One severity of one fault, judged on every suite.

    Attributes:
        status: :data:`CAUGHT`, :data:`MISSED`, :data:`UNDECIDED` (a latency trial that could not tell),
            :data:`NOT_APPLICABLE` or :data:`BROKEN` (the fault could not be made); ``reason`` says why.
        suite: The one whose gate saw it, else the first.
    """

    fault: str
    severity: str
    model: str
    status: str
    suite: str = ""
    failures: tuple[Failure, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


@dataclass(eq=False)
class Judge(Session):
    """A session that judges a candidate with a fault in it, in one thread.

    Attributes:
        candidate: What differs from the sound state.
        served: Makes the encoder that judges from the artifact's own; for repeats under other conditions.
        sound: Judges the sound artifact. What computes as that does is computed once for all judges.
    """

    candidate: Candidate = field(default_factory=Candidate)
    served: Callable[[Encoder], Encoder] = lambda encoder: encoder
    sound: Session | None = None

    @classmethod
    def on(cls, sound: Session, candidate: Candidate, served: Callable[[Encoder], Encoder] | None = None) -> Judge:
        """A judge that shares with ``sound`` what the candidate leaves as it is."""
        config = sound.config
        if candidate.golden is not None:
            config = config.model_copy(update={"golden": str(candidate.golden)})
        judge = cls(config, candidate.artifact or sound.artifact_path, candidate.deployed, candidate=candidate, sound=sound)
        if served is not None:
            judge.served = served
        Session.model.share(sound, judge)
        Session.whole_suite.share(sound, judge)
        Session.paired_suite.share(sound, judge)
        Session.fp32.share(sound, judge)
        if not candidate.golden:
            Session.golden.share(sound, judge)
        if not candidate.artifact:
            Session.plain_artifact.share(sound, judge)
        return judge

    def encoder(self, precision: Precision, model: str) -> Encoder:
        """The candidate's encoder, one batch at a time."""
        return self.faulty_encoder(precision.plain, model)

    @once
    def faulty_encoder(self, precision: Precision, model: str) -> Encoder:
        """As :meth:`encoder`, of a precision with float32 vectors."""
        found = self._with_runtime(self.plain_encoder(precision, model))
        if self.sound is not None and self.candidate.artifact is None and self.candidate.runtime is None:
            found = _behind(found, _once_each(found, sound_batches(self.sound, precision, model)))
        if (change := self.candidate.batch) is not None:
            compute = found._batch
            found = _behind(found, lambda ids, padding=0: change(ids, compute(ids, padding)))
        return self.served(found)

    def _with_runtime(self, found: Encoder) -> Encoder:
        around = self.candidate.runtime
        if isinstance(found, TextEncoder):
            return found.around(around or (lambda runtime: runtime))
        runtime = around(found.runtime) if around else found.runtime
        for name in ("batch_tokens", "workers"):  # something to call is enough for what stands around a runtime
            if not hasattr(runtime, name):
                setattr(runtime, name, getattr(found.runtime, name))
        runtime.workers = 1
        return Encoder(found.tokenizer, runtime, found.head)

    def compared(self, target: Target, embeddings: Any) -> Comparison:
        """As the session does, the candidate's vectors stored as the fault has it."""
        found = super().compared(target, embeddings)
        return self.candidate.stored(found) if self.candidate.stored and found.vectors is not None else found


@once
def sound_batches(sound: Session, precision: Precision, model: str) -> dict[Hashable, Floats]:
    """Vectors (n, dim) of batches of the sound artifact, by their rows and padding."""
    return {}


_Batch = Callable[..., Floats]


def _once_each(encoder: Encoder, kept: dict[Hashable, Floats]) -> _Batch:
    compute = encoder._batch

    def batch(ids: Sequence[Any], padding: int = 0) -> Floats:
        key = padding, tuple((tuple(row), getattr(row, "role", None), getattr(row, "prompt", 0)) for row in ids)
        if key not in kept:
            kept[key] = compute(ids, padding)
        return kept[key]

    return batch


def _behind(encoder: Encoder, batch: _Batch) -> Encoder:
    """The same encoder with another function that computes a batch, of whatever kind it is."""
    made = copy.copy(encoder)
    vars(made)["_batch"] = batch
    return made


def judge_accuracy(judge: Session, target: Target) -> Verdict:
    """Every gate test but latency, in the order of the shipped gate; one that cannot measure fails, as under pytest."""
    failures: list[Failure] = []
    values: dict[str, float] = {}
    try:
        judge.token_ids(target)
    except LibraryProblem:  # a fault that was not made well, or a library that is broken here: neither was caught
        raise
    except QguardError as e:  # no other test can measure either, and each says the same
        return Verdict((Failure.error("golden" if isinstance(e, GoldenProblem) else "artifact", e),))
    # without what takes a search or a clock: a fault is judged some hundred times
    for family in [f.name for f in judge.families(target) if not {"generated", "process"} & set(f.needs)]:
        try:
            checks = judge.checks(target, family)
        except LibraryProblem:
            raise
        except QguardError as e:
            failures.append(Failure.error(family, e))
            continue
        values |= {c.name: c.value for c in checks if c.slice is None and not c.accepted}
        failures += [Failure.of(family, c) for c in checks if c.outcome == "fail"][:1]
    return Verdict(tuple(failures), values)


def judge_latency(judge: Session, target: Target) -> Verdict:
    """The latency gates of one bucket, the sound artifact being the deployed one."""
    from qguard.faults.slow import bucket_of
    from qguard.latency.check import undecided

    bucket = bucket_of(judge, target.precision)
    trials = latency.trials(judge, target, bucket, latency.gate_count(judge, [target.precision]))
    checks = [check for check, _, _ in trials]
    words = "; ".join(c.worst[0] for c in checks if undecided(c))
    failed = tuple(Failure.of("latency", c) for c in checks if c.outcome == "fail")
    return Verdict(failed, {c.name: c.value for c in checks}, words)


def judge_fault(sound: Session, precision: Precision, model: str, suites: Sequence[str], fault: Fault, severity: str) -> Result:
    """Make one fault, and judge it on every suite.

    Args:
        sound: Judges the sound artifact; what it has read is read once.
        precision: What is judged.
        model: Its name.
        suites: The suites that judge it.
        fault: What goes wrong.
        severity: How much of it.
    """
    start = time.monotonic()
    result = Result(fault.name, severity, model, MISSED, suites[0])
    with tempfile.TemporaryDirectory(prefix="qguard-selftest-") as work, warnings.catch_warnings():
        try:
            candidate = fault.inject(FaultSite(sound, precision, model, tuple(suites), Path(work)), severity)
            if candidate.stored is not None:
                precision = replace(precision, vectors="int8")
                _refuse_unsound(sound, precision, model, suites)
            judge = Judge.on(sound, candidate)
            warnings.simplefilter("ignore", RuntimeWarning)  # infinite values are what some faults are about
            for suite in suites:
                target = Target(precision, model, suite)
                verdict = (judge_latency if candidate.deployed else judge_accuracy)(judge, target)
                if verdict.failures:
                    result = replace(
                        result, status=CAUGHT, suite=suite, failures=verdict.failures, values=verdict.values, reason=""
                    )
                    break
                if verdict.open:
                    result = replace(result, status=UNDECIDED, reason=verdict.open)
                if suite == suites[0]:
                    result = replace(result, values=verdict.values)
        except NotApplicable as e:
            result = replace(result, status=NOT_APPLICABLE, reason=str(e))
        except QguardError as e:
            result = replace(result, status=BROKEN, reason=first_sentence(str(e)))
        except Exception as e:  # the gate turns its own errors into words; what is left is a fault that was not made well
            result = replace(result, status=BROKEN, reason=f"{type(e).__name__}: {first_sentence(str(e))}")
    return replace(result, seconds=round(time.monotonic() - start, 2))


def _refuse_unsound(sound: Session, precision: Precision, model: str, suites: Sequence[str]) -> None:
    if precision.vectors == FLOAT:
        return
    judge = Judge.on(sound, Candidate())
    for suite in suites:
        failures = judge_accuracy(judge, Target(precision, model, suite)).failures
        if failures:
            raise NotApplicable(f"the sound artifact as {precision} does not hold its own gates on suite {suite!r}")


def first_sentence(text: str) -> str:
    """The first sentence of a message, shortened."""
    words = " ".join(text.split())
    for end in (". ", "; "):
        head, found, _ = words.partition(end)
        if found and len(head) > 30:
            words = head
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
