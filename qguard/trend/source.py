"""Where past reports come from, and the order in which they were made."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qguard.errors import MeasurementProblem, UsageProblem
from qguard.files import read_json
from qguard.report.shape import checked

GIT = "git:"  # in front of a path: the file as it was in each commit
_NEVER = datetime.min.replace(tzinfo=UTC)
_NOT_REPORTS = (".codequality.json",)  # what a report is also written as


@dataclass(frozen=True)
class Step:
    """One report of the past.

    Attributes:
        name: Its file, or the first digits of its commit.
        report: Schema 2, with every field.
        created: When it was made, as the report or the commit says; ``""`` if nothing says it.
        commit: The commit that it is of; ``""`` if nothing says it.
        subject: The first line of the commit's message.
    """

    name: str
    report: dict[str, Any]
    created: str = ""
    commit: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Past:
    """Reports in the order of time.

    Attributes:
        steps: At least one.
        order: What they are ordered by, in words.
        unread: Versions of a file that could not be read, each with the reason.
        newest_unread: Whether the newest version is one of them.
    """

    steps: tuple[Step, ...]
    order: str
    unread: tuple[str, ...] = ()
    newest_unread: bool = False


def read(sources: Sequence[str]) -> Past:
    """The reports that the command line names: one folder, one ``git:PATH``, or files in the order given.

    Raises:
        UsageProblem: for what is no such source, and for a file that is no report.
        MeasurementProblem: if there is no report at all.
    """
    if not sources:
        raise UsageProblem("expected a folder of reports, git:PATH or report files")
    if len(sources) == 1 and sources[0].startswith(GIT):
        return _from_git(sources[0].removeprefix(GIT))
    if len(sources) == 1 and Path(sources[0]).is_dir():
        return _from_folder(Path(sources[0]))
    if odd := next((s for s in sources if s.startswith(GIT) or Path(s).is_dir()), None):
        raise UsageProblem(f"{odd}: expected one folder, one git:PATH, or files alone; give each kind by itself")
    return Past(tuple(_step(Path(s)) for s in sources), "their place on the command line")


def _step(path: Path, name: str = "") -> Step:
    report = _slim(checked(read_json(path, UsageProblem), str(path)))
    return Step(name or path.name, report, report.get("created") or "", report.get("commit") or "")


def _slim(report: dict[str, Any]) -> dict[str, Any]:
    """A report without its texts and pictures: hundreds of them are held at once."""
    report["texts"] = {}
    for run in report["runs"]:
        run["details"] = {"provenance": run["details"]["provenance"]}
        run["latency"] = run["judged"] = []
        for check in run["checks"]:
            check["worst"] = []
    return report


def _from_folder(folder: Path) -> Past:
    try:
        paths = sorted(p for p in folder.rglob("*.json") if p.is_file() and not p.name.endswith(_NOT_REPORTS))
    except OSError as e:
        raise UsageProblem(f"cannot read {folder}: {e.strerror or e}") from e
    if not paths:
        raise MeasurementProblem(
            f"{folder} holds no report: expected files that pytest --precision int8 --qguard-report=REPORT.json wrote"
        )
    paths.sort(key=lambda p: natural(p.relative_to(folder).as_posix()))
    steps = [_step(p, p.relative_to(folder).as_posix()) for p in paths]
    times = {s.name: _moment(s.created) for s in steps}
    dated = sum(t is not None for t in times.values())
    if dated == len(steps):
        steps.sort(key=lambda s: times[s.name] or _NEVER)  # stable: reports of one second stay in the order of their names
        return Past(tuple(steps), "the time in each report")
    why = f"{len(steps) - dated} of {len(steps)} reports do not say when they were made"
    return Past(tuple(steps), f"the file names, because {why}")


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``r2`` before ``r10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _from_git(name: str) -> Past:
    path = Path(name)
    if not name or not path.name:
        raise UsageProblem(f"{GIT}{name}: expected {GIT}PATH, the path of a report that is committed")
    folder = path.parent
    if not folder.is_dir():
        raise UsageProblem(f"{GIT}{name}: {folder} is no folder; give the path as it is in the working tree")
    if _git(folder, name, "rev-parse", "--is-shallow-repository").strip() == b"true":
        raise UsageProblem(
            f"{GIT}{name}: this clone is shallow, so that its past is missing; fetch it: git fetch --unshallow "
            "(in GitHub Actions: actions/checkout with fetch-depth: 0)"
        )
    # of merges what they brought to the main line, so that the order is one; -m: else a merge shows no files
    log = ("log", "--first-parent", "-m", "--reverse", "--diff-filter=ACMRT", "--no-show-signature", "--no-color")
    listed = _git(folder, name, *log, "--format=%x01%H%x00%cI%x00%s", "--", f":(literal){path.name}")
    steps: list[Step] = []
    unread: list[str] = []
    last_unread = False
    for commit, when, subject in _commits(listed.decode("utf-8", "replace")):
        words = f"{commit[:10]} ({subject[:60]})"
        try:
            blob = _git(folder, name, "cat-file", "blob", f"{commit}:./{path.name}")
            steps.append(Step(commit[:10], _slim(checked(_object(blob, words), words)), when, commit, subject))
            last_unread = False
        except UsageProblem as e:
            unread.append(str(e) if str(e).startswith(words) else f"{words}: {e}")
            last_unread = True
    if not steps:
        why = f"; {unread[0]}" if unread else ""
        raise MeasurementProblem(f"{GIT}{name}: no commit of the current branch holds a report there{why}")
    return Past(tuple(steps), "the commits of the main line", tuple(unread), last_unread)


def _commits(log: str) -> Iterator[tuple[str, str, str]]:
    for entry in log.split("\x01")[1:]:
        commit, when, rest = entry.split("\0", 2)
        datetime.fromisoformat(when)
        yield commit, when, rest.split("\n", 1)[0]


def _object(blob: bytes, words: str) -> Any:
    try:
        return json.loads(blob)
    except (ValueError, RecursionError) as e:
        raise UsageProblem(f"{words}: not valid JSON ({e})") from e


def _git(folder: Path, name: str, *arguments: str) -> bytes:
    """What git prints, run in a folder.

    Raises:
        UsageProblem: without git, or with git's own words where it fails.
    """
    environment = {**os.environ, "LC_ALL": "C", "GIT_PAGER": "cat", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False, env=environment, timeout=600,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageProblem(f"{GIT}{name}: expected git on the PATH; install it, or give a folder of reports") from None
    except subprocess.TimeoutExpired:
        raise UsageProblem(f"{GIT}{name}: git {arguments[0]} did not end within ten minutes") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageProblem(f"{GIT}{name}: git {arguments[0]} failed: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout
