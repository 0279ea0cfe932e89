"""Gates: bounds such as ``ranking.overlap@10 >= 0.9``, parsed, and those of a precision."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.gates.defaults import DEFAULTS
from qguard.metrics import Measured, has_interval, metric_names
from qguard.vectors import FLOAT

if TYPE_CHECKING:
    from qguard.config.tables import GateConfig
    from qguard.metrics.bootstrap import Uncertainty
    from qguard.precisions import Precision

T = TypeVar("T")

_KEY = re.compile(r"^(?P<metric>[a-z0-9_.@]+)(?:\[(?P<slice>[^\]]+)\])?$")
_BOUND = re.compile(r"^\s*(?P<op>>=|<=)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True)
class Gate:
    """A bound on a metric: for the whole suite (``slice`` is ``None``), one slice, or each slice (``*``).

    Attributes:
        on: What it judges: the ``value``, or the ``lower`` (of ``>=``) or ``upper`` (of ``<=``) end of its interval.
    """

    metric: str
    slice: str | None
    op: str
    bound: float
    on: str = "value"

    def holds(self, value: float) -> bool:
        """Whether ``value`` satisfies the bound; NaN never does."""
        return value >= self.bound if self.op == ">=" else value <= self.bound

    def applies(self, measured: Measured) -> bool:
        """Whether this gate judges that value."""
        if measured.name != self.metric:
            return False
        return measured.slice == self.slice or (self.slice == "*" and measured.slice is not None)

    def judged(self, measured: Measured, spread: Uncertainty | None) -> float:
        """The number that must satisfy the bound.

        Raises:
            MeasurementProblem: when that is an end of an interval that does not exist.
        """
        if self.on == "value":
            return measured.value
        end = None if spread is None else spread.low if self.on == "lower" else spread.high
        if end is None:
            part = f"[{measured.slice}]" if measured.slice else ""
            why = spread.note if spread else "it is no sample of items"
            raise MeasurementProblem(f'gate {self.metric}{part} is on = "{self.on}", and there is no interval: {why}')
        return end


def parse_gate(key: str, bound: str | GateConfig, vectors: str = FLOAT) -> Gate:
    """One line of ``[tool.qguard.gates.*]``.

    Args:
        key: ``METRIC`` or ``METRIC[SLICE]``.
        bound: See :func:`parse_bound`; or with what it judges.
        vectors: The kind of stored vectors that it bounds; some metrics exist only for some of them.

    Raises:
        UsageProblem: for an unknown metric, one that these vectors don't have, a bound that is not ``>= number`` or
            ``<= number``, or an end of an interval that the metric never has or that would be the wrong one.
    """
    match = _KEY.match(key)
    if not match or match["metric"] not in metric_names():
        raise unknown("gate", key, metric_names())
    if match["metric"] not in metric_names(vectors):
        raise unknown(f"gate for {vectors} vectors, which would never be judged:", key, metric_names(vectors))
    words, on = (bound, "value") if isinstance(bound, str) else (bound.bound, bound.on)
    op, limit = parse_bound(key, words)
    if on != "value":
        if on != (end := "lower" if op == ">=" else "upper"):
            raise UsageProblem(f'gate {key}: expected on = "{end}" with a bound {op} {limit:g}, found on = "{on}"')
        if not has_interval(match["metric"]):
            raise UsageProblem(f'gate {key}: on = "{on}" needs an interval, and {match["metric"]} has none; leave out "on"')
    return Gate(match["metric"], match["slice"], op, limit, on)


def parse_bound(key: str, bound: str) -> tuple[str, float]:
    """``>= number`` or ``<= number`` as operator and number.

    Raises:
        UsageProblem: for anything else.
    """
    limit = _BOUND.match(str(bound))
    if not limit:
        raise UsageProblem(f"gate {key}: expected a bound such as '>= 0.9' or '<= 0.05', found {bound!r}")
    return limit["op"], float(limit["number"])


# default gates that mean something of vectors of unit length alone
_OF_UNIT_LENGTH = ("embedding.norm_error",)


def gates_for(
    precision: Precision, configured: Mapping[str, Mapping[str, str | GateConfig]], *, normalized: bool = True
) -> list[Gate]:
    """The default gates of a precision with a project's own bounds put over them, key by key.

    Args:
        precision: With quantized vectors, the model's own gates bound its files alone, and those of the vectors the rest.
        configured: ``[tool.qguard.gates]``, by name: ``int8``, ``int8@onnx``; ``+binary``, ``int8+binary``,
            ``int8@onnx+binary``. The later in this order wins, and a project's own name over that of its recipe.
        normalized: Whether the model's pipeline ends in Normalize; without, the length of a vector moves as its values do, and
            no default bounds it.

    What cannot be measured of the precision's runtime has no default gate.

    Raises:
        UsageProblem: for a gate of the project that would never be judged, because the runtime does not let it be measured.
    """
    base, runtime = precision.base, precision.runtime
    bounds = dict(precision.recipe.bounds)
    if not normalized and precision.vectors == FLOAT:
        bounds = {key: bound for key, bound in bounds.items() if key not in _OF_UNIT_LENGTH}
    names = tuple(dict.fromkeys(n + at for n in (base, precision.name) for at in ("", f"@{runtime}")))
    own = _merged(configured, names)
    if precision.vectors != FLOAT:
        kind = f"+{precision.vectors}"
        bounds = _stored(bounds, DEFAULTS[kind])
        files = {key: bound for key, bound in own.items() if key.startswith("artifact.")}
        own = files | _merged(configured, (kind, *(name + kind for name in names)))
    record, gates = precision.runs_in, []
    for key, bound in {**bounds, **own}.items():
        gate = parse_gate(key, bound, precision.vectors)
        why = record.cannot_measure(gate.metric)
        if why and key in own:
            raise UsageProblem(f"gate {key} of {precision} would never be judged: {why}; bound it under another NAME@RUNTIME")
        gates += [] if why else [gate]
    return gates


def _merged(table: Mapping[str, Mapping[str, T]], names: Iterable[str]) -> dict[str, T]:
    return {key: bound for name in names for key, bound in table.get(name, {}).items()}


def _stored(model: Mapping[str, str], vectors: Mapping[str, str]) -> dict[str, str]:
    """Default gates of a lossy model whose vectors are quantized too: two independent losses add in quadrature."""
    out = {key: bound for key, bound in model.items() if key.startswith("artifact.")}
    for key, bound in vectors.items():
        op, limit = parse_bound(key, bound)
        if (same := model.get(key.replace(".rescored_", "."))) is not None:
            _, other = parse_bound(key, same)
            limit = 1 - math.hypot(1 - limit, 1 - other) if op == ">=" else math.hypot(limit, other)
        out[key] = f"{op} {round(limit, 3):g}"
    return out
