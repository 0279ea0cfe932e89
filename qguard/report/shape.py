"""The shape of a report, schema 1: what a saved one must hold before anything is made of it.

Fields with a default are missing in reports of older versions; fields that are not named here are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qguard.errors import UsageProblem
from qguard.files import read_json

Positive = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """Numbers are finite, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class CheckShape(Part):
    """See :class:`qguard.gates.Check`."""

    name: str
    suite: str
    slice: str | None
    value: float
    bound: str | None
    outcome: str
    margin: float | None
    items: int
    worst: list[str] = []
    on: str = "value"
    interval: list[float | None] | None = None
    interval_note: str = ""
    detectable: float | None = None
    unresolved: str = ""
    accepted: str | None = None


class TrialShape(Part):
    """See :func:`qguard.latency.check.compare`."""

    metric: str
    bucket: str
    outcome: str
    ratio: Positive
    interval: list[float | None] = Field(min_length=2, max_length=2)
    baseline_ms: float
    candidate_ms: float
    pairs: int
    sessions: int
    suspicious: bool = False
    ratios: list[float] = []


class Histogram(Part):
    """See :func:`qguard.report.details.histogram`."""

    edges: list[Positive] = Field(min_length=2)
    counts: list[int]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or self.edges != sorted(self.edges):
            raise ValueError("edges rise, and are one more than counts")
        return self


class Points(Part):
    """Similarities of the same pairs, and of how many they are a sample."""

    fp32: list[float]
    candidate: list[float]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.fp32) != len(self.candidate):
            raise ValueError("both sides have the same pairs")
        return self


class MovedPair(Part):
    """One pair and its similarities; texts by key."""

    a: str
    b: str
    slice: str | None
    fp32: float
    candidate: float


class WorstText(Part):
    """One text that moved far."""

    text: str
    slice: str | None
    tokens: int
    cosine: float


# strict mode takes no array of JSON for a tuple
Neighbour = Annotated[tuple[str, float | None], Field(strict=False)]


class Query(Part):
    """What one text finds: ``[key, score]`` of each neighbour, best first."""

    text: str
    slice: str | None
    fp32: list[Neighbour]
    candidate: list[Neighbour]


class Neighbours(Part):
    """The queries whose neighbours changed most; ``changed`` of ``of`` did change."""

    queries: list[Query]
    changed: int
    of: int


class Provenance(Part):
    """Where everything comes from; what else stands here is shown as it is."""

    gates: dict[str, str] = {}


class Details(Part):
    """See :mod:`qguard.report.details`; parts are missing whose gate test did not run."""

    cosines: Histogram | None = None
    worst_texts: list[WorstText] = []
    similarities: Points | None = None
    moved_pairs: list[MovedPair] = []
    neighbours: Neighbours | None = None
    provenance: Provenance = Provenance()


class Files(Part):
    """The artifact's files."""

    sha256: str
    bytes: int


class RunShape(Part):
    """One precision of a model on a suite."""

    model: str
    precision: str
    runtime: str
    vectors: str = "float32"
    suite: str
    verdict: Literal["pass", "fail", "unmeasured"]
    missing: list[str]
    left_out: list[str] = []
    errors: list[str]
    checks: list[CheckShape]
    latency: list[TrialShape]
    artifact: Files | None = None
    device: str | None = None
    changed: list[str] = []
    stored: dict[str, Any] | None = None
    cause: str | None = None
    host: dict[str, Any] | None = None
    details: Details = Details()


class ReportShape(Part):
    """A whole report; see :func:`qguard.report.assemble`."""

    schema_: Literal[1] = Field(alias="schema")
    qguard: str
    verdict: Literal["pass", "fail", "unmeasured"]
    runs: list[RunShape]
    texts: dict[str, dict[str, str]] = {}


def checked(report: Any, name: str = "the report") -> dict[str, Any]:
    """A report with everything in it that this version knows of, missing parts by their defaults.

    Raises:
        UsageProblem: naming the first field that no report has, or the first one missing.
    """
    try:
        return ReportShape.model_validate(report).model_dump(by_alias=True)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageProblem(
            f"{name} is no report of this version, or is damaged: {where}: {first['msg']}; expected schema 1, as written by "
            "pytest --precision int8 --qguard-report=r.json"
        ) from None


def read_report(path: Path) -> dict[str, Any]:
    """A saved report, as it was saved.

    Raises:
        UsageProblem: for what is no report of schema 1.
    """
    report = read_json(path, UsageProblem)
    checked(report, str(path))
    return report
