"""Errors of qguard: values that say what was expected, what was found and what mends it.

The command line exits with ``exit_code``; the pytest plugin turns :class:`UsageProblem` into ``pytest.UsageError`` and
everything else into a failed check. None of them ever reaches a user as a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QguardError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code = 3


class UsageProblem(QguardError):
    """A wrong option, name or configuration key."""

    exit_code = 2


class RegistryProblem(UsageProblem):
    """A part that another package registers, and that cannot be used."""


class DataProblem(UsageProblem):
    """A suite file that cannot be read as what it says it is; the message carries the line number."""


class ModelProblem(QguardError):
    """A model that cannot be found, read or reproduced."""


class ArtifactProblem(QguardError):
    """An artifact that is missing, broken, or not what it claims to be."""


class GoldenProblem(QguardError):
    """A golden that is missing, stale, foreign, truncated or edited by hand."""


class MeasurementProblem(QguardError):
    """A measurement that could not be taken: no items, NaN, wrong shape."""


class RegressionProblem(QguardError):
    """A gate does not hold where only what passes is of use."""

    exit_code = 1


class VerdictProblem(QguardError):
    """A verdict, its signature or the artifact beside it that cannot be read."""


class RefusedProblem(QguardError):
    """A verdict that says nothing about what it is asked for: of another kind, unsigned, or signed by somebody else."""

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
    """What another library's error says, short enough for a sentence: its first line without control characters.

    What advises ``trust_remote_code`` is left out: code that comes with a model is never run.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = "".join(c if c.isprintable() else " " for c in lines[0])[:200] if lines else ""
    return f"{type(error).__name__}: {said}" if said and "trust_remote_code" not in said else type(error).__name__
