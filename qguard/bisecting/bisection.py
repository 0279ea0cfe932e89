"""The bisection: both ends first, then what lies between, then the answer."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from qguard.bisecting import locks
from qguard.bisecting.commits import Commit, Repository
from qguard.bisecting.environments import Environment, environment
from qguard.bisecting.index import Index, plain
from qguard.bisecting.judges import (
    RUNTIME,
    bucket_of,
    by_gate,
    by_trial,
    by_worker,
    prove,
    reading,
    refuse_worker,
    runtime_environment,
)
from qguard.bisecting.question import Question
from qguard.bisecting.reading import Reading
from qguard.bisecting.search import Found, first_bad, least_set
from qguard.bisecting.sides import Sides, differ, sides_of
from qguard.bisecting.whole import needed, replaced
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.gates.check import Check

Judge = Callable[[], tuple[Check, dict[str, Any]]]


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        pre: Also judge pre-releases.
        every: Judge all versions.
        change: By how much values have to differ where the gate does not tell the ends apart; measured by default.
        refresh: Make environments anew.
        said: Is told every reading.
    """

    pre: bool = False
    every: bool = False
    change: float | None = None
    refresh: bool = False
    said: Callable[[str], None] = lambda words: None


@dataclass
class Answer:
    """What was found.

    Attributes:
        what: ``release``, ``commit`` or ``pin``.
        subject: The package, the repository's folder name, or both lock files.
        label: The metric.
        names: Every place in its order; of two lock files the changes, where place k has the first k of them.
        readings: What was judged, in the order of places.
        sides: The rule; ``None`` where the ends do not differ.
        found: The place of the change; likewise.
        culprits: Of two lock files the changes that do it together.
        alone: Whether exactly these were judged, and are bad.
        extra: Readings of sets of changes that are no place.
        seconds: How long it took.
    """

    what: str
    subject: str
    label: str
    names: list[str]
    readings: dict[int, Reading]
    sides: Sides | None = None
    found: Found | None = None
    culprits: list[str] = field(default_factory=list)
    alone: bool = True
    extra: list[Reading] = field(default_factory=list)
    seconds: float = 0.0


class Search:
    """Judges places once each, and finds the first bad one.

    Args:
        what: See :class:`Answer`.
        subject: Likewise.
        question: The metric.
        names: The places.
        judge: What judges a place.
        options: How to search.
    """

    def __init__(
        self, what: str, subject: str, question: Question, names: Sequence[str], judge: Callable[[int], Reading], options: Options
    ) -> None:
        self._judge, self._options, self._question, self._start = judge, options, question, time.monotonic()
        self.answer = Answer(what, subject, question.label, list(names), {})

    def reading(self, place: int) -> Reading:
        """The reading of a place."""
        readings = self.answer.readings
        if place not in readings:
            found = readings[place] = self._judge(place)
            self._options.said(f"{found.name}: {found.words}{f' ({found.note})' if found.judged and found.note else ''}")
        return readings[place]

    def run(self, repeatable: bool = True) -> Answer:
        """Judge both ends and what lies between.

        Args:
            repeatable: Whether a second run of an end tells how far runs differ. Trials decide by the gate alone, unless a
                change is given.

        Raises:
            MeasurementProblem: where an end cannot be judged.
            UsageProblem: where the ends are swapped, or both fail alike.
        """
        last = len(self.answer.names) - 1
        ends = self.reading(0), self.reading(last)
        for name, end in zip(("good", "bad"), ends, strict=True):
            if not end.judged:
                raise MeasurementProblem(f"the {name} end {end.name} could not be judged: {end.note}")
        change = self._options.change
        if change is None and not differ(*ends):
            change = self._noise(ends) if repeatable else math.inf
        self.answer.sides = sides_of(*ends, self._question.info.higher_is_better, change)
        if self.answer.sides is not None:
            sides = self.answer.sides
            self.answer.found = first_bad(last + 1, lambda i: sides.of(self.reading(i)), self._options.every)
        self.answer.readings = dict(sorted(self.answer.readings.items()))
        self.answer.seconds = time.monotonic() - self._start
        return self.answer

    def _noise(self, ends: tuple[Reading, Reading]) -> float | None:
        """By how much a second run of either end differs from the first; ``None`` where it does not."""
        again = self._judge(0), self._judge(len(self.answer.names) - 1)
        apart = [abs(a.value - b.value) for a, b in zip(ends, again, strict=True) if a.value is not None and b.value is not None]
        most = max(apart, default=0.0)
        self._options.said(f"both ends are on one side of the gate; a second run of each differs by {most:.3g}")
        return 2 * most or None


def by_releases(question: Question, package: str, good: str, bad: str, options: Options) -> Answer:
    """Which release of a package made the metric worse.

    Raises:
        QguardError: where it cannot be told, in words.
    """
    runtime = plain(package) in RUNTIME
    timed = question.family.name == "latency"
    if runtime:
        refuse_worker(question)
    elif timed:
        raise UsageProblem(f"--metric {question.label}: latency is bisected over releases of {' and '.join(RUNTIME)}")
    if timed:
        bucket_of(question)
    index = Index.here()
    names = index.releases(package, good, bad, options.pre)
    prove(question)
    if runtime:
        made = cache(partial(runtime_environment, index, plain(package), refresh=options.refresh))
        trials = math.ceil(math.log2(len(names))) + 2

        def judged(name: str) -> tuple[Check, dict[str, Any]]:
            there = made(name)
            told = f"{package} {name}"
            if timed:
                return by_trial(question, made(names[0]) if name != names[0] else there, there, told, trials)
            return by_worker(question, there, told)
    else:
        (here, files), artifact = needed(question), _given(question)
        whole = cache(lambda name: replaced(index, here, package, name, options.refresh, files))

        def judged(name: str) -> tuple[Check, dict[str, Any]]:
            there = whole(name)
            return by_gate(question, there.python, question.session.config.folder, artifact, there)

    def judge(place: int) -> Reading:
        name = names[place]
        command = f"pip install {shlex.quote(f'{package}=={name}')} && {question.pytest}"
        return replace(reading(name, partial(judged, name)), command=command)

    return Search("release", package, question, names, judge, options).run(repeatable=not timed)


