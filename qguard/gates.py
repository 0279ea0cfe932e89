"""Gates: parse ``ranking.overlap@10 >= 0.9``, hold the defaults of each precision, and judge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qguard.errors import UsageProblem, unknown
from qguard.metrics import Measured, metric_names

_KEY = re.compile(r"^(?P<metric>[a-z0-9_.@]+)(?:\[(?P<slice>[^\]]+)\])?$")
_BOUND = re.compile(r"^\s*(?P<op>>=|<=)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True)
class Gate:
    """A bound on a metric: for the whole suite (``slice`` is ``None``), one slice, or each slice (``*``)."""

    metric: str
    slice: str | None
    op: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` satisfies the bound; NaN never does."""
        return value >= self.bound if self.op == ">=" else value <= self.bound

    def applies(self, measured: Measured) -> bool:
        """Whether this gate judges that value."""
        if measured.name != self.metric:
            return False
        return measured.slice == self.slice or (self.slice == "*" and measured.slice is not None)


@dataclass(frozen=True)
class Check:
    """One judged value. ``outcome`` is ``pass``, ``fail`` or ``reported`` (no gate bounds it)."""

    name: str
    suite: str
    slice: str | None
    value: float
    bound: str | None
    outcome: str
    margin: float | None
    items: int
    worst: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and slice, as a gate's key is written."""
        return self.name + (f"[{self.slice}]" if self.slice else "")

    def to_json(self) -> dict[str, Any]:
        """The stable shape of the JSON report, schema 1."""
        return {**asdict(self), "worst": list(self.worst)}


def parse_gate(key: str, bound: str) -> Gate:
    """One line of ``[tool.qguard.gates.*]``.

    Raises:
        UsageProblem: for an unknown metric or a bound that is not ``>= number`` or ``<= number``.
    """
    match = _KEY.match(key)
    if not match or match["metric"] not in metric_names():
        raise unknown("gate", key, metric_names())
    return Gate(match["metric"], match["slice"], *parse_bound(key, bound))


def parse_bound(key: str, bound: str) -> tuple[str, float]:
    """``>= number`` or ``<= number`` as operator and number.

    Raises:
        UsageProblem: for anything else.
    """
    limit = _BOUND.match(str(bound))
    if not limit:
        raise UsageProblem(f"gate {key}: expected a bound such as '>= 0.9' or '<= 0.05', found {bound!r}")
    return limit["op"], float(limit["number"])


