"""Every registry that other packages add to."""

from __future__ import annotations

from typing import Any

from qguard.encoders.runtimes import RUNTIMES
from qguard.families import FAMILIES
from qguard.faults import FAULTS
from qguard.precisions.recipe import RECIPES
from qguard.registry import Registry
from qguard.report import FORMATS as REPORT_FORMATS
from qguard.suites.formats import FORMATS as SUITE_FORMATS

REGISTRIES: tuple[Registry[Any], ...] = (FAMILIES, RUNTIMES, RECIPES, SUITE_FORMATS, REPORT_FORMATS, FAULTS)


def check() -> None:
    """What other packages registered can be used, whether this run needs it or not: nothing may be left out unsaid.

    Raises:
        RegistryProblem: naming the package, and what its part lacks.
    """
    for registry in REGISTRIES:
        registry.check_others()
