"""Gates: bounds such as ``ranking.overlap@10 >= 0.9``, parsed, and those of a precision."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from qguard.errors import MeasurementProblem, UsageProblem, unknown
from qguard.families import default_bounds, infos, judges, metric_names
from qguard.gates.derived import Standing
from qguard.kinds import DENSE
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.precisions.bounds import DEFAULT_BOUNDS, OF_KIND
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.metrics.bootstrap import Uncertainty
    from qguard.precisions import Precision

_KEY = re.compile(r"^(?P<metric>[a-z0-9_.@]+)(?:\[(?P<slice>[^\]]+)\])?$")


class Asked(Protocol):
    """A gate as a configuration asks for it: a bound, and what it judges."""

    @property
    def bound(self) -> Bound:
        """The bound."""
        ...

    @property
    def on(self) -> str:
        """``value``, ``lower`` or ``upper``; see :class:`Gate`."""
        ...


@dataclass(frozen=True)
class Gate:
    """A bound on a metric: for the whole suite (``slice`` is ``None``), one slice, or each slice (``*``).

    Attributes:
        on: What it judges: the ``value``, or the ``lower`` (of ``>=``) or ``upper`` (of ``<=``) end of its interval.
        origin: Why a default differs from that of MiniLM, in words; see :mod:`qguard.gates.derived`. Else empty.
        tables: The project's tables of ``[tool.qguard.gates]`` that set it, of which the last one wins; none of a default.
    """

    metric: str
    slice: str | None
    bound: Bound
    on: str = "value"
    origin: str = field(default="", compare=False)
    tables: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """``METRIC`` or ``METRIC[SLICE]``, as the configuration has it."""
        return self.metric + (f"[{self.slice}]" if self.slice else "")

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


def parse_gate(key: str, bound: str | Bound | Asked, vectors: str = FLOAT, cut: bool = False) -> Gate:
    """One line of ``[tool.qguard.gates.*]``.

    Args:
        key: ``METRIC`` or ``METRIC[SLICE]``.
        bound: A bound, or its text (see :meth:`qguard.metrics.bounds.Bound.parse`); or with what it judges.
        vectors: The kind of stored vectors that it bounds; some metrics exist only for some of them.
        cut: Whether it bounds a precision with fewer dimensions; some metrics exist only for those, and some only for others.

    Raises:
        UsageProblem: for an unknown metric, one that these vectors don't have, a bound that is not ``>= number`` or
            ``<= number``, or an end of an interval that the metric never has or that would be the wrong one.
    """
    match = _KEY.match(key)
    if not match or match["metric"] not in metric_names():
        raise unknown("gate", key, metric_names())
    if match["metric"] not in metric_names(vectors):
        raise unknown(f"gate for {vectors} vectors, which would never be judged:", key, metric_names(vectors))
    if match["metric"].startswith("truncation.") and not cut:
        raise UsageProblem(
            f"gate {key} would never be judged: it needs a precision with fewer dimensions; bound it under a name with them, "
            'such as [tool.qguard.gates."int8:256"] or ":256"'
        )
    if match["metric"].startswith(_OF_PLAIN) and cut:
        raise UsageProblem(
            f"gate {key} would never be judged of a precision with fewer dimensions: it is the plain precision's; bound it there"
        )
    if isinstance(bound, str):
        bound = Bound.parse(bound, f"gate {key}")
    limit, on = (bound, "value") if isinstance(bound, Bound) else (bound.bound, bound.on)
    if on != "value":
        if on != (end := "lower" if limit.lower else "upper"):
            raise UsageProblem(f'gate {key}: expected on = "{end}" with a bound {limit}, found on = "{on}"')
        if not infos()[match["metric"]].has_interval:
            raise UsageProblem(f'gate {key}: on = "{on}" needs an interval, and {match["metric"]} has none; leave out "on"')
    return Gate(match["metric"], match["slice"], limit, on)


# what is measured of the model before its vectors are cut
_OF_PLAIN = ("robustness.", "memory.", "regression.")

# default gates that mean something of vectors of unit length alone
_OF_UNIT_LENGTH = ("embedding.norm_error",)
LENGTH_OF_GENERATED = "robustness.norm_error"  # which is measured of no others


def gates_for(
    precision: Precision,
    configured: Mapping[str, Mapping[str, str | Bound | Asked]],
    *,
    normalized: bool = True,
    standing: Standing | None = None,
    by_length: bool = False,
    kind: str = DENSE,
) -> list[Gate]:
    """The default gates of a precision with a project's own bounds put over them, key by key.

    Args:
        precision: With quantized vectors, the model's own gates bound its files alone, and those of the vectors the rest.
        configured: ``[tool.qguard.gates]``, by name: ``int8``, ``int8@onnx``; ``+binary``, ``int8+binary``,
            ``int8@onnx+binary``. The later in this order wins, and a project's own name over that of its recipe. With fewer
            dimensions, names with them win over the same without: ``:256``, ``int8:256``, ``int8:256@onnx``, ``int8:256+binary``.
        normalized: Whether the model's pipeline ends in Normalize; without, the length of a vector moves as its values do, and
            no default bounds it.
        standing: How the model's golden lies; without, the defaults are those of MiniLM.
        by_length: Whether the model ranks by a similarity in which lengths count; then lengths are bounded as directions are.
        kind: Of the model. A precision's bounds are for dense models; another kind has those of metrics that it shares, and its
            own over them (:data:`qguard.precisions.bounds.OF_KIND`). The project's bounds of metrics that the model does not have
            don't count.

    What cannot be measured of the precision's runtime has no default gate.

    Raises:
        UsageProblem: for a gate of the project that would never be judged, because the runtime does not let it be measured.
    """
    base, runtime = precision.base, precision.runtime
    bounds = {key: Bound.of(bound, key) for key, bound in precision.recipe.bounds.items()}
    of_kind = OF_KIND.get(kind, {})
    if kind != DENSE:
        bounds = {key: bound for key, bound in bounds.items() if judges(key, kind)}
        for name in (precision.recipe.precision, precision.bounded_as):
            bounds |= of_kind.get(name, {})
    elif by_length:
        bounds |= _of_lengths(bounds)
    elif not normalized and precision.vectors == FLOAT:
        bounds = {key: bound for key, bound in bounds.items() if key not in _OF_UNIT_LENGTH}
    if not normalized:
        bounds.pop(LENGTH_OF_GENERATED, None)
    origins = dict[str, str]()
    if standing is not None:
        written, bounds = bounds, standing.carry(bounds, integers=precision.recipe.stores_integers)
        origins = {key: standing.why(key) for key, bound in bounds.items() if bound != written[key]}
    names = tuple(dict.fromkeys(n + at for n in (base, precision.name) for at in ("", f"@{runtime}")))
    cut = f":{precision.dims}" if precision.dims else ""
    with_dims = (cut, *dict.fromkeys(n + cut + at for n in (base, precision.name) for at in ("", f"@{runtime}"))) if cut else ()
    counted = {
        name: {k: b for k, b in table.items() if judges(k, kind) and (normalized or k != LENGTH_OF_GENERATED)}
        for name, table in configured.items()
    }
    own = _set_by(counted, (*names, *with_dims))
    if cut:  # the plain precision is judged by them
        own = {key: tables for key, tables in own.items() if not key.startswith(_OF_PLAIN)}
        bounds = {key: bound for key, bound in bounds.items() if not key.startswith(_OF_PLAIN)}
    if precision.vectors != FLOAT:
        stored = f"+{precision.vectors}"
        bounds = _stored(bounds, {k: b for k, b in DEFAULT_BOUNDS[stored].items() if judges(k, kind)} | of_kind.get(stored, {}))
        kept = {key: tables for key, tables in own.items() if key.startswith(("artifact.", "truncation."))}
        own = kept | _set_by(counted, [n + stored for n in ("", *names, *with_dims)])
    record, gates = precision.runs_in, []
    asked = {key: counted[tables[-1]][key] for key, tables in own.items()}
    for key, limit in {**default_bounds(precision.vectors, kind), **bounds, **asked}.items():
        gate = parse_gate(key, limit, precision.vectors, bool(cut))
        why = record.cannot_measure(gate.metric)
        if why and key in own:
            raise UsageProblem(f"gate {key} of {precision} would never be judged: {why}; bound it under another NAME@RUNTIME")
        gates += [] if why else [replace(gate, tables=own[key]) if key in own else replace(gate, origin=origins.get(key, ""))]
    return gates


def table_of(tables: Sequence[str], precision: str, vectors: str = FLOAT) -> str:
    """The table, as TOML writes its name, in which a project's bound of a gate has effect.

    Args:
        tables: Those that set the gate now; see :class:`Gate`.
        precision: The label of the precision, for a gate that none sets.
        vectors: The kind of its stored vectors.
    """
    name = tables[-1] if tables else precision if vectors == FLOAT else f"{precision}+{vectors}"
    return "[" + f"tool.qguard.gates.{name if re.fullmatch(r'[A-Za-z0-9_-]+', name) else json.dumps(name)}" + "]"


def _of_lengths(bounds: Mapping[str, Bound]) -> dict[str, Bound]:
    """The bound on lengths that count: a vector may move along itself as far as the least bound on cosines lets it move across.

    That is the sine of the angle, relative to the length. Where a recipe bounds no cosine, its own bound on lengths stays.
    """
    cosines = [b.number for k, b in bounds.items() if k.startswith("embedding.cosine_") and b.lower and 0 <= b.number <= 1]
    return {name: Bound("<=", round(math.sqrt(1 - min(cosines) ** 2), 3)) for name in _OF_UNIT_LENGTH} if cosines else {}


def _set_by(table: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Key → the named tables that set it, in the order of the names."""
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        for key in table.get(name, {}):
            out[key] = (*out.get(key, ()), name)
    return out


def _stored(model: Mapping[str, Bound], vectors: Mapping[str, Bound]) -> dict[str, Bound]:
    """Default gates of a lossy model whose vectors are quantized too: two independent losses add in quadrature."""
    out = {key: bound for key, bound in model.items() if key.startswith("artifact.")}
    for key, bound in vectors.items():
        limit = bound.number
        if (same := model.get(key.replace(".rescored_", "."))) is not None:
            other = same.number
            limit = 1 - math.hypot(1 - limit, 1 - other) if bound.lower else math.hypot(limit, other)
        out[key] = Bound(bound.op, round(limit, 3))
    return out
