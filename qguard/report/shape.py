"""The shape of a report, schema 2. A saved report is checked against it before anything is rendered.

A field with a default may be missing from a report of an older version. A field that is not named here is kept. Schema 1 stored
bounds and causes as text; only :func:`upgraded` reads it.
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
    """Numbers must be finite, and values are not converted to another type."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class BoundShape(Part):
    """A bound; see :class:`qguard.metrics.bounds.Bound`.

    Attributes:
        op: ``>=`` if ``number`` is the smallest value that passes, ``<=`` if it is the largest.
        number: The limit. A value equal to it passes.
        text: The bound for people, with six significant digits.
    """

    op: Literal[">=", "<="]
    number: float
    text: str = ""


class CheckShape(Part):
    """One judged value; see :class:`qguard.gates.check.Check`.

    Attributes:
        name: The metric.
        suite: The suite that it was measured on.
        slice: The slice of the suite; ``null`` for the whole suite.
        value: The measured value.
        bound: The bound that the value must satisfy; ``null`` if no gate bounds it.
        outcome: ``pass``, ``fail`` or ``reported`` (no gate bounds it). A latency check can also be ``inconclusive`` or
            ``runner unfit``.
        margin: Distance from the judged number to the bound; negative if the check fails.
        items: Number of texts, pairs, queries or pairs of runs that the value is computed from.
        worst: One line of text for each of the worst items.
        on: The judged number: ``value``, or the ``lower`` or ``upper`` end of the interval.
        interval: Both ends of the 95 % interval.
        interval_note: The method of an interval that is not a bootstrap interval, or the reason why there is no interval.
        detectable: The smallest drop that this number of items can detect.
        unresolved: A sentence, if the value is closer to the bound than ``detectable``; otherwise empty.
        accepted: The accepted score that replaces a gate here, and its noise.
        origin: A sentence, if the bound is a default that the model's golden moved; otherwise empty.
        promised: The bound of the recipe that a gate of the project replaces; otherwise ``null``.
        tables: The project's tables of ``[tool.qguard.gates]`` that set the bound. The last one wins.
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
    origin: str = ""
    promised: BoundShape | None = None
    tables: list[str] = []


class TrialShape(Part):
    """One comparison of times; see :func:`qguard.latency.check.compare`.

    Attributes:
        metric: ``latency.speedup``, ``latency.regression`` or ``latency.trend``.
        bucket: Tokens and batch size, such as ``64x1``.
        outcome: Same values as the outcome of a check.
        ratio: Baseline time over candidate time for ``latency.speedup``, candidate time over baseline time otherwise.
        interval: Both ends of the ratio's interval; an end is ``null`` if too few pairs bound it.
        baseline_ms: Median time of the baseline in milliseconds.
        candidate_ms: Median time of the candidate in milliseconds.
        pairs: Number of pairs of runs.
        sessions: Number of pairs of sessions.
        suspicious: Whether the speed-up is larger than quantization explains.
        ratios: Ratio of each pair.
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


class LoadShape(Part):
    """Requests that a server got, and how long they took; see docs/latency.md. Errors stand apart from latencies.

    Attributes:
        source: ``qguard``, or the load tool that states these figures; then qguard did not measure them.
        bucket: Tokens, texts in a request and the kind of load, such as ``64x1-closed``; empty if a tool does not say it.
        mode: ``closed``: each client sends its next request when its last one is answered. ``open``: requests leave at a rate,
            and a latency begins when its request was to leave.
        clients: Clients of a closed loop.
        rate: Requests per second of an open loop.
        arrivals: ``poisson`` or ``constant``, of an open loop.
        seed: Random seed of their times.
        seconds: From the first request to the last answer.
        requests: Number of answered requests, of which the latencies are.
        failed: Number of requests without an answer; ``null`` if a tool does not say it.
        timeouts: Number of those that were not answered in time, or could not even leave.
        failures: Kind of failure → how often; the most frequent ones.
        p50_ms: Median latency in milliseconds.
        p95_ms: 95th percentile of latencies.
        p99_ms: 99th percentile of latencies.
        throughput: Answers per second.
        cold_ms: Latency of the first request, on a new connection; it is not among the others.
        lag_ms: By how much the load generator itself was late for 95 % of the requests, at most.
        waited: Number of requests that found no connection free; their latencies include the wait.
        note: What a reader has to know of these figures; empty if nothing.
    """

    source: str
    bucket: str = ""
    mode: Literal["closed", "open"]
    clients: int | None = None
    rate: float | None = None
    arrivals: str | None = None
    seed: int | None = None
    seconds: float | None = None
    requests: int
    failed: int | None = None
    timeouts: int | None = None
    failures: dict[str, int] = {}
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    throughput: float | None = None
    cold_ms: float | None = None
    lag_ms: float | None = None
    waited: int | None = None
    note: str = ""


