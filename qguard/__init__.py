"""qguard: an accuracy and latency regression gate for quantized sentence-embedding models.

What is named here is the public interface; docs/stability.md says what that promises. A name is imported when it is first used,
so that ``import qguard`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qguard.version import __version__

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact as Artifact
    from qguard.config import Config as Config
    from qguard.config import load_config as load_config
    from qguard.encoders.runtimes import RuntimeRecord as RuntimeRecord
    from qguard.errors import (
        ArtifactProblem as ArtifactProblem,
    )
    from qguard.errors import (
        DataProblem as DataProblem,
    )
    from qguard.errors import (
        GoldenProblem as GoldenProblem,
    )
    from qguard.errors import (
        MeasurementProblem as MeasurementProblem,
    )
    from qguard.errors import (
        ModelProblem as ModelProblem,
    )
    from qguard.errors import (
        QguardError as QguardError,
    )
    from qguard.errors import (
        RegistryProblem as RegistryProblem,
    )
    from qguard.errors import (
        UsageProblem as UsageProblem,
    )
    from qguard.families import Family as Family
    from qguard.faults import Fault as Fault
    from qguard.faults.site import (
        Candidate as Candidate,
    )
    from qguard.faults.site import (
        FaultSite as FaultSite,
    )
    from qguard.faults.site import (
        NotApplicable as NotApplicable,
    )
    from qguard.gates.check import Check as Check
    from qguard.judging.session import Session as Session
    from qguard.judging.session import Target as Target
    from qguard.metrics import (
        Comparison as Comparison,
    )
    from qguard.metrics import (
        Items as Items,
    )
    from qguard.metrics import (
        Measured as Measured,
    )
    from qguard.metrics import (
        Metric as Metric,
    )
    from qguard.metrics import (
        MetricInfo as MetricInfo,
    )
    from qguard.metrics.agreement import (
        AveragePrecision as AveragePrecision,
    )
    from qguard.metrics.agreement import (
        Pearson as Pearson,
    )
    from qguard.metrics.agreement import (
        Retention as Retention,
    )
    from qguard.metrics.bounds import Bound as Bound
    from qguard.metrics.statistics import (
        Absolute as Absolute,
    )
    from qguard.metrics.statistics import (
        Mean as Mean,
    )
    from qguard.metrics.statistics import (
        Quantile as Quantile,
    )
    from qguard.metrics.statistics import (
        Ratio as Ratio,
    )
    from qguard.metrics.statistics import (
        Share as Share,
    )
    from qguard.metrics.statistics import (
        Spearman as Spearman,
    )
    from qguard.models.model import Model as Model
    from qguard.precisions import Precision as Precision
    from qguard.precisions import parse_precision as parse_precision
    from qguard.precisions.bounds import DEFAULT_BOUNDS as DEFAULT_BOUNDS
    from qguard.precisions.recipe import (
        NOT_BUILT as NOT_BUILT,
    )
    from qguard.precisions.recipe import (
        RECIPES as RECIPES,
    )
    from qguard.precisions.recipe import (
        Recipe as Recipe,
    )
    from qguard.report import ReportFormat as ReportFormat
    from qguard.suites import Suite as Suite
    from qguard.suites.formats import SuiteFormat as SuiteFormat

_HOME = {
    "qguard.artifacts.artifact": ("Artifact",),
    "qguard.config": (
        "Config",
        "load_config",
    ),
    "qguard.encoders.runtimes": ("RuntimeRecord",),
    "qguard.errors": (
        "ArtifactProblem",
        "DataProblem",
        "GoldenProblem",
        "MeasurementProblem",
        "ModelProblem",
        "QguardError",
        "RegistryProblem",
        "UsageProblem",
    ),
    "qguard.families": ("Family",),
    "qguard.faults": ("Fault",),
    "qguard.faults.site": (
        "Candidate",
        "FaultSite",
        "NotApplicable",
    ),
    "qguard.gates.check": ("Check",),
    "qguard.judging.session": (
        "Session",
        "Target",
    ),
    "qguard.metrics": (
        "Comparison",
        "Items",
        "Measured",
        "Metric",
        "MetricInfo",
    ),
    "qguard.metrics.agreement": (
        "AveragePrecision",
        "Pearson",
        "Retention",
    ),
    "qguard.metrics.bounds": ("Bound",),
    "qguard.metrics.statistics": (
        "Absolute",
        "Mean",
        "Quantile",
        "Ratio",
        "Share",
        "Spearman",
    ),
    "qguard.models.model": ("Model",),
    "qguard.precisions": (
        "Precision",
        "parse_precision",
    ),
    "qguard.precisions.bounds": ("DEFAULT_BOUNDS",),
    "qguard.precisions.recipe": (
        "NOT_BUILT",
        "RECIPES",
        "Recipe",
    ),
    "qguard.report": ("ReportFormat",),
    "qguard.suites": ("Suite",),
    "qguard.suites.formats": ("SuiteFormat",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DEFAULT_BOUNDS",
    "NOT_BUILT",
    "RECIPES",
    "Absolute",
    "Artifact",
    "ArtifactProblem",
    "AveragePrecision",
    "Bound",
    "Candidate",
    "Check",
    "Comparison",
    "Config",
    "DataProblem",
    "Family",
    "Fault",
    "FaultSite",
    "GoldenProblem",
    "Items",
    "Mean",
    "Measured",
    "MeasurementProblem",
    "Metric",
    "MetricInfo",
    "Model",
    "ModelProblem",
    "NotApplicable",
    "Pearson",
    "Precision",
    "QguardError",
    "Quantile",
    "Ratio",
    "Recipe",
    "RegistryProblem",
    "ReportFormat",
    "Retention",
    "RuntimeRecord",
    "Session",
    "Share",
    "Spearman",
    "Suite",
    "SuiteFormat",
    "Target",
    "UsageProblem",
    "__version__",
    "load_config",
    "parse_precision",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'qguard' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
