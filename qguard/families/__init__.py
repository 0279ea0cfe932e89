"""The registry of metric families: what each family measures, what it needs, and which gate test judges it.

Every part of qguard that needs the list of checks reads :data:`FAMILIES`: the gate, the plugin, reports, ``compare``,
``accept``, ``selftest``, ``tolerances``, ``attest`` and the reference pages. Another package adds a family through the
entry-point group ``qguard.families``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qguard.errors import RegistryProblem
from qguard.kinds import DENSE, KINDS
from qguard.metrics import Comparison, Items, Measured, Metric, MetricInfo, reduced
from qguard.registry import Registry, function_of
from qguard.suites import Suite
from qguard.vectors.quantized import FLOAT

# What a family may need; a target that lacks one is not judged in that family.
NEEDS = {
    "vectors": "embeddings of the suite's texts",
    "labels": "a suite with labels: scored pairs, or queries with relevance judgments",
    "candidates": "a model with one score a pair, and a suite of queries with candidates",
    "files": "the artifact's files",
    "tokens": "a runtime that takes token ids",
    "told": "a runtime that tells the token ids of its own tokenizer",
    "generated": "texts that are generated for the run",
    "dimensions": "a precision with fewer dimensions, such as int8:256",
    "endpoint": "a server that is asked over HTTP",
    "cpu": "a CPU that is emulated (--cpu), and an artifact that ONNX Runtime runs",
    "index": "an index of a vector database that is named (--index)",
    "baseline": "the interpreter of another environment (--baseline-python)",
    "process": "processes of its own in which the artifact is timed or its memory is measured, or a server that gets a load",
}
TASK = "task"
TIMED = "test_latency"  # the gate test that runs once a latency bucket; its families are qguard's own

Parts = list[tuple[Items, tuple[Metric, ...]]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Metrics that answer one question and are judged by one gate test.

    Set exactly one of ``parts`` and ``judge``: it computes the values. A function may also be named as ``module:function``; it is
    then imported when it is first needed.

    Attributes:
        name: The first part of its metrics' names, before the dot.
        question: What it measures, as a question.
        test: Name of the test in the shipped gate; it begins with ``test_``.
        needs: Keys of :data:`NEEDS`.
        metrics: Every metric that it may return, in the order of reports.
        bounds: Default bounds for every precision: metric, or ``metric[slice]``, → ``>= NUMBER`` or ``<= NUMBER``.
        bounded_by: Where the bounds come from, in words, if they are not in ``bounds``.
        parts: :class:`~qguard.metrics.Comparison` → pairs of items and the metrics over them. Slices, intervals, accepted scores
            and proposed tolerances follow from it.
        judge: Session and target → the values (:class:`~qguard.metrics.Measured`), or the checks
            (:class:`qguard.gates.check.Check`) if the family judges its values itself.
        switch: The table of the configuration whose ``mode`` switches it off; empty if nothing does.
        lead: Its position in headlines and tables; smaller comes first.
        kinds: The kinds of models that it judges, names in :data:`qguard.kinds.KINDS`.
    """

    name: str
    question: str = ""
    test: str = ""
    needs: tuple[str, ...] = ()
    metrics: tuple[MetricInfo, ...] = ()
    bounds: Mapping[str, str] = field(default_factory=dict)
    bounded_by: str = ""
    parts: Callable[[Comparison], Parts] | str = ""
    judge: Callable[[Any, Any], Any] | str = ""
    switch: str = ""
    lead: int = 100
    kinds: tuple[str, ...] = (DENSE,)

    @property
    def sampled(self) -> bool:
        """Whether its values are statistics of a suite's items."""
        return bool(self.parts)

    def lacks(self) -> Iterable[str]:
        """See :class:`qguard.registry.Record`."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            yield f"its name is {self.name!r}; expected lower-case letters, digits and underscores"
        if not self.question:
            yield "it does not say what it measures (question)"
        if not re.fullmatch(r"test_[a-z0-9_]+", self.test):
            yield f"no gate test judges it (test={self.test!r}; expected a name such as 'test_{self.name}')"
        if not self.needs:
            yield f"it does not say what it needs (needs; known: {', '.join(NEEDS)})"
        if strange := sorted(set(self.needs) - set(NEEDS)):
            yield f"it needs {', '.join(strange)}, which qguard does not know (known: {', '.join(NEEDS)})"
        if not self.kinds or set(self.kinds) - set(KINDS):
            yield f"kinds: expected some of {', '.join(KINDS)}, found {self.kinds!r}"
        if not self.metrics:
            yield "it has no metrics"
        for m in self.metrics:
            if not re.fullmatch(rf"{re.escape(self.name)}\.[a-z0-9_@]+", m.name):
                yield f"its metric {m.name!r} is not named {self.name}.SOMETHING"
            for part in ("unit", "description", "source"):
                if not getattr(m, part):
                    yield f"its metric {m.name} has no {part}"
        if not self.bounds and not self.bounded_by:
            yield "no bound judges it: give bounds={metric: bound} for at least one metric"
        for key in self.bounds:
            if key.partition("[")[0] not in {m.name for m in self.metrics}:
                yield f"it bounds {key!r}, which is not one of its metrics"
        if bool(self.parts) == bool(self.judge):
            yield "it does not say how its values are computed: give one of parts and judge"

    def parts_of(self, comparison: Comparison) -> Parts:
        """Items, and the metrics over them that exist for the kind of vectors compared."""
        found = function_of(self.parts)(comparison)
        return [(items, tuple(m for m in metrics if comparison.kind in m.vectors)) for items, metrics in found]

    def judged(self, session: Any, target: Any) -> Any:
        """What ``judge`` gives."""
        return function_of(self.judge)(session, target)


def _own() -> Iterable[Family]:
    from qguard.families.own import OWN

    return OWN


class Families(Registry[Family]):
    """The registry of families: each gate test judges one family, but for :data:`TIMED`, which judges all that is timed."""

    def check(self, parts: Mapping[str, Family]) -> None:
        """See :class:`Families`: a test that is taken over would leave a family unjudged."""
        owners: dict[str, str] = {}
        for family in parts.values():
            if (other := owners.setdefault(family.test, family.name)) != family.name and family.test != TIMED:
                raise RegistryProblem(f"metric families {other!r} and {family.name!r} have the same gate test: {family.test}")


FAMILIES = Families("metric family", "qguard.families", Family, _own)


def sampled(suite: Suite | None = None, kind: str = DENSE) -> tuple[str, ...]:
    """The families over a suite's items for a kind of models. For a suite without labels, only those that need no labels."""
    return tuple(
        f.name
        for f in FAMILIES.values()
        if f.sampled and kind in f.kinds and (suite is None or suite.labelled or "labels" not in f.needs)
    )


