"""The shape of a report, schema 2: what a saved one must hold before anything is made of it.

Fields with a default are missing in reports of older versions; fields that are not named here are kept. Schema 1 had bounds and
causes as text: :func:`upgraded` alone reads it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qguard.errors import UsageProblem
from qguard.files import read_json
from qguard.metrics.bounds import Bound
from qguard.report import SCHEMA

Positive = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """Numbers are finite, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class BoundShape(Part):
    """A bound; see :class:`qguard.metrics.bounds.Bound`.

    Attributes:
        op: ``>=``: the number is the least that passes; ``<=``: the largest.
        number: It passes itself.
        text: For people, with six significant digits.
    """

    op: Literal[">=", "<="]
    number: float
    text: str = ""


class CheckShape(Part):
    """One judged value; see :class:`qguard.gates.check.Check`.

    Attributes:
        name: The metric.
        suite: What it was measured on.
        slice: Of the suite; ``null`` for all of it.
        value: What was measured.
        bound: What it must hold; ``null`` where no gate bounds it.
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
    bound: BoundShape | None
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
        fp32: ``[key, score]`` of each neighbor, best first.
        candidate: The same by what is judged.
    """

    text: str
    slice: str | None
    fp32: list[Neighbour]
    candidate: list[Neighbour]


class Neighbours(Part):
    """The queries whose neighbors changed most.

    Attributes:
        queries: Of them the first ones.
        changed: Queries whose neighbors changed at all.
        of: Queries in all.
    """

    queries: list[Query]
    changed: int
    of: int


class GateShape(Part):
    """A gate in force.

    Attributes:
        bound: What a value must hold.
        on: What is judged: ``value``, or the ``lower`` or ``upper`` end of its interval.
    """

    bound: BoundShape
    on: Literal["value", "lower", "upper"] = "value"


class Provenance(Part):
    """Where everything comes from; what else stands here is shown as it is.

    Attributes:
        gates: Every gate in force, by its key.
    """

    gates: dict[str, GateShape] = {}


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


class FactsShape(Part):
    """What is known of a cause, of each kind some; what is not known is missing.

    Attributes:
        fp32: The precision that was run anew, or could not be.
        texts: On how many texts of the suite, those among them whose vectors moved most.
        change: The largest difference of an fp32 vector from the golden's, relative to its length.
        precision: What is judged, without the kind of its vectors.
        quantized: What is quantized: ``model``, ``vectors``, or both.
        mean_cosine: Of what is judged to fp32, where rounding does not explain it.
        least_cosine: What rounding leaves at least.
        drift: Mean loss of cosine from the golden to fp32 as it runs now.
        loss: The same from there to what is judged.
        versions: What changed since the golden.
        error: Why fp32 could not be run.
        command: What mends it (``stack``), or tells more (``unknown``).
    """

    fp32: str | None = None
    texts: int | None = None
    change: float | None = None
    precision: str | None = None
    quantized: list[str] | None = None
    mean_cosine: float | None = None
    least_cosine: float | None = None
    drift: float | None = None
    loss: float | None = None
    versions: list[str] | None = None
    error: str | None = None
    command: str | None = None


class CauseShape(Part):
    """Why a run failed; see :class:`qguard.judging.cause.Cause`.

    Attributes:
        kind: ``stack``: fp32 itself differs from the golden. ``loss``: quantization loses it. ``artifact``: the file computes
            something else. ``unknown``: fp32 could not be run, or an older version did not say.
        facts: What that rests on.
        text: For people.
    """

    kind: Literal["stack", "loss", "artifact", "unknown"]
    facts: FactsShape
    text: str


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
        cause: Of a failure: drift of the stack, loss by quantization, or another model; ``null`` where it was not looked for.
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
    cause: CauseShape | None = None
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

    schema_: Literal[2] = Field(alias="schema")
    qguard: str
    verdict: Literal["pass", "fail", "unmeasured"]
    runs: list[RunShape]
    texts: dict[str, dict[str, str]] = {}


def checked(report: Any, name: str = "the report") -> dict[str, Any]:
    """A report of schema 2 with everything in it that this version knows of, missing parts by their defaults.

    Raises:
        UsageProblem: naming the first field that no report has, or the first one missing.
    """
    try:
        return ReportShape.model_validate(upgraded(report, name)).model_dump(by_alias=True)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageProblem(
            f"{name} is no report of this version, or is damaged: {where}: {first['msg']}; expected schema {SCHEMA}, as "
            "written by pytest --precision int8 --qguard-report=r.json"
        ) from None


def read_report(path: Path) -> dict[str, Any]:
    """A saved report, as it was saved; one of schema 1 as schema 2.

    Raises:
        UsageProblem: for what is no report.
    """
    report: dict[str, Any] = upgraded(read_json(path, UsageProblem), str(path))
    checked(report, str(path))
    return report


