"""Errors of qguard. Each message says what was expected, what was found and how to fix it.

The command line exits with ``exit_code``. The pytest plugin turns :class:`UsageProblem` into ``pytest.UsageError`` and every
other error into a failed check. A user never sees one of them as a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QguardError(Exception):
    """Base of every error that a user can cause and fix."""

    exit_code = 3


class UsageProblem(QguardError):
    """A wrong option, name or configuration key."""

    exit_code = 2


class RegistryProblem(UsageProblem):
    """A part that another package registers and that cannot be used."""


class DataProblem(UsageProblem):
    """A suite file that cannot be read in its format; the message contains the line number."""


class ModelProblem(QguardError):
    """A model that cannot be found, read or reproduced."""


class ArtifactProblem(QguardError):
    """An artifact that is missing, broken, or not what it claims to be."""


class GoldenProblem(QguardError):
    """A golden that is missing, stale, truncated, edited by hand, or recorded for another model or suite."""


class MeasurementProblem(QguardError):
    """A measurement that could not be taken: no items, NaN, wrong shape."""


class EndpointProblem(MeasurementProblem):
    """A server that cannot be reached, refuses, or answers with something else than it was asked for.

    Attributes:
        status: The code of its answer; ``None`` if there is none.
        timed_out: Whether the answer did not come in time.
    """

    def __init__(self, message: str, status: int | None = None, timed_out: bool = False) -> None:
        super().__init__(message)
        self.status, self.timed_out = status, timed_out


class LibraryProblem(QguardError):
    """An error of another library, in words; see :mod:`qguard.boundary`."""


class RegressionProblem(QguardError):
    """A gate fails where a command needs it to pass."""

    exit_code = 1


class VerdictProblem(QguardError):
    """A verdict, its signature or its artifact that cannot be read."""


class RefusedProblem(QguardError):
    """A verdict that does not apply: it is of another kind, unsigned, or signed by somebody else."""

    exit_code = 1


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageProblem:
    """The error for a name that nobody registered, with the nearest known ones.

    Args:
        kind: What the name should have been, for example ``"precision"``.
        name: What was found.
        known: The names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "known: " + ", ".join(names)
    return UsageProblem(f"unknown {kind} {name!r}; {hint}")


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without control characters.

    Advice to set ``trust_remote_code`` is left out, because qguard never runs code that comes with a model.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "".join(c if c.isprintable() else " " for c in lines[0])[:200] if lines else ""
    return f"{type(error).__name__}: {said}" if said and "trust_remote_code" not in said else type(error).__name__