class Histogram(Part):
    """Distances from cosine 1; see :func:`qguard.report.details.histogram`.

    Attributes:
        edges: Edges of the bins, in rising order.
        counts: Number of items in each bin.
        of: Number of items in total.
    """

    edges: list[Positive] = Field(min_length=2)
    counts: list[int]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or self.edges != sorted(self.edges):
            raise ValueError("edges must rise, and there must be one more edge than counts")
        return self


class Points(Part):
    """Similarities of a sample of the pairs.

    Attributes:
        fp32: Cosine of each pair in fp32.
        candidate: Cosine of each pair in the judged precision.
        of: Number of pairs in total.
    """

    fp32: list[float]
    candidate: list[float]
    of: int

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.fp32) != len(self.candidate):
            raise ValueError("fp32 and candidate must have the same length")
        return self


class MovedPair(Part):
    """One pair and its similarities.

    Attributes:
        a: Key of the first text in ``texts``.
        b: Key of the second text in ``texts``.
        slice: The slice of the pair.
        fp32: Cosine in fp32.
        candidate: Cosine in the judged precision.
    """

    a: str
    b: str
    slice: str | None
    fp32: float
    candidate: float


class WorstText(Part):
    """One text that moved far.

    Attributes:
        text: Key of the text in ``texts``.
        slice: The slice of the text.
        tokens: Number of tokens in the text.
        cosine: Cosine to the fp32 vector.
    """

    text: str
    slice: str | None
    tokens: int
    cosine: float


# strict mode takes no array of JSON for a tuple
Neighbour = Annotated[tuple[str, float | None], Field(strict=False)]


class Query(Part):
    """The nearest neighbors of one query.

    Attributes:
        text: Key of the query in ``texts``.
        slice: The slice of the query.
        fp32: ``[key, score]`` of each neighbor in fp32, best first.
        candidate: ``[key, score]`` of each neighbor in the judged precision, best first.
    """

    text: str
    slice: str | None
    fp32: list[Neighbour]
    candidate: list[Neighbour]


class Neighbours(Part):
    """The queries whose neighbors changed most.

    Attributes:
        queries: The first of these queries, most changed first.
        changed: Number of queries whose neighbors changed at all.
        of: Number of queries in total.
    """

    queries: list[Query]
    changed: int
    of: int


class GateShape(Part):
    """A gate in force.

    Attributes:
        bound: The bound that a value must satisfy.
        on: The judged number: ``value``, or the ``lower`` or ``upper`` end of the interval.
    """

    bound: BoundShape
    on: Literal["value", "lower", "upper"] = "value"


class Provenance(Part):
    """Hashes, versions and gates. The page shows further fields unchanged.

    Attributes:
        gates: Every gate in force, by key.
    """

    gates: dict[str, GateShape] = {}


class Details(Part):
    """What the HTML page shows; see :mod:`qguard.report.details`. If a gate test did not run, its part is missing.

    Attributes:
        cosines: Distribution of the cosines between the texts' vectors and their fp32 vectors.
        worst_texts: The texts whose vectors moved farthest.
        similarities: Similarities of pairs in fp32 and in the judged precision.
        moved_pairs: The pairs whose similarity moved farthest.
        neighbours: The queries whose nearest neighbors changed.
        provenance: Hashes, versions and gates.
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
        sha256: One SHA-256 over all files.
        bytes: Total size in bytes.
    """

    sha256: str
    bytes: int


class FactsShape(Part):
    """The facts behind a cause. Which facts are present depends on the kind of the cause.

    Attributes:
        fp32: The fp32 precision that was run again for the comparison, or could not be run.
        texts: Number of the suite's texts in that run. It includes the texts whose vectors moved most.
        change: The largest difference between an fp32 vector and the golden's, relative to the vector's length.
        precision: The judged precision, without the kind of its vectors.
        quantized: What is quantized: ``model``, ``vectors``, or both.
        mean_cosine: Mean cosine of the judged vectors to fp32, if rounding does not explain it.
        least_cosine: The smallest mean cosine that rounding explains.
        declared: Settings in which the artifact's files differ from the model's.
        damage: Stored weights that are not the model's, in words.
        distance: Mean distance of the candidate's vectors to fp32's, relative to their length, on those texts.
        unrounded: The same for the artifact's own graph without rounding.
        alone: The same for each text by itself, without padding.
        drift: Mean loss of cosine from the golden to fp32 as it runs now.
        loss: Mean loss of cosine from fp32 as it runs now to the judged precision.
        versions: Versions that changed since the golden was recorded.
        error: The reason why fp32 could not be run.
        command: The command that fixes the cause (``stack``) or tells more about it (``unknown``).
    """

    fp32: str | None = None
    texts: int | None = None
    change: float | None = None
    precision: str | None = None
    quantized: list[str] | None = None
    mean_cosine: float | None = None
    least_cosine: float | None = None
    declared: list[str] | None = None
    damage: list[str] | None = None
    distance: float | None = None
    unrounded: float | None = None
    alone: float | None = None
    drift: float | None = None
    loss: float | None = None
    versions: list[str] | None = None
    error: str | None = None
    command: str | None = None


class CauseShape(Part):
    """Why a run failed; see :class:`qguard.judging.cause.Cause`.

    Attributes:
        kind: ``stack``: fp32 itself differs from the golden. ``loss``: quantization loses accuracy. ``artifact``: the file
            computes something else. ``unknown``: it is not proved, or an older version did not store the kind.
        facts: The measured facts behind the kind.
        text: The cause in words.
    """

    kind: Literal["stack", "loss", "artifact", "unknown"]
    facts: FactsShape
    text: str


class JudgedPart(Part):
    """One part of what is judged.

    Attributes:
        name: ``file``, ``runtime``, ``versions``, ``tokenizer``, ``padding``, ``length``, ``prompts``, ``input NAME``,
            ``output``, ``pooling`` or ``normalization``; of a server ``server``, ``model``, ``prompts``,
            ``normalization``, ``scores`` and ``fingerprint``.
        value: What it is.
        source: Where it comes from: ``artifact``, ``model`` or ``configuration``, or the rule that chose it.
        others: What could have been judged in its place.
    """

    name: str
    value: str
    source: str
    others: list[str] = []


class EndpointShape(Part):
    """A server that was judged; see docs/endpoints.md. It holds no secret.

    Attributes:
        name: Name of the precision.
        url: Where it answered, without the values of a query.
        protocol: How it was asked.
        model: The model that requests named.
        says: The model that the server named in its answers; ``null`` if it named none.
        headers: Names of the headers that were sent, without their values.
        batch: Number of texts in one request.
        concurrency: Number of requests at the same time.
        normalized: What the settings state of lengths or scores; ``null`` if they state nothing.
        prompts: ``client`` or ``server``: who put prompts in front of texts.
        dimensions: Values of one output.
        encoding: ``float`` or ``base64``, as vectors came.
        lengths: Shortest and longest vector of the fingerprint's texts; zeros for a model that gives no vectors.
        fingerprint: SHA-256 of what the server answered to a few fixed texts.
        noise: Largest relative distance between two answers to one of these texts.
        date: When the fingerprint was measured, in UTC.
    """

    name: str
    url: str
    protocol: str
    model: str
    says: str | None
    headers: list[str] = []
    batch: int
    concurrency: int
    normalized: bool | None
    prompts: str
    dimensions: int
    encoding: str
    lengths: list[float]
    fingerprint: str
    noise: float
    date: str