def by_commits(question: Question, good: str, bad: str, options: Options) -> Answer:
    """Which commit of the repository made the metric worse, each with its own configuration, goldens and artifact.

    Raises:
        QguardError: where it cannot be told, in words.
    """
    import sys

    _no_latency(question, "commits")
    folder = question.session.config.folder
    repository = Repository(folder)
    commits = repository.between(good, bad)
    inside = folder.resolve().relative_to(repository.top.resolve())
    if repository.dirty():
        options.said("the checkout has changes that are in no commit; commits are judged without them")

    def judged(commit: Commit) -> tuple[Check, dict[str, Any]]:
        with repository.worktree(commit) as tree:
            place = tree / inside
            if not place.is_dir():
                raise MeasurementProblem(f"the commit has no folder {inside}")
            try:
                return by_gate(question, sys.executable, place, repository.placed(question.artifact, tree))
            except MeasurementProblem as e:
                raise MeasurementProblem(str(e).replace(str(tree), commit.sha[:10])) from e

    def judge(place: int) -> Reading:
        commit = commits[place]
        there = shlex.quote((Path("../judged") / inside).as_posix())
        command = f"git worktree add --detach ../judged {commit.sha} && cd {there} && {question.pytest}"
        return replace(reading(str(commit), partial(judged, commit)), command=command)

    return Search("commit", repository.top.name, question, [str(c) for c in commits], judge, options).run()


def by_locks(question: Question, good: Path, bad: Path, options: Options) -> Answer:
    """Which pins of two lock files made the metric worse.

    Raises:
        QguardError: where it cannot be told, in words.
    """
    _no_latency(question, "lock files")
    before, after = locks.read_lock(good), locks.read_lock(bad)
    changes = locks.changes(before, after)
    if not changes:
        raise UsageProblem(f"{good} and {bad} pin the same versions; expected two lock files that differ")
    prove(question)
    index, artifact, (here, files) = Index.here(), _given(question), needed(question)
    missing = {name: version for name, version in (here | files).items() if name not in before and name not in after}
    if missing:
        options.said(f"{len(missing)} packages that the gate needs are in neither file; they are the versions of here")
    names = ["none of the changes", *(str(c) for c in changes)]
    kept: dict[frozenset[str], Reading] = {}

    def judged(made: list[locks.Change]) -> tuple[Check, dict[str, Any]]:
        pins = missing | locks.changed(before, made)
        there = environment(index, [f"{n}=={v}" for n, v in pins.items()], dependencies=False, refresh=options.refresh)
        there = _noted(there, {c.name for c in made})
        try:
            return by_gate(question, there.python, question.session.config.folder, artifact, there)
        except MeasurementProblem as e:
            raise MeasurementProblem(f"{e}{f' ({there.note})' if there.note else ''}") from e

    def anew(chosen: frozenset[str]) -> Reading:
        made = [c for c in changes if str(c) in chosen]
        told = "all changes" if len(made) == len(changes) else ", ".join(map(str, made)) or names[0]
        found = replace(reading(told, partial(judged, made)), command=_installing(good, made, question))
        kept.setdefault(chosen, found)
        return found

    def of(chosen: frozenset[str]) -> Reading:
        return kept[chosen] if chosen in kept else anew(chosen)

    search = Search("pin", f"{good} and {bad}", question, names, lambda k: anew(frozenset(names[1 : k + 1])), options)
    answer = search.run()
    if answer.found is None or answer.sides is None:
        return answer
    sides, places = answer.sides, set(map(id, answer.readings.values()))
    answer.culprits, answer.alone = least_set(names[1:], lambda chosen: sides.of(of(chosen)), answer.found)
    answer.extra = [r for r in kept.values() if id(r) not in places]
    for r in answer.extra:
        options.said(f"{r.name}: {r.words}")
    answer.seconds = time.monotonic() - search._start
    return answer


def _given(question: Question) -> str | None:
    """The one file or folder that is judged in every environment: what qguard builds, it builds here."""
    if question.artifact is not None:
        return str(question.artifact.absolute())
    found = question.session.artifact(question.target.precision, question.target.model)
    return str(found.folder.absolute()) if found.has_files else None


def _installing(good: Path, made: list[locks.Change], question: Question) -> str:
    """What judges some changes to a lock file in an empty environment with qguard."""
    new = [f"{c.name}=={c.after}" for c in made if c.after]
    gone = [c.name for c in made if not c.after]
    steps = [["pip", "install", "-r", str(good)], ["pip", "install", "--no-deps", *new], ["pip", "uninstall", "-y", *gone]]
    needed = steps[:1] + [s for s, names in ((steps[1], new), (steps[2], gone)) if names]
    return " && ".join([*map(shlex.join, needed), question.pytest])


def _noted(there: Environment, changed: set[str]) -> Environment:
    """With what does not fit together, of the changes that were made."""
    words = [c.words for c in there.conflicts if {c.owner, c.name} & changed]
    return replace(there, note=f"these versions do not fit together: {'; '.join(words[:3])}" if words else "")


def _no_latency(question: Question, what: str) -> None:
    if question.family.name in ("latency", "memory"):
        raise UsageProblem(
            f"--metric {question.label}: latency is bisected over releases of {' and '.join(RUNTIME)}, not over {what}"
        )
