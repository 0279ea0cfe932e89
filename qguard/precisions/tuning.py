"""What a project may set of the recipes whose activations have fixed ranges: ``[tool.qguard.precision.NAME]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qguard.precisions.integer import Plan


@dataclass(frozen=True, order=True)
class Tuning:
    """Settings beside the recipe's own; without any, the artifact is the built-in one.

    Attributes:
        exclude: ``fnmatch`` patterns of layers that stay in float, by their names in reports, such as ``encoder/layer.5/*``.
        outliers: Channels of a wide input, such as GELU's, that are multiplied in float; at most a quarter of them are.
        smooth: How much of a channel's width its weights take over, in [0, 1] (SmoothQuant's alpha).
    """

    exclude: tuple[str, ...] = ()
    outliers: int | None = None
    smooth: float | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is set, as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v not in ((), None)}

    def excludes(self, names: Iterable[str]) -> bool:
        """Whether a layer stays in float that has these names."""
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.exclude)

    def plans(self, plans: Mapping[str, tuple[Plan, ...]]) -> dict[str, tuple[Plan, ...]]:
        """The plans of :mod:`qguard.precisions.integer` with these settings."""

        def changed(plan: Plan) -> Plan:
            if plan.smooth is not None and self.smooth is not None:
                plan = replace(plan, smooth=self.smooth)
            if not plan.shift and plan.outliers and self.outliers is not None:
                plan = replace(plan, outliers=self.outliers)
            return plan

        return {kind: tuple(dict.fromkeys(map(changed, some))) for kind, some in plans.items()}