# One line each on why. Values: benchmarks/gate_margins.py prints what good and bad artifacts reach.
# NAME@RUNTIME lists what differs from NAME.
DEFAULTS: dict[str, dict[str, str]] = {
    "fp32": {
        "artifact.quantized_ops": ">= 1",  # fp32 means every multiplication in float
        "embedding.cosine_p01": ">= 0.99999",  # only rounding separates runtimes
        "embedding.cosine_min": ">= 0.9999",  # one wrong text is a bug, not noise
        "embedding.norm_error": "<= 0.001",  # an unnormalised output shows here
        "similarity.max_error": "<= 0.001",  # scores agree to three digits
        "ranking.overlap@10": ">= 0.995",  # only exact ties may swap
        "ranking.top1": ">= 0.99",  # the first hit is what users see
    },
    "fp16": {
        "artifact.quantized_ops": ">= 1",  # every weight matrix in the promised dtype
        "artifact.size_ratio": "<= 0.52",  # half the bytes, or nothing was cast
        "embedding.cosine_p01": ">= 0.9999",  # 11 bits of precision lose no more
        "embedding.cosine_min": ">= 0.999",  # an overflow would show in one text first
        "embedding.norm_error": "<= 0.005",  # norms survive a cast
        "similarity.max_error": "<= 0.005",  # scores agree to two digits
        "ranking.overlap@10": ">= 0.98",  # neighbours are fp32's but for ties
    },
    "bf16": {
        "artifact.quantized_ops": ">= 1",  # every weight matrix in the promised dtype
        "artifact.size_ratio": "<= 0.52",  # half the bytes, or nothing was cast
        "embedding.cosine_p01": ">= 0.999",  # 8 bits of precision
        "embedding.cosine_min": ">= 0.995",  # no single text may fall out
        "embedding.norm_error": "<= 0.02",  # norms survive a cast
        "similarity.max_error": "<= 0.03",  # scores agree to nearly two digits
        "ranking.overlap@10": ">= 0.95",  # one neighbour in twenty may swap
    },
    "int8": {
        "artifact.quantized_ops": ">= 0.9",  # "int8" that still computes in fp32 fails here
        "artifact.size_ratio": "<= 0.7",  # embedding tables may stay float; a no-op may not
        "embedding.cosine_mean": ">= 0.985",  # per-channel reaches .992, per-tensor .95
        "embedding.cosine_p01": ">= 0.96",  # one text in a hundred may move this far
        "embedding.cosine_min": ">= 0.85",  # the worst text still points the same way
        "embedding.norm_error": "<= 0.02",  # a normalised model stays normalised
        "similarity.spearman": ">= 0.985",  # the order of pair scores holds
        "similarity.p99_error": "<= 0.1",  # a 0.92 that becomes 0.82 is a different answer
        "similarity.bias": "<= 0.02",  # a shift of all scores breaks users' thresholds
        "ranking.overlap@10": ">= 0.85",  # per-channel .90, per-tensor and legacy .79
        "ranking.overlap@10[*]": ">= 0.7",  # no domain pays for the mean
        "ranking.top1": ">= 0.8",  # the first hit is what users see
        "ranking.inversions": "<= 0.05",  # documents clearly apart stay in order
    },
    "bf16@openvino": {
        "embedding.cosine_p01": ">= 0.9998",  # .99996: sums are kept in float
        "embedding.cosine_min": ">= 0.999",  # .9999
        "similarity.max_error": "<= 0.01",  # .0017
        "ranking.overlap@10": ">= 0.985",  # .995
    },
    "int8@openvino": {
        "artifact.quantized_ops": ">= 1",  # every weight, or the recipe's one property is missing
        "artifact.size_ratio": "<= 0.3",  # embedding tables in 8 bits too
        "embedding.cosine_mean": ">= 0.998",  # .9992
        "embedding.cosine_p01": ">= 0.997",  # .998; symmetric weights reach .996
        "embedding.cosine_min": ">= 0.99",  # .996; no text may fall out
        "similarity.spearman": ">= 0.999",  # .9999
        "similarity.p99_error": "<= 0.02",  # .010
        "similarity.bias": "<= 0.002",  # .0004
        "ranking.overlap@10": ">= 0.96",  # .970
        "ranking.overlap@10[*]": ">= 0.9",  # no domain pays for the mean
        "ranking.top1": ">= 0.94",  # .956
        "ranking.inversions": "<= 0.005",  # none seen
    },
}


# Promises of speed against fp32 of the same runtime; the other precisions promise none unless the project does.
DEFAULT_SPEEDUP = {"int8": ">= 1"}  # an int8 model that is slower than fp32 is a regression


def gates_for(precision: str, overrides: Mapping[str, str]) -> list[Gate]:
    """The gates of a precision, key by key: a project's own bounds over those of ``NAME@RUNTIME`` over those of ``NAME``."""
    bounds = {**DEFAULTS.get(precision.partition("@")[0], {}), **DEFAULTS.get(precision, {}), **overrides}
    return [parse_gate(key, bound) for key, bound in bounds.items()]


def judge(measured: Iterable[Measured], gates: Iterable[Gate], suite: str) -> list[Check]:
    """Every value with every gate that bounds it; a value without a gate is reported. The nearest slice gate wins."""
    gates = list(gates)
    checks = []
    for m in measured:
        own = [g for g in gates if g.applies(m)]
        exact = [g for g in own if g.slice == m.slice]
        if not own:
            checks.append(Check(m.name, suite, m.slice, m.value, None, "reported", None, m.items, m.worst))
        for gate in exact or own:
            margin = m.value - gate.bound if gate.op == ">=" else gate.bound - m.value
            outcome = "pass" if gate.holds(m.value) else "fail"
            bound = f"{gate.op} {gate.bound:g}"
            checks.append(Check(m.name, suite, m.slice, m.value, bound, outcome, margin, m.items, m.worst))
    return checks
