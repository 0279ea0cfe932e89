"""The self-test: every fault and every clean repeat, each in a process of its own pool, one thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qguard.config import Config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.faults import Fault
from qguard.faults.judging import Failure, Judge, Result, Verdict, judge_accuracy, judge_fault
from qguard.faults.repeats import Repeat, run_repeat
from qguard.faults.site import Candidate
from qguard.judging.session import Session, Target
from qguard.precisions import Precision

ROUND = 16  # repeats of one process: after them it is started anew
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Plan:
    """What is tested.

    Attributes:
        config: Models and suites as selected.
        precision: What is judged.
        artifact: ``--artifact``; ``None`` for the one that qguard builds.
        suites: Those that are encoded whole; large ones are left out.
    """

    config: Config
    precision: Precision
    artifact: Path | None
    suites: tuple[str, ...]

    def sound(self) -> Session:
        """A session of the sound artifact."""
        return Session(self.config, self.artifact)


@dataclass(frozen=True)
class Report:
    """What a self-test found.

    Attributes:
        results: One for each model, fault and severity, in the order of the registry.
        repeats: Clean repeats.
        sound: The values of the sound artifact, by model and suite.
    """

    plan: Plan
    faults: tuple[Fault, ...]
    results: tuple[Result, ...]
    repeats: tuple[Repeat, ...]
    sound: dict[tuple[str, str], dict[str, float]]


def planned(session: Session, precision: Precision) -> Plan:
    """The plan for a session; what all processes need is built and read here, once.

    Raises:
        QguardError: when the sound artifact cannot be judged.
        UsageProblem: when every suite is too large to be encoded again and again.
    """
    session.targets([precision])
    suites = tuple(s for s in session.config.suites if session.suite(s).corpus is None)
    if not suites:
        raise UsageProblem("every suite is large, and each fault would encode it again; give a smaller one with --suite")
    return Plan(session.config, precision, session.artifact_path, suites)


def judge_sound(session: Session, plan: Plan) -> dict[tuple[str, str], dict[str, float]]:
    """The values of the sound artifact, by model and suite.

    Raises:
        MeasurementProblem: when its own gates do not hold: then a failure says nothing of a fault.
    """
    judge = Judge.on(session, Candidate())
    found = {}
    for model in plan.config.models:
        for suite in plan.suites:
            verdict: Verdict = judge_accuracy(judge, Target(plan.precision, model, suite))
            if verdict.failures:
                raise MeasurementProblem(
                    f"{plan.precision} of {model} does not hold its gates on suite {suite!r} without any fault: "
                    f"{words(verdict.failures[0])}. Mend that first: pytest --precision {plan.precision}"
                )
            found[model, suite] = verdict.values
            session.golden(model, suite)
    return found


def words(failure: Failure) -> str:
    """A failure in a few words."""
    if failure.value is None:
        return f"{failure.gate}: {failure.words}"
    return f"{failure.check} {failure.value:.4g}, gate {failure.bound}"


def selftest(
    session: Session,
    precision: Precision,
    faults: Sequence[Fault],
    repeats: int,
    jobs: int,
    advance: Callable[[], None],
) -> Report:
    """Judge every severity of every fault, then the clean repeats, then latency, which nothing may run beside.

    Args:
        session: Models and suites as selected.
        precision: What is judged.
        faults: What goes wrong.
        repeats: How many clean ones for each model.
        jobs: Processes; where the session has a fleet, its tasks take their place.
        advance: Called after each case and each repeat; :func:`steps` says how often.

    Raises:
        QguardError: when the sound artifact cannot be judged or does not hold its gates.
    """
    plan = planned(session, precision)
    sound = judge_sound(session, plan)
    cases = [(m, f, s) for m in plan.config.models for f in faults for s in f.severities]
    results: dict[int, Result] = {}
    # those that calibrate anew take longest
    order = sorted(range(len(cases)), key=lambda i: not str(cases[i][1].make).startswith("recipe:"))
    timed = [i for i in order if cases[i][1].part == "latency"]
    numbers = [(m, n) for m in plan.config.models for n in range(repeats)]
    done: dict[int, Repeat] = {}
    if session.fleet is not None:
        from qguard.faults.afar import judged

        kept, some = judged(session, plan, {i: cases[i] for i in order if i not in timed}, numbers, advance)
        results |= kept
        done |= some
        return _with_timed(plan, faults, cases, timed, results, numbers, done, sound, advance)
    with processes(plan, jobs) as pool:
        for i, result in each(pool, _case, {i: cases[i] for i in order if i not in timed}, advance):
            results[i] = result
    for start in range(0, len(numbers), jobs * ROUND):
        part = {i: numbers[i] for i in range(start, min(start + jobs * ROUND, len(numbers)))}
        with processes(plan, min(jobs, len(part))) as pool:
            done |= dict(each(pool, _repeat, part, advance))
    return _with_timed(plan, faults, cases, timed, results, numbers, done, sound, advance)


def _with_timed(
    plan: Plan,
    faults: Sequence[Fault],
    cases: list[tuple[str, Fault, str]],
    timed: list[int],
    results: dict[int, Result],
    numbers: list[tuple[str, int]],
    done: dict[int, Repeat],
    sound: dict[tuple[str, str], dict[str, float]],
    advance: Callable[[], None],
) -> Report:
    """The report, once what is timed was judged alone, in a process of this machine."""
    if timed:
        with processes(plan, 1) as pool:
            results |= dict(each(pool, _case, {i: cases[i] for i in timed}, advance))
    ordered = tuple(results[i] for i in range(len(cases)))
    return Report(plan, tuple(faults), ordered, tuple(done[i] for i in range(len(numbers))), sound)


def steps(session: Session, faults: Sequence[Fault], repeats: int) -> int:
    """How many cases and repeats a self-test has."""
    return len(session.config.models) * (sum(len(f.severities) for f in faults) + repeats)


@contextmanager
def processes(plan: Plan, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, one thread each, in which :func:`worker` gives the plan and a sound session."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # read when a process loads its libraries
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(plan,)) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def each(pool: ProcessPoolExecutor, function: Any, items: dict[int, Any], advance: Callable[[], None]) -> Iterator[Any]:
    """Key and result of ``function`` on each item, as they are done.

    Raises:
        MeasurementProblem: when a process was ended from outside.
    """
    waiting = {pool.submit(function, item): i for i, item in items.items()}
    try:
        for future in as_completed(waiting):
            yield waiting[future], future.result()
            advance()
    except BrokenProcessPool as e:
        raise MeasurementProblem("a process of the self-test was ended from outside (out of memory?); try --jobs 1") from e


_STATE: list[tuple[Plan, Session]] = []  # of a worker process


def _start(plan: Plan) -> None:
    session = plan.sound()
    _STATE[:] = [(plan, session)]
    for model in plan.config.models:
        session.artifact(plan.precision, model)
        for suite in plan.suites:
            session.golden(model, suite)


def worker() -> tuple[Plan, Session]:
    """The plan and the sound session of this worker process."""
    return _STATE[0]


def _case(case: tuple[str, Fault, str]) -> Result:
    model, fault, severity = case
    plan, sound = worker()
    return judge_fault(sound, plan.precision, model, plan.suites, fault, severity)


def _repeat(case: tuple[str, int]) -> Repeat:
    model, number = case
    plan, sound = worker()
    return run_repeat(sound, plan.precision, model, plan.suites, number)
