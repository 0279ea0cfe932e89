"""Clean repeats: the sound artifact under other conditions, which must never fail."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qguard.encoders import Encoder, Floats, TextEncoder, of_kind, open_runtime
from qguard.encoders.runtimes import RUNTIMES
from qguard.faults.judging import Failure, Judge, judge_accuracy
from qguard.faults.site import Candidate
from qguard.judging.session import Session, Target
from qguard.precisions import Precision

BUDGETS = (64, 128, 256, 512, 1024, 2048)  # padded tokens of a batch
THREADS = (1, 1, 2)
SERVED = 4  # texts of a batch that is filled as texts come: more would be padding for the most part


@dataclass(frozen=True)
class Condition:
    """How one repeat runs.

    Attributes:
        budget: Padded tokens of a batch.
        threads: Threads of a batch.
        sorted: Batches of similar lengths, as the gate makes them; else texts as they come, :data:`SERVED` at most.
        seed: Of the order of the texts.
    """

    budget: int
    threads: int
    sorted: bool
    seed: int

    @classmethod
    def of(cls, number: int) -> Condition:
        """The condition of a repeat: every budget and number of threads in turn, every order another one."""
        return cls(BUDGETS[number % len(BUDGETS)], THREADS[number // 6 % 3], number // 18 % 2 == 1, number)

    def __str__(self) -> str:
        how = "sorted by length" if self.sorted else "as they come"
        return f"batches of {self.budget} tokens, {self.threads} thread(s), texts {how}, order {self.seed}"


class Shuffled(Encoder):
    """An encoder that gets its texts in another order and fills its batches otherwise."""

    def __init__(self, inner: Encoder, condition: Condition) -> None:
        super().__init__(inner.tokenizer, inner.runtime, inner.head)
        self._condition = condition

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> Floats:
        """See :meth:`qguard.encoders.Encoder.encode_ids`."""
        order = list(range(len(ids)))
        random.Random(self._condition.seed).shuffle(order)
        if self._condition.sorted:
            order.sort(key=lambda i: -len(ids[i]))  # texts of equal length stay shuffled
        batches: list[list[int]] = []
        longest = 0
        for i in order:
            longest = max(longest, len(ids[i]))
            full = not self._condition.sorted and batches and len(batches[-1]) == SERVED
            if full or not batches or longest * (len(batches[-1]) + 1) > self._condition.budget:
                batches.append([])
                longest = len(ids[i])
            batches[-1].append(i)
        return self.encode_batches(ids, batches)


class ShuffledTexts(TextEncoder):
    """The same of a runtime that takes texts: another order, and batches of another size."""

    def __init__(self, inner: TextEncoder, condition: Condition) -> None:
        vars(self).update(vars(inner.around(lambda runtime: runtime)))
        self._condition = condition

    def encode_rows(self, rows: Sequence[Any]) -> Floats:
        """See :meth:`qguard.encoders.TextEncoder.encode_rows`."""
        order = list(range(len(rows)))
        random.Random(self._condition.seed).shuffle(order)
        if self._condition.sorted:
            order.sort(key=lambda i: -len(rows[i][0]))
        size = max(1, self._condition.budget // BUDGETS[0])
        return self.encode_batches(rows, [order[i : i + size] for i in range(0, len(order), size)])


@dataclass(frozen=True)
class Repeat:
    """One clean repeat.

    Attributes:
        failures: False alarms.
        process: The process that it ran in.
    """

    number: int
    model: str
    condition: str
    failures: tuple[Failure, ...]
    process: int


def run_repeat(sound: Session, precision: Precision, model: str, suites: Sequence[str], number: int) -> Repeat:
    """Judge the sound artifact on every suite under the condition of this number."""
    condition = Condition.of(number)
    judge = judge_under(sound, precision, model, condition)
    failures = [f for s in suites for f in judge_accuracy(judge, Target(precision, model, s)).failures]
    return Repeat(number, model, str(condition), tuple(failures), os.getpid())


def judge_under(sound: Session, precision: Precision, model: str, condition: Condition) -> Judge:
    """A judge of the sound artifact under a condition."""

    def served(encoder: Encoder) -> Encoder:
        if isinstance(encoder, TextEncoder):
            return ShuffledTexts(encoder, condition)
        artifact = sound.artifact(precision, model)
        if not artifact.has_files:
            return Shuffled(encoder, condition)
        name = artifact.runtime(precision.runtime)
        feeding = artifact.feeding.padded_by(encoder.tokenizer)
        told = of_kind(RUNTIMES.find(name), artifact.pipeline.kind)
        given = condition.threads, sound.config.device, feeding, artifact.javascript
        runtime = open_runtime(name, artifact.runs, precision.base, *given, **told)
        runtime.workers = 1
        return Shuffled(Encoder(encoder.tokenizer, runtime, encoder.head), condition)

    return Judge.on(sound, Candidate(), served)
