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
    """One judged value; see :class:`qguard.gates.check.Check`.

    Attributes:
        name: The metric.
        suite: What it was measured on.
        slice: Of the suite; ``null`` for all of it.
        value: What was measured.
        bound: ``>= NUMBER`` or ``<= NUMBER``; ``null`` where no gate bounds it.
        outcome: ``pass``, ``fail``, ``reported`` (no gate bounds it); of latency also ``inconclusive`` and ``runner unfit``.
        margin: Of what is judged to the bound; negative where it fails.
        items: Texts, pairs, queries or pairs of runs that it is of.
        worst: Words on the items that are worst, texts among them.
        on: What is judged: ``value``, or the ``lower`` or ``upper`` end of the interval.
        interval: Both ends at 95 %.
        interval_note: How an interval came about that is no bootstrap, or why there is none.
        detectable: The smallest drop that so many items can detect.
        unresolved: Words, where the bound is nearer to the value than that.
        accepted: Where it is held against an accepted score instead of a gate: which one, and how far its noise reaches.
    """

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
    """One comparison of times; see :func:`qguard.latency.check.compare`.

    Attributes:
        metric: ``latency.speedup``, ``latency.regression`` or ``latency.trend``.
        bucket: Tokens and batch, ``64x1``.
        outcome: As of a check.
        ratio: Baseline over candidate of a speed-up, candidate over baseline else.
        interval: Of the ratio; ``null`` where few pairs bound one side only.
        baseline_ms: Median, milliseconds.
        candidate_ms: Median, milliseconds.
        pairs: Of runs.
        sessions: Pairs of sessions.
        suspicious: More than quantization explains.
        ratios: Of every pair.
    """

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
    """Distances from cosine 1; see :func:`qguard.report.details.histogram`.

    Attributes:
        edges: Of the bins, rising.
        counts: In each bin.
        of: Items in all.
    """

    edges: list[Positive] = Field(min_length=2)
    counts: list[int]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or self.edges != sorted(self.edges):
            raise ValueError("edges rise, and are one more than counts")
        return self


class Points(Part):
    """Similarities of the same pairs, and of how many they are a sample.

    Attributes:
        fp32: Cosine of each pair.
        candidate: The same by what is judged.
        of: Pairs in all.
    """

    fp32: list[float]
    candidate: list[float]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.fp32) != len(self.candidate):
            raise ValueError("both sides have the same pairs")
        return self


class MovedPair(Part):
    """One pair and its similarities.

    Attributes:
        a: Key of a text in ``texts``.
        b: Of the other.
        slice: Of the suite.
        fp32: Cosine.
        candidate: Cosine by what is judged.
    """

    a: str
    b: str
    slice: str | None
    fp32: float
    candidate: float


class WorstText(Part):
    """One text that moved far.

    Attributes:
        text: Key in ``texts``.
        slice: Of the suite.
        tokens: Its length.
        cosine: To fp32.
    """

    text: str
    slice: str | None
    tokens: int
    cosine: float


# strict mode takes no array of JSON for a tuple
Neighbour = Annotated[tuple[str, float | None], Field(strict=False)]


class Query(Part):
    """What one text finds.

    Attributes:
        text: Key in ``texts``.
        slice: Of the suite.
        fp32: ``[key, score]`` of each neighbour, best first.
        candidate: The same by what is judged.
    """

    text: str
    slice: str | None
    fp32: list[Neighbour]
    candidate: list[Neighbour]


class Neighbours(Part):
    """The queries whose neighbours changed most.

    Attributes:
        queries: Of them the first ones.
        changed: Queries whose neighbours changed at all.
        of: Queries in all.
    """

    queries: list[Query]
    changed: int
    of: int


class Provenance(Part):
    """Where everything comes from; what else stands here is shown as it is.

    Attributes:
        gates: Every gate in force, with its bound.
    """

    gates: dict[str, str] = {}


class Details(Part):
    """What the page shows; see :mod:`qguard.report.details`. Parts are missing whose gate test did not run.

    Attributes:
        cosines: Distribution of the texts' cosines to fp32.
        worst_texts: Those whose vectors moved farthest.
        similarities: Of pairs, fp32 against what is judged.
        moved_pairs: Those whose similarity moved farthest.
        neighbours: Queries that find something else.
        provenance: Hashes, versions, gates.
    """

    cosines: Histogram | None = None
    worst_texts: list[WorstText] = []
    similarities: Points | None = None
    moved_pairs: list[MovedPair] = []
    neighbours: Neighbours | None = None
    provenance: Provenance = Provenance()


class Files(Part):
    """The artifact's files.

    Attributes:
        sha256: Over all of them.
        bytes: In all.
    """

    sha256: str
    bytes: int


class RunShape(Part):
    """One precision of a model on a suite.

    Attributes:
        model: Its name in the configuration.
        precision: Its name, without the runtime.
        runtime: What computed.
        vectors: How they are stored.
        suite: What it was judged on.
        verdict: Fails with any check; passes only if every gate test has measured.
        missing: Gate tests that did not measure.
        left_out: What was not measured on purpose: metric families, or stems of metrics' names; ``tokenizer`` where the
            tokenizer that was used is not proved to be the model's.
        left_out_because: Why, of each; missing in reports of older versions, in which the project or an option turned it off.
        texts_left_out: Texts of the suite that its golden holds no vector of, each with why.
        errors: What stopped a gate test.
        checks: Every value.
        latency: Every comparison of times.
        artifact: What was judged.
        device: Where torch computed.
        changed: Versions that differ from those the golden was recorded with.
        stored: How vectors are stored, where they are quantized.
        cause: Of a failure: drift of the stack, or loss by quantization.
        host: The kind of machine: CPU, instruction sets, cores, versions; no name.
        details: What the page shows.
    """

    model: str
    precision: str
    runtime: str
    vectors: str = "float32"
    suite: str
    verdict: Literal["pass", "fail", "unmeasured"]
    missing: list[str]
    left_out: list[str] = []
    left_out_because: dict[str, str] = {}
    texts_left_out: list[str] = []
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
    """A whole report; see :func:`qguard.report.assemble`.

    Attributes:
        schema: Of this shape.
        qguard: The version that wrote it.
        verdict: The worst of the runs'.
        runs: One for each precision, model and suite.
        texts: Suite → key → text, of those that details name; each once.
    """

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
