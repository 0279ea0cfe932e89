"""The boundary to other libraries: what they raise becomes one paragraph with the step, the file and the remedy."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qguard.errors import LibraryProblem, first_line
from qguard.extras import extra_of, install

TRACEBACK = "QGUARD_TRACEBACK"


@contextmanager
def step(what: str, file: Path | str | None = None, mend: str = "") -> Iterator[None]:
    """A step whose errors are told in words. Errors of qguard's own classes pass as they are.

    Args:
        what: The step, as ``making int8 of model 'm'``.
        file: What it reads or writes.
        mend: The remedy; by default what helps against an error of its kind.

    Raises:
        LibraryProblem: in place of any other library's error.
    """
    try:
        yield
    except BrokenPipeError:  # a reader that is gone is told by an exit code
        raise
    except Exception as e:
        if type(e).__module__.partition(".")[0] == "qguard":
            raise
        raise told(e, what, file, mend) from e


def told(error: Exception, what: str, file: Path | str | None = None, mend: str = "") -> LibraryProblem:
    """The paragraph of an error, whose cause it is; see :func:`step`."""
    if isinstance(error, ModuleNotFoundError) and error.name and extra_of(error.name):
        words = f"{what} needs {error.name.partition('.')[0]}, which is not installed; run: {install(error.name)}"
        missing = LibraryProblem(words)
        missing.__cause__ = error
        return missing
    library, where = library_of(error), f" ({file})" if file else ""
    said = first_line(error).rstrip(".")
    words = f"{what}{where} failed{f' in {library}' if library else ''}: {said}. {mend or _mend(error, library)}"
    problem = LibraryProblem(f"{words} ({TRACEBACK}=1 shows where it was raised)")
    problem.__cause__ = error  # for :func:`shown`, also where nothing is raised from it
    return problem


def shown(error: BaseException) -> str:
    """The traceback of the error that a problem was made from, where ``QGUARD_TRACEBACK`` asks for it; else nothing."""
    if os.environ.get(TRACEBACK, "") in ("", "0") or (cause := error.__cause__ or error.__context__) is None:
        return ""
    return "".join(traceback.format_exception(cause))


def library_of(error: BaseException) -> str:
    """Name and version of the library that raised an error: that of its class, else of the innermost call; empty for qguard."""
    found = type(error).__module__.partition(".")[0]
    at, names = error.__traceback__, [found]
    while at is not None:
        names.insert(1, str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        at = at.tb_next
    for name in names:
        if name == "qguard":
            return ""
        if name and name not in sys.stdlib_module_names and name != "__main__":
            version = getattr(sys.modules.get(name), "__version__", None)
            return f"{name} {version}" if isinstance(version, str) else name
    return ""


def _mend(error: Exception, library: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install it: {install(error.name)}"
    if isinstance(error, MemoryError):
        return "Free memory, or take a smaller model or fewer texts"
    if isinstance(error, OSError):
        return "Check that the path exists, may be read and written, and that the disk has room"
    if library:
        return f"Check that the file is whole, or install another version of {library.partition(' ')[0]}"
    return "If the files are whole, this is a fault of qguard: please report it with its traceback"