class IndexShape(Part):
    """An index of a vector database that the candidate's vectors were searched in; see docs/indexes.md.

    Attributes:
        name: Its name in the configuration.
        store: The store.
        type: Its type, as Milvus names it.
        metric: What it ranks by.
        vectors: How the store keeps vectors.
        params: Parameters of the build.
        search: Parameters of a search.
        k: Hits asked for.
        existing: Whether the collection was there before, and was only read.
        versions: Package → version of what searched.
        rows: Number of rows that the store holds.
        dim: Values of a vector.
        queries: Number of queries.
        proof: That the index was used: what the store holds, how many rows were read back, how many random directions the
            narrowest search misses, and the largest distance of a score from the exact one.
        split: overlap@10 with fp32 of an exact search of the candidate's vectors (``model``), of the stored ones
            (``vectors``), and of the answers of the index (``index``).
        filters: Recall, and share of full answers, under each filter.
        filters_empty: Shares of rows whose filter no row of this suite meets.
        insert_seconds: Time to insert the rows; ``null`` of a collection that was there before.
        build_seconds: Time to build the index, likewise.
        resumed: Rows that an interrupted run had inserted before.
        bytes: Of the index with its rows; ``null`` if the store does not tell.
        p50_ms: Median time of a search for one query, in milliseconds.
        p95_ms: 95th percentile of these times.
        words: The loss of each part in one line.
    """

    name: str
    store: str
    type: str
    metric: str
    vectors: str
    params: dict[str, Any] = {}
    search: dict[str, Any] = {}
    k: int
    existing: bool = False
    versions: dict[str, str] = {}
    rows: int
    dim: int
    queries: int
    proof: dict[str, Any]
    split: dict[str, float]
    filters: list[dict[str, float]] = []
    filters_empty: list[float] = []
    insert_seconds: float | None = None
    build_seconds: float | None = None
    resumed: int = 0
    bytes: int | None = None
    p50_ms: float
    p95_ms: float
    words: str


class CpuShape(Part):
    """A CPU that QEMU emulated, on which a part of the suite was computed; see docs/cpus.md. Nothing is timed there.

    Attributes:
        name: The CPU as QEMU names it.
        host: The CPU, its instruction sets, what emulated it, the features that NumPy found by CPUID, those that a real one has
            and QEMU takes away, and versions.
        native: The CPU that this one is compared with: that of the machine that judges.
        exact_products: Whether ONNX Runtime had the option that keeps products from saturating.
        texts: Number of texts that were computed.
        of: Number of texts of the suite.
        values: Metric → ``value``, and ``native``, that of this machine's CPU on the same texts.
    """

    name: str
    host: dict[str, Any]
    native: dict[str, Any]
    exact_products: bool
    texts: int
    of: int
    values: dict[str, dict[str, float | None]]


class HostVectorsShape(Part):
    """The file of the candidate's vectors that was kept for ``qguard merge --across-hosts``.

    Attributes:
        file: Its name.
        sha256: Its hash.
    """

    file: str
    sha256: str


class HostPair(Part):
    """Two hosts that ran one precision of a model on a suite.

    Attributes:
        hosts: Both, by index into ``hosts`` of the entry; the first one is ``the first host`` of the metrics' descriptions.
        artifacts: Hash of the artifact on each.
        same_artifact: Whether it is the same.
        checks: How far they differ.
        words: The most important values in one line.
    """

    hosts: list[int] = Field(min_length=2, max_length=2)
    artifacts: list[str]
    same_artifact: bool
    checks: list[CheckShape]
    words: str


class AcrossShape(Part):
    """A precision whose hosts were compared with each other; see docs/cpus.md.

    Attributes:
        model: Name of the model.
        suite: Name of the suite.
        precision: Name of the precision.
        runtime: Name of the runtime.
        vectors: Kind of the stored vectors.
        verdict: ``fail`` if any check fails; ``pass`` only if the vectors of all hosts were there.
        hosts: Every host that ran it, in words.
        host_hashes: Hash of what ``host`` of its run says, of each.
        missing: What could not be compared, and why.
        pairs: Each two hosts.
    """

    model: str
    suite: str
    precision: str
    runtime: str
    vectors: str = "float32"
    verdict: Literal["pass", "fail", "unmeasured"]
    hosts: list[str]
    host_hashes: list[str]
    missing: list[str]
    pairs: list[HostPair]


