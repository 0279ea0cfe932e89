"""Every registry that other packages add to."""

from __future__ import annotations

from importlib import import_module

from qguard.registry import Record, Registry, installed

# entry-point group → where its registry is; one is imported only if a package adds to it
HOMES = {
    "qguard.families": "qguard.families:FAMILIES",
    "qguard.runtimes": "qguard.encoders.runtimes:RUNTIMES",
    "qguard.recipes": "qguard.precisions.recipe:RECIPES",
    "qguard.suite_formats": "qguard.suites.formats:FORMATS",
    "qguard.report_formats": "qguard.report:FORMATS",
    "qguard.faults": "qguard.faults:FAULTS",
}


def registry(group: str) -> Registry[Record]:
    """The registry of an entry-point group."""
    module, _, name = HOMES[group].partition(":")
    found: Registry[Record] = getattr(import_module(module), name)
    return found


def check() -> None:
    """What other packages registered can be used, whether this run needs it or not: nothing may be left out unsaid.

    Raises:
        RegistryProblem: naming the package, and what its part lacks.
    """
    for group in HOMES:
        if installed(group):
            len(registry(group))