def all_metrics() -> list[Metric]:
    """Every metric over the items of a suite."""
    return [m for f in FAMILIES.values() if f.sampled for m in f.metrics if isinstance(m, Metric)]


def infos() -> dict[str, MetricInfo]:
    """Every metric by name."""
    return {m.name: m for f in FAMILIES.values() for m in f.metrics}


def metric_names(vectors: str | None = None) -> list[str]:
    """Public names of all metrics that a gate may bound.

    Args:
        vectors: Only those that exist for this kind of stored vectors.
    """
    return [
        m.name
        for f in FAMILIES.values()
        for m in f.metrics
        if f.name not in _UNBOUNDED and (vectors is None or vectors in m.vectors)
    ]


# bounded in tables of their own, [tool.qguard.latency] and [tool.qguard.endpoint.NAME.load]
_UNBOUNDED = ("latency",)


def family_of(metric: str) -> str:
    """The name of a metric's family."""
    return metric.partition(".")[0]


def default_bounds(vectors: str = FLOAT, kind: str = DENSE) -> dict[str, str]:
    """The bounds that families bring themselves, for every precision of a kind of models."""
    known = infos()
    found = (item for f in FAMILIES.values() if kind in f.kinds for item in f.bounds.items())
    return {k: b for k, b in found if vectors in known[k.partition("[")[0]].vectors}


def judges(metric: str, kind: str) -> bool:
    """Whether a metric, or ``metric[slice]``, is measured of a kind of models."""
    return kind in FAMILIES.find(family_of(metric)).kinds


def measure(comparison: Comparison, name: str, worst: int = 5) -> list[Measured]:
    """All metrics of one family over a suite's items, for the whole suite and for each of its slices.

    Raises:
        MeasurementProblem: when the suite has too few items, or a value is not finite.
    """
    parts = FAMILIES.find(name).parts_of(comparison)
    return [m for items, metrics in parts for m in reduced(items, metrics, comparison.suite, worst)]


def standard_errors(comparison: Comparison, name: str) -> dict[str, float]:
    """Metric → standard error of its value over the whole suite, of the candidate's metrics of one family."""
    from qguard.metrics.bootstrap import seed_of, standard_error

    seed = seed_of(comparison.suite.sha256, name, None)
    return {
        m.name: standard_error(m.reduce, items.rows, seed)
        for items, metrics in FAMILIES.find(name).parts_of(comparison)
        for m in metrics
        if len(items.rows) >= m.min_items and not m.of_fp32
    }
