"""Commits of the user's repository, each in a worktree of its own that is removed again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qguard.errors import MeasurementProblem, UsageProblem

# neither hooks nor a background collection of a repository that is somebody else's
_QUIET = ("--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", "-c", "gc.auto=0", "-c", "advice.detachedHead=false")
# what git sets for its hooks: it would name another repository, or its index
_OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes:
        sha: Its full hash.
        subject: The first line of its message.
    """

    sha: str
    subject: str

    def __str__(self) -> str:
        return f"{self.sha[:10]} {self.subject}"


class Repository:
    """A git repository, which is read only: no checkout, index or branch of it is touched.

    Args:
        folder: A folder in it.

    Raises:
        UsageProblem: for a folder outside every repository, or without git.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        code, top, _ = self._git("rev-parse", "--show-toplevel")
        if code:
            raise UsageProblem(f"{folder} is not in a git repository; --good-commit and --bad-commit need one")
        self.top = Path(top)

    def between(self, good: str, bad: str) -> list[Commit]:
        """The commits from ``good`` to ``bad``, both included, along the first parents.

        Raises:
            UsageProblem: for a name that is no commit, equal ends, or a good one that is not before the bad one.
        """
        first, last = self._commit(good, "--good-commit"), self._commit(bad, "--bad-commit")
        if first == last:
            raise UsageProblem(f"--good-commit and --bad-commit are both {first[:10]}; expected two commits that differ")
        if self._git("merge-base", "--is-ancestor", first, last)[0]:
            if not self._git("merge-base", "--is-ancestor", last, first)[0]:
                raise UsageProblem(f"--good-commit {good} comes after --bad-commit {bad}; exchange them")
            raise UsageProblem(f"--good-commit {good} is not before --bad-commit {bad}; name commits of one line of history")
        _, listed, _ = self._git("log", "--first-parent", "--reverse", "--format=%H%x00%s", f"{first}..{last}")
        found = [Commit(*line.split("\0", 1)) for line in listed.splitlines()]
        _, subject, _ = self._git("log", "-1", "--format=%s", first)
        return [Commit(first, subject), *found]

    def dirty(self) -> bool:
        """Whether the checkout holds changes that no commit has."""
        return bool(self._git("status", "--porcelain", "--untracked-files=no")[1])

    def placed(self, path: Path | None, tree: Path) -> str | None:
        """A path of the user for the gate of a commit: what git tracks lies in the commit's folder, all else where it is.

        Args:
            path: As it was given.
            tree: The folder of the commit.
        """
        if path is None:
            return None
        whole, top = path.absolute(), self.top.resolve()
        file = whole.with_name(whole.name.partition("#")[0]) if not whole.exists() else whole
        if not whole.is_relative_to(top) or not self._git("ls-files", "--", str(file))[1]:
            return str(whole)
        return str(tree / whole.relative_to(top))

    @contextmanager
    def worktree(self, commit: Commit) -> Iterator[Path]:
        """A folder outside the repository with the files of a commit.

        Raises:
            MeasurementProblem: when it cannot be made.
        """
        with tempfile.TemporaryDirectory(prefix="qguard-commit-") as work:
            folder = Path(work, "tree")
            code, _, said = self._git("worktree", "add", "--detach", "--force", str(folder), commit.sha)
            if code:
                raise MeasurementProblem(
                    f"git cannot check out {commit.sha[:10]}: {said.splitlines()[-1] if said else 'no message'}"
                )
            try:
                yield folder
            finally:
                self._git("worktree", "remove", "--force", "--force", str(folder))

    def _commit(self, name: str, option: str) -> str:
        code, sha, _ = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if code:
            raise UsageProblem(f"{option} {name}: the repository has no such commit; see: git log --oneline")
        return sha

    def _git(self, *args: str) -> tuple[int, str, str]:
        try:
            command = ["git", *_QUIET, "-C", str(self._folder), *args]
            around = {k: v for k, v in os.environ.items() if k not in _OF_HOOKS}
            done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace", env=around)
        except OSError as e:
            raise UsageProblem(f"cannot start git: {e.strerror or e}; --good-commit and --bad-commit need it") from e
        return done.returncode, done.stdout.strip(), done.stderr.strip()
