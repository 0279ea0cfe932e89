"""The search: batches that Hypothesis drew, then changes of the worst texts; Hypothesis shrinks what breaks a bound."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from qguard.errors import MeasurementProblem, QguardError
from qguard.gates import Gate
from qguard.robustness.drawn import BATCH, SIZE, drawn
from qguard.robustness.metrics import COSINE, Tried
from qguard.texts.mutations import mutate

WAYS = 3  # one batch of so many is encoded in all the ways that must give the same vectors
CLIMBS, MUTANTS = 4, 8  # times that the worst texts are changed, and how many texts come of it
SHRINKING = 10.0  # seconds; what is not yet minimal by then is shown as it is


class Look(Protocol):
    """The values of a batch's texts."""

    def __call__(self, texts: Sequence[str], ways: bool = True) -> list[Tried]:
        """As of :class:`qguard.robustness.probe.Probe`."""
        ...


E = TypeVar("E", bound=Exception)


@dataclass
class Found:
    """What a search saw.

    Attributes:
        tried: Every text in every batch.
        broken: The text on which a bound did not hold, shrunk; ``None`` where all held.
        batch: The batch that it was in.
        error: What the encoder failed with on ``batch``.
        replayed: It was known from an earlier run or from the project's own file; nothing was generated.
        seed: Of the generated batches.
        seconds: That it took.
    """

    tried: list[Tried] = field(default_factory=list)
    broken: str | None = None
    batch: tuple[str, ...] = ()
    error: QguardError | None = None
    replayed: bool = False
    seed: int = 0
    seconds: float = 0.0


class _Broken(Exception):
    """A bound does not hold on a batch: what Hypothesis shrinks."""

    def __init__(self, text: str, batch: tuple[str, ...]) -> None:
        self.text, self.batch = text, batch


class _Late(BaseException):
    """Shrinking took its time: Hypothesis, for which this is no failure, ends. Batches that merely pass would let it go on."""


def search(look: Look, gates: Sequence[Gate], examples: int, seed: int = 0, known: Sequence[str] = (), workers: int = 1) -> Found:
    """Try known texts, then generated ones.

    Args:
        look: The values of a batch's texts; see :class:`qguard.robustness.probe.Probe`.
        gates: Bounds on the values; the first text that breaks one ends the search, and is shrunk.
        examples: Batches to generate.
        seed: Of them: equal seeds try equal texts, with the same version of Hypothesis.
        known: Texts to try first; where one of them breaks a bound, nothing is generated.
        workers: Batches to try side by side, where ``look`` may be called so.

    Raises:
        MeasurementProblem: when nothing could be tried, or the encoder fails on a text.
    """
    start, found = time.monotonic(), Found(seed=seed)
    for i in range(0, len(known), BATCH):
        batch = tuple(known[i : i + BATCH])
        tried = look(batch)
        found.tried += tried
        if (text := _violating(tried, gates)) is not None:
            found.broken, found.batch, found.replayed = text, batch, True
            break
    if not found.replayed and not _holds(look, gates, drawn(examples, seed), found, workers):
        _shrink(look, gates, examples, found)
    if not found.tried:
        raise MeasurementProblem("no generated text has any token; robustness was not measured")
    found.seconds = time.monotonic() - start
    return found


def _violating(tried: Sequence[Tried], gates: Sequence[Gate]) -> str | None:
    """The text that is furthest beyond a bound."""
    beyond = [
        (abs(g.bound.margin(t.values[g.metric])), t.text)
        for t in tried
        for g in gates
        if g.metric in t.values and not g.bound.holds(t.values[g.metric])
    ]
    return max(beyond)[1] if beyond else None


def _holds(look: Look, gates: Sequence[Gate], batches: Sequence[tuple[str, ...]], found: Found, workers: int) -> bool:
    """Whether all bounds hold on these batches and on changes of their worst texts; else ``found`` has what breaks one."""

    known = len(found.tried)

    def tried(number: int) -> list[Tried] | QguardError:
        try:
            return look(batches[number], number % WAYS == 0)
        except QguardError as e:
            return e

    with ThreadPoolExecutor(workers) as pool:  # what one batch computes is too little for all cores
        for batch, values in zip(batches, pool.map(tried, range(len(batches))), strict=True):
            if isinstance(values, QguardError):
                found.error, found.batch = values, batch
                return False
            found.tried += values
            if (text := _violating(values, gates)) is not None:
                found.broken, found.batch = text, batch
                return False
    pick, generated = random.Random(found.seed), found.tried[known:]  # equal in every run, whatever earlier ones kept
    for _ in range(CLIMBS):
        worst = sorted((t for t in generated if COSINE in t.values), key=lambda t: t.values[COSINE])[:MUTANTS]
        if not worst:
            break
        texts = tuple(dict.fromkeys(mutate(pick, t.text, pick.choice(worst).text)[0] for t in worst))
        try:
            values = look(texts, False)
        except QguardError as e:
            found.error, found.batch = e, texts
            return False
        found.tried += values
        generated += values
        if (text := _violating(values, gates)) is not None:
            found.broken, found.batch = text, texts
            return False
    return True


def _shrink(look: Look, gates: Sequence[Gate], examples: int, found: Found) -> None:
    """Let Hypothesis come to what breaks a bound, or fails, and make it small; without, what was found stays as it is.

    Raises:
        MeasurementProblem: when the encoder fails on a text.
    """
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity

    from qguard.texts.strategies import batches

    seen: dict[tuple[str, ...], list[Tried] | QguardError] = {}
    smallest: tuple[int, Exception] | None = None
    deadline = float("inf")

    def values(batch: tuple[str, ...]) -> list[Tried]:
        if batch not in seen:
            try:
                seen[batch] = look(batch)
                found.tried += look_up(batch)
            except QguardError as e:
                seen[batch] = e
        return look_up(batch)

    def look_up(batch: tuple[str, ...]) -> list[Tried]:
        known = seen[batch]
        if isinstance(known, QguardError):
            raise kept(_failed(known, batch), batch)
        return known

    def kept(error: E, batch: tuple[str, ...]) -> E:
        """What is shown if shrinking is cut short; from the first on, its time is counted."""
        nonlocal smallest, deadline
        deadline = min(deadline, time.monotonic() + SHRINKING)
        size = len(batch) + sum(map(len, batch))
        if smallest is None or size < smallest[0]:
            smallest = size, error
        return error

    @hypothesis.seed(found.seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,  # what is found is kept by qguard.robustness.kept
        deadline=None,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(batches(max_size=BATCH, size=SIZE))
    def holds(drawn: list[str]) -> None:
        if time.monotonic() > deadline:
            raise _Late
        batch = tuple(drawn)
        tried = values(batch)
        if tried:
            hypothesis.target(max(1 - t.values[COSINE] for t in tried), label="drift from fp32")
        if (text := _violating(tried, gates)) is not None:
            raise kept(_Broken(text, batch), batch)

    try:
        try:
            holds()
        except _Late:
            assert smallest is not None
            raise smallest[1] from None
    except _Broken as e:  # that of the smallest batch, which Hypothesis runs last
        found.broken, found.batch = e.text, e.batch
        return
    if found.error is not None:  # Hypothesis met other texts
        raise _failed(found.error, found.batch)


def _failed(error: QguardError, batch: tuple[str, ...]) -> MeasurementProblem:
    return MeasurementProblem(f"{error}; the smallest batch found on which this happens: {[t[:200] for t in batch]!r}")