class RunShape(Part):
    """One precision of a model on a suite.

    Attributes:
        model: Name of the model in the configuration.
        kind: What the model gives: one vector to a text, scores for a pair, weights of words, or a vector to each token. Missing
            in reports of older versions, which judged dense models alone.
        precision: Name of the precision, without the runtime.
        runtime: Name of the runtime that computed the vectors.
        vectors: Kind of the stored vectors.
        suite: Name of the suite.
        verdict: ``fail`` if any check fails; ``pass`` only if every gate test measured.
        answers: The verdict on ``Accuracy``, ``Service`` (of a server), ``Precision`` (of the file), ``Size``, ``Speed`` and
            ``Memory``: each is ``holds``, ``fails``, ``not measured``, ``not gated`` or ``left out``. Missing in reports of older
            versions.
        missing: Gate tests that did not measure.
        left_out: What was deliberately not measured: metric families or stems of metric names. ``tokenizer`` means that
            the tokenizer in use is not proved to be the model's.
        left_out_because: The reason for each entry of ``left_out``. Missing in reports of older versions, where the project
            or an option turned it off.
        texts_left_out: Texts of the suite that have no vector in the golden, each with the reason.
        errors: Errors that stopped a gate test.
        checks: Every check.
        latency: Every comparison of times.
        load: Every load that a server got.
        index: Every index that was searched.
        cpus: Every CPU that was emulated.
        host_vectors: The file of vectors that was kept; ``null`` if none was asked for.
        artifact: Files of the judged artifact.
        endpoint: The judged server; ``null`` for all else.
        golden_from: The server that the golden was recorded from, in words; ``null`` for a golden that was computed from the
            model's own files.
        judged: What is judged, part by part, each with its source. Empty in reports of older versions.
        device: Device that torch computed on.
        changed: Versions that differ from those that the golden was recorded with.
        stored: How quantized vectors are stored.
        cause: Cause of a failure: drift of the stack, loss by quantization, or another model; ``null`` if none was looked for.
        host: The kind of machine: CPU, instruction sets, cores and versions, without a host name.
        details: What the HTML page shows.
    """

    model: str
    kind: Literal["dense", "cross-encoder", "sparse", "multi-vector"] = "dense"
    precision: str
    runtime: str
    vectors: str = "float32"
    suite: str
    verdict: Literal["pass", "fail", "unmeasured"]
    answers: dict[str, str] = {}
    missing: list[str]
    left_out: list[str] = []
    left_out_because: dict[str, str] = {}
    texts_left_out: list[str] = []
    errors: list[str]
    checks: list[CheckShape]
    latency: list[TrialShape]
    load: list[LoadShape] = []
    index: list[IndexShape] = []
    cpus: list[CpuShape] = []
    host_vectors: HostVectorsShape | None = None
    artifact: Files | None = None
    endpoint: EndpointShape | None = None
    golden_from: str | None = None
    judged: list[JudgedPart] = []
    device: str | None = None
    changed: list[str] = []
    stored: dict[str, Any] | None = None
    cause: CauseShape | None = None
    host: dict[str, Any] | None = None
    details: Details = Details()


class ReportShape(Part):
    """A whole report; see :func:`qguard.report.assemble`.

    Attributes:
        schema: Version of this shape.
        qguard: Version of qguard that wrote the report.
        verdict: The worst verdict of the runs.
        runs: One run for each precision, model and suite.
        texts: Suite → key → text, once for each text that ``details`` refers to.
        created: When it was written, in UTC; of merged reports the last one's. ``SOURCE_DATE_EPOCH`` replaces the clock. Missing
            in reports of older versions.
        commit: The commit that CI names; ``null`` outside of CI.
        across: Of merged reports, the precisions whose hosts were compared with each other.
    """

    schema_: Literal[2] = Field(alias="schema")
    qguard: str
    verdict: Literal["pass", "fail", "unmeasured"]
    runs: list[RunShape]
    texts: dict[str, dict[str, str]] = {}
    created: str | None = None
    commit: str | None = None
    across: list[AcrossShape] = []


def checked(report: Any, name: str = "the report") -> dict[str, Any]:
    """A report of schema 2 with every field that this version knows; missing fields get their defaults.

    Raises:
        UsageProblem: with the first field that is invalid or missing.
    """
    try:
        return ReportShape.model_validate(upgraded(report, name)).model_dump(by_alias=True)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageProblem(
            f"{name} is damaged or is not a report of this version: {where}: {first['msg']}; expected schema {SCHEMA}, as "
            "written by pytest --precision int8 --qguard-report=r.json"
        ) from None


def read_report(path: Path) -> dict[str, Any]:
    """A saved report, unchanged. A report of schema 1 is returned as schema 2.

    Raises:
        UsageProblem: for a file that is not a report.
    """
    report: dict[str, Any] = upgraded(read_json(path, UsageProblem), str(path))
    checked(report, str(path))
    return report


def upgraded(report: Any, name: str = "the report") -> Any:
    """A report of schema 1 as schema 2: bounds and causes, which were text, become values.

    Args:
        report: A report of schema 1. Anything else is returned unchanged.
        name: Name of the report in the message.

    Raises:
        UsageProblem: for a bound that cannot be parsed.
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
    """The title of a finding of schema 1 began with the precision, or was the name of a test."""
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
    """A cause of schema 1. Text that no version wrote is kept, with the kind ``unknown``."""
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
