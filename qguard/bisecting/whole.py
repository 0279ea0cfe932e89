"""A whole environment of this one's versions with one package replaced, for packages that a worker cannot judge."""

from __future__ import annotations

from dataclasses import replace

from qguard.bisecting.environments import Environment, environment, pins
from qguard.bisecting.index import Index, plain
from qguard.bisecting.question import Question
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import MeasurementProblem


def needed(question: Question) -> tuple[dict[str, str], dict[str, str]]:
    """Distribution → version, as installed here, of what the gate needs for a question; apart from these the distribution that
    holds the model, of which nothing but the files is needed.

    Raises:
        MeasurementProblem: for one that no package index gives.
    """
    runtime = RUNTIMES.find(question.target.precision.runtime)
    roots = ["qguard", *(name for name in runtime.libraries if name != "qguard")]
    reference = question.session.config.configured[question.target.model].ref
    holds_model = [reference.removeprefix("package:").partition("/")[0]] if reference.startswith("package:") else []
    return pins(roots), pins((), holds_model)


def replaced(
    index: Index, here: dict[str, str], package: str, version: str, refresh: bool, files: dict[str, str] | None = None
) -> Environment:
    """The environment of ``here`` with another version of one package.

    Pins that contradict the new version are given up, and the installer chooses their versions. It is told which.

    Raises:
        MeasurementProblem: when it cannot be installed.
    """
    name = plain(package)
    pinned = here | {name: version}
    alone = [f"{n}=={v}" for n, v in (files or {}).items()]
    made = environment(index, [f"{n}=={v}" for n, v in pinned.items()], dependencies=False, alone=alone, refresh=refresh)
    new = [c for c in made.conflicts if name in (c.owner, c.name)]
    if not new:
        return made
    moved = {c.name if c.owner == name else c.owner for c in new}
    kept = [f"{n}=={v}" for n, v in pinned.items() if n == name or n not in moved]
    try:
        again = environment(index, kept, alone=alone, refresh=refresh)
    except MeasurementProblem as e:
        raise MeasurementProblem(f"{e} (with the versions of here {'; '.join(c.words for c in new[:3])})") from e
    told = [f"{n} {again.installed.get(n, 'none')} instead of {here.get(n, 'none')}" for n in sorted(moved)]
    return replace(again, note="with " + ", ".join(told))
