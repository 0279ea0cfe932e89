"""How many items a metric needs so that a gate detects a drop of a given size, from the checks of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from qguard.families import FAMILIES
from qguard.gates.check import Check
from qguard.metrics import Metric, MetricInfo
from qguard.metrics.bootstrap import DETECTABLE, LEVEL
from qguard.metrics.statistics import Mean, Quantile, Share

Z_FALSE, Z_POWER = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(0.80)
LEAST = 30  # items, below which a standard error says little
ROOT = "root"  # the error falls with the square root of the items
ORDER = "order statistics"
NONE_LOST = "none lost"


@dataclass(frozen=True)
class Need:
    """One metric of a suite, or of a slice of it.

    Attributes:
        metric: Name, with the slice in brackets.
        items: Measured now.
        detectable: The smallest drop that they detect; ``None`` without a standard error.
        needed: Items that detect the wanted drop; ``None`` where nothing can be said.
        rule: Which formula gave it: ``root``, ``order statistics`` or ``none lost``; empty for none.
        why: Why nothing can be said, else empty.
    """

    metric: str
    value: float
    items: int
    detectable: float | None
    needed: int | None
    rule: str = ""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """The stable shape of ``--json``, schema 1."""
        return asdict(self)


def plan(checks: Iterable[Check], drop: float) -> list[Need]:
    """What each metric needs, in the order of the checks, each once; checks of what is no sample of items are left out.

    A gate stops a model that is worse by the drop 4 times of 5, and stops one that is not 1 time of 20; see
    :attr:`qguard.metrics.bootstrap.Uncertainty.detectable`.

    Args:
        checks: Of one run of a report.
        drop: In the metric's unit, above 0; of a metric whose low values are better, the rise.
    """
    found = {check.label: check for check in checks if sampled(check)}
    return [_need(check, drop) for check in found.values()]


def sampled(check: Check) -> bool:
    """Whether a value is a statistic of items, so that more of them say more."""
    return check.detectable is not None or (bool(check.interval_note) and check.interval_note != "no sample of items")


def least_of_quantile(q: float) -> int:
    """The fewest items that give an interval of a quantile (Conover 1999, 3.2): ln .025 / ln (1 - q), q from the nearer end."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - min(q, 1 - q)))


def _need(check: Check, drop: float) -> Need:
    now = check.label, check.value, check.items, check.detectable
    q = _quantile(check.name)
    if check.detectable is None:
        why = check.interval_note
        if q is not None and 0 < q < 1:
            why += f"; measure that many first ({least_of_quantile(q)})" if str(least_of_quantile(q)) not in why else ""
        return Need(*now, None, why=why)
    if check.interval_note.startswith("exact binomial: none of"):
        return Need(*now, max(LEAST, math.ceil(math.log((1 - LEVEL) / 2) / math.log(1 - min(drop, 0.5)))), NONE_LOST)
    if not check.detectable:
        return Need(*now, None, why=f"it does not vary between {check.items} items")
    needed = max(LEAST, math.ceil(check.items * (check.detectable / drop) ** 2 * _wider(check, drop)))
    if q is not None:
        return Need(*now, max(needed, least_of_quantile(q)), ORDER)
    return Need(*now, needed, ROOT)


def _wider(check: Check, drop: float) -> float:
    """How many times as many items the spread of the worse model asks for, at least 1.

    A model that loses more also varies more. Losses that are counted vary as their number does (Poisson): by the drop more of
    them have a variance of (loss + drop) / loss times that of now. z.80 counts in those standard errors, z.95 in those of now.
    """
    reduce = metric.reduce if isinstance(metric := _metric(check.name), Metric) else None
    best = (
        reduce.best
        if isinstance(reduce, Mean)
        else float(metric.higher_is_better)
        if isinstance(reduce, Share) and metric
        else None
    )
    if best is None or not (loss := abs(best - check.value)):
        return 1.0
    return ((Z_FALSE + Z_POWER * math.sqrt((loss + drop) / loss)) / (Z_FALSE + Z_POWER)) ** 2


def _quantile(name: str) -> float | None:
    """Which quantile a metric is; ``None`` for one that is none."""
    metric = _metric(name)
    return metric.reduce.q if isinstance(metric, Metric) and isinstance(metric.reduce, Quantile) else None


def _metric(name: str) -> MetricInfo | None:
    family = FAMILIES.get(name.partition(".")[0])
    return next((m for m in family.metrics if m.name == name), None) if family else None


RULES = {
    ROOT: "items x (detects now / drop)^2, because a standard error falls with the square root of the items; detects now = "
    f"(z.95 + z.80) x standard error = {DETECTABLE:.2f} x standard error. A share that loses more also varies more: there z.80 "
    "counts in standard errors x sqrt((loss + drop) / loss)",
    ORDER: "the same, with the standard error that the order statistics give, and at least ln .025 / ln (1 - q) items, so that "
    "there is an interval; rough, because few items lie beyond a quantile",
    NONE_LOST: "ln .025 / ln (1 - drop): so many items of which none loses anything exclude such a loss",
}