def upgraded(report: Any, name: str = "the report") -> Any:
    """A report of schema 1 as one of schema 2: bounds and causes, which were text, as values.

    Args:
        report: Of schema 1; anything else is returned as it is.
        name: For the message.

    Raises:
        UsageProblem: for a bound that is none.
    """
    if not isinstance(report, dict) or report.get("schema") != 1:
        return report
    runs = report.get("runs")
    try:
        new = {**report, "schema": SCHEMA, "runs": [_run(r) for r in runs] if isinstance(runs, list) else runs}
    except UsageProblem as e:
        raise UsageProblem(f"{name} is damaged: {e}") from None
    if isinstance(findings := report.get("findings"), list):
        new["findings"] = [_finding(f) for f in findings]
    return new


def _finding(found: Any) -> Any:
    """A title began with the precision, or was the name of a test."""
    title = found.get("title") if isinstance(found, dict) else None
    return {**found, "precision": title.split()[0]} if isinstance(title, str) and title.strip() else found


def _run(run: Any) -> Any:
    if not isinstance(run, dict):
        return run
    new = dict(run)
    if isinstance(checks := run.get("checks"), list):
        new["checks"] = [{**c, "bound": _bound(c.get("bound"))} if isinstance(c, dict) else c for c in checks]
    if isinstance(run.get("cause"), str):
        new["cause"] = _cause(run["cause"]) if run["cause"] else None
    details = run.get("details")
    provenance = details.get("provenance") if isinstance(details, dict) else None
    if isinstance(details, dict) and isinstance(provenance, dict) and isinstance(gates := provenance.get("gates"), dict):
        new["details"] = {**details, "provenance": {**provenance, "gates": dict(_gate(k, v) for k, v in gates.items())}}
    return new


def _bound(text: Any) -> Any:
    return Bound.parse(text).to_json() if isinstance(text, str) else text


def _gate(key: str, bound: Any) -> tuple[str, Any]:
    end = re.fullmatch(r"(.*) \((lower|upper) end\)", key)
    return (end[1], {"bound": _bound(bound), "on": end[2]}) if end else (key, {"bound": _bound(bound), "on": "value"})


# The sentences of schema 1, with the facts that they hold; the group "text" is what the cause's text is now
_NUMBER = r"[\d.e+-]+"
_REPRODUCES = rf"(?P<fp32>\S+) still reproduces the golden to (?P<change>{_NUMBER}) on (?P<texts>\d+) texts, the worst among them"
_CAUSES = {
    "stack": (
        rf"(?P<text>the stack drifted: (?P<fp32>\S+), run now, differs from the golden by up to (?P<change>{_NUMBER}) on "
        rf"(?P<texts>\d+) texts \(rounding stays below \S+\) and costs (?P<drift>{_NUMBER}) of their mean cosine; "
        rf"(?P<versions>.*?)(\. Quantization costs (?P<loss>{_NUMBER}) more, [a-z ]+)?)"
        r"\. Record the golden anew after review: (?P<command>.+)"
    ),
    "loss": rf"(?P<text>loss by (?P<quantized>quantiz[a-z ]+): {_REPRODUCES})",
    "artifact": (
        rf"(?P<text>the artifact computes something else: {_REPRODUCES}(; it is the file, not the stack|, but its mean cosine "
        rf"to fp32 is (?P<mean_cosine>{_NUMBER}), and (?P<precision>\S+) loses no more than to (?P<least_cosine>[\d.]+?)))"
        r"(\. Check that .+)?"
    ),
    "unknown": (
        r"(?P<text>drift of the stack or loss\? (?P<fp32>\S+) could not be run here \((?P<error>.*)\)); "
        r"(?P<command>.+) tells drift of the stack from loss"
    ),
}
_QUANTIZED = {
    "quantization": ["model"], "quantizing the vectors": ["vectors"],
    "quantizing the model or its vectors": ["model", "vectors"],
}  # fmt: skip


def _cause(words: str) -> dict[str, Any]:
    """A cause of schema 1; words that no version wrote are kept, of the kind ``unknown``."""
    for kind, pattern in _CAUSES.items():
        if found := re.fullmatch(pattern, words, re.DOTALL):
            said = {k: v for k, v in found.groupdict().items() if v is not None}
            text = said.pop("text")
            try:
                return {"kind": kind, "facts": {k: _fact(k, v) for k, v in said.items()}, "text": text}
            except ValueError:  # a number that is none
                break
    return {"kind": "unknown", "facts": {}, "text": words}


def _fact(name: str, text: str) -> Any:
    if name == "versions":
        return [] if text.startswith("no recorded version") else text.split(", ")
    if name == "quantized":
        return _QUANTIZED.get(text, ["model"])
    return int(text) if name == "texts" else float(text) if name in _NUMBERS else text


_NUMBERS = {name for name, field in FactsShape.model_fields.items() if field.annotation == float | None}
