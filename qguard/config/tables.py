"""The tables within ``[tool.qguard]``, each as a frozen, validated object."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from qguard.endpoints.settings import OPENAI, Endpoint, check_headers, check_protocol, check_url, check_urls
from qguard.errors import UsageProblem, unknown
from qguard.indexes.settings import Index, check_name, check_token, check_uri
from qguard.kinds import KINDS
from qguard.metrics.bounds import Bound
from qguard.models.pipeline import POOLING_MODES

if TYPE_CHECKING:
    from qguard.javascript.settings import JavaScript
    from qguard.suites.source import Source


STRICT = ConfigDict(extra="forbid", frozen=True)


def _parsed(value: object) -> Bound:
    """A bound from its text: nothing reads that text again."""
    try:
        return value if isinstance(value, Bound) else Bound.parse(value)
    except UsageProblem as e:
        raise ValueError(str(e)) from None  # which pydantic tells with the key


BoundText = Annotated[InstanceOf[Bound], BeforeValidator(_parsed), WithJsonSchema({"type": "string"})]


def _at_most(value: object) -> Bound:
    bound = _parsed(value)
    if bound.lower or bound.number < 0:
        raise ValueError(f"expected a bound such as '<= 0.01', found '{bound}'")
    return bound


def _milliseconds(value: object) -> Bound:
    """A bound on a time: ``<= 50 ms``, or ``<= 0.05 s``; a number without a unit is in milliseconds."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    bound = _at_most(found["bound"] if found else value)
    return Bound(bound.op, bound.number * 1000) if found and found["unit"] == "s" else bound


_TIME = re.compile(r"(?P<bound>.*\d)\s*(?P<unit>ms|s)\s*")
AtMost = Annotated[InstanceOf[Bound], BeforeValidator(_at_most), WithJsonSchema({"type": "string"})]
Milliseconds = Annotated[InstanceOf[Bound], BeforeValidator(_milliseconds), WithJsonSchema({"type": "string"})]


class _Table(BaseModel):
    model_config = STRICT


class ModelConfig(_Table):
    """One fp32 target. ``tokenizer``, ``pooling`` and ``normalize`` are for a model that comes only as ONNX.

    Attributes:
        ref: Hub id, folder or ``package:NAME/PATH``.
        revision: Revision to use of a hub id.
        max_seq_length: Maximum input length in tokens, including special tokens; overrides the model's declaration.
        prompts: Role (``query``, ``document``) → prefix of its texts; overrides the model's declaration.
        tokenizer: Hub id, folder or ``package:NAME/PATH`` that contains a ``tokenizer.json``.
        pooling: How token embeddings become one vector: ``cls``, ``max``, ``mean``, ``mean_sqrt_len_tokens``, ``weightedmean``
            or ``lasttoken``.
        normalize: Whether vectors are scaled to unit length.
        inputs: Name → value of further inputs of the ONNX file, such as ``{task_id = 0}``: a number, or nested lists of numbers.
        output: Name of the output that holds the embedding, for an ONNX file with several.
        kind: What the model gives, if its files do not declare it: ``dense``, ``cross-encoder``, ``sparse`` or ``multi-vector``.
        threshold: Of a cross-encoder with one label: the score, after activation, from which on a pair is a match.
        fp32: Folder that ``qguard quantize --precision fp32 --out`` wrote, in which candidates find fp32 of their runtime without
            torch; relative to the configuration file.
    """

    ref: str = Field(min_length=1)
    revision: str | None = None
    max_seq_length: int | None = Field(None, ge=2)
    prompts: dict[str, str] | None = None
    tokenizer: str | None = None
    pooling: str | None = None
    normalize: bool | None = None
    inputs: dict[str, bool | int | float | list[Any]] | None = None
    output: str | None = Field(None, min_length=1)
    kind: str | None = None
    threshold: float | None = Field(None, allow_inf_nan=False)
    fp32: str | None = Field(None, min_length=1)

    @field_validator("inputs")
    @classmethod
    def _numbers(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, given in (value or {}).items():
            if _shape(given) is None:
                raise ValueError(f"{name}: expected a number, or lists of numbers of one length, found {given!r}")
        return value

    @field_validator("pooling")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in POOLING_MODES:
            raise ValueError(f"expected one of {', '.join(POOLING_MODES)}, found {value!r}")
        return value

    @field_validator("kind")
    @classmethod
    def _kind(cls, value: str | None) -> str | None:
        if value is not None and value not in KINDS:
            raise ValueError(f"expected one of {', '.join(KINDS)}, found {value!r}")
        return value

    @property
    def settings(self) -> dict[str, Any]:
        """What the project sets over the model's own declarations, or states where there are none."""
        return self.model_dump(exclude={"ref", "revision", "threshold", "fp32"}, exclude_none=True)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Of nested lists of finite numbers; ``None`` where they have none."""
    if not isinstance(value, list):
        return () if isinstance(value, bool | int | float) and math.isfinite(value) else None
    inner = {_shape(v) for v in value}
    only = inner.pop() if len(inner) == 1 else None
    return None if only is None else (len(value), *only)


Role = Literal["text", "text_a", "text_b", "score", "label", "slice", "split"]


class SuiteConfig(_Table):
    """One suite of the project: a file, a folder or a data set on the hub. See docs/suites.md.

    Attributes:
        path: File or folder, relative to the configuration file, or ``hf:ORG/NAME[/CONFIG][@REVISION]``.
        format: Format of the data; needed only where the suffix does not tell it.
        columns: Role → name of its column; needed only for uncommon names. ``""`` means that there is no such column.
        scores: Lowest and highest valid score; a score outside the range is an error.
        split: The only split to read.
        duplicates: ``error`` refuses repeated rows; ``keep`` counts every row.
        candidates: For cross-encoders, where the suite has no candidates of its own: the dense model whose golden finds them.
        top: Number of candidates it finds for each query.
    """

    path: str = Field(min_length=1)
    format: str = ""
    columns: dict[Role, str] = {}
    scores: tuple[float, float] | None = None
    split: str = ""
    duplicates: Literal["error", "keep"] = "error"
    candidates: str | None = Field(None, min_length=1)
    top: int = Field(20, ge=2)

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        from qguard.suites.formats import FORMATS

        if value and value not in FORMATS:
            raise ValueError(str(unknown("format", value, FORMATS)))
        return value

    @field_validator("scores")
    @classmethod
    def _range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"expected the lowest and the highest score, found {list(value)}")
        return value

    def source(self, folder: Path) -> Source:
        """Where and how to read it; ``path`` is relative to ``folder``."""
        from qguard.suites.source import HUB, Source

        path = self.path if self.path.startswith(HUB) else str(folder / self.path)
        columns = tuple(sorted(self.columns.items()))
        return Source(path, self.format, columns, self.scores or (), self.split, self.duplicates)


class PrecisionConfig(_Table):
    """A precision of the project's own, or a built-in one with other settings.

    Attributes:
        recipe: The built-in precision to build it as, ``NAME[@RUNTIME]``; defaults to NAME where that is built in.
        calibration: A suite, or a file or folder in a suite format; defaults to the texts that qguard ships.
        samples: Number of texts to draw from it.
        seed: Random seed of that draw.
        overlap: Whether calibration texts may also be in the suites that judge.
        exclude: Patterns of layers that stay in float, by their names in reports, such as ``encoder/layer.5/*``.
        outliers: Number of channels of a wide input that are multiplied in float.
        smooth: How much of a channel's width its weights take over, from 0 to 1.
    """

    recipe: str | None = None
    calibration: str | None = Field(None, min_length=1)
    samples: int = Field(300, ge=1)
    seed: int = 0
    overlap: Literal["refuse", "allow"] = "refuse"
    exclude: tuple[str, ...] = ()
    outliers: int | None = Field(None, ge=0)
    smooth: float | None = Field(None, ge=0, le=1)

    @property
    def tuning(self) -> dict[str, Any]:
        """What is set of a recipe that is tunable."""
        return {k: getattr(self, k) for k in ("exclude", "outliers", "smooth") if k in self.model_fields_set}


class StatedConfig(_Table):
    """Bounds on what another load tool states of a server (``qguard latency import``). Without a bound it is shown, not judged.

    Attributes:
        p50: Bound on the median latency, such as ``<= 20 ms``.
        p95: Bound on the 95th percentile of latencies.
        p99: Bound on the 99th percentile of latencies.
        failed: Bound on the share of requests without an answer.
    """

    p50: Milliseconds | None = None
    p95: Milliseconds | None = None
    p99: Milliseconds | None = None
    failed: AtMost | None = None


class LoadConfig(_Table):
    """The load under which a server's latency is measured, and its bounds. See docs/latency.md.

    Attributes:
        clients: Clients of a closed loop, each of which sends its next request when its last one is answered; 0 for no such load.
        rate: Requests per second of an open loop, which leave whatever the server does; 0 for no such load.
        arrivals: ``poisson``: requests of the open loop leave at random. ``constant``: they leave at equal distances.
        seed: Random seed of their times.
        seconds: How long each load is sent.
        tokens: Text lengths.
        texts: Numbers of texts in a request; of a reranker, of documents for one query.
        fp32: Whether qguard serves fp32 on this machine meanwhile and compares the server with it (``latency.speedup``).
        p50: Bound on the median latency of each load, such as ``<= 20 ms``.
        p95: Bound on the 95th percentile of latencies.
        p99: Bound on the 99th percentile of latencies.
        failed: Bound on the share of requests that failed or were not answered in time.
        stated: Bounds on what another load tool states.
    """

    clients: int = Field(1, ge=0, le=64)
    rate: float = Field(0.0, ge=0, le=1000)
    arrivals: Literal["poisson", "constant"] = "poisson"
    seed: int = Field(0, ge=0)
    seconds: float = Field(10.0, gt=0, le=600)
    tokens: tuple[int, ...] = (64,)
    texts: tuple[int, ...] = (1,)
    fp32: bool = False
    p50: Milliseconds | None = None
    p95: Milliseconds | None = None
    p99: Milliseconds | None = None
    failed: AtMost = Field("<= 0", validate_default=True)
    stated: StatedConfig = StatedConfig()

    @field_validator("tokens", "texts")
    @classmethod
    def _positive(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _from(3 if info.field_name == "tokens" else 1, value)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.clients and not self.rate:
            raise ValueError("expected clients or rate above 0; without both no load is sent")
        return self

    @property
    def sent(self) -> dict[str, Any]:
        """What decides a verdict, but for the bounds."""
        return self.model_dump(mode="json", exclude={"p50", "p95", "p99", "failed", "stated"})


class EndpointConfig(_Table):
    """A server that keeps a model, judged as the precision NAME. See docs/endpoints.md.

    Attributes:
        url: Where it answers; the path of the protocol is added unless the URL has it.
        protocol: ``openai``, ``tei``, ``ollama`` or ``cohere``.
        model: The model that requests name; defaults to the name of the judged model.
        headers: Header → name of the environment variable that holds its value, such as ``{ Authorization = "MY_KEY" }``.
        batch: Number of texts in one request.
        concurrency: Number of requests at the same time.
        timeout: Seconds that one request may take.
        retries: How often a request is sent again if the server cannot be reached or is busy.
        normalized: Whether the server returns vectors of unit length; of a reranker, scores after the sigmoid.
        prompts: ``client``: qguard puts the model's prompts in front of the texts. ``server``: the server does.
        precision: The precision whose default gates apply.
        replicas: URLs of other replicas of the same server, which have to give the same.
        restart: Command that restarts the server, run in the folder of the configuration without a shell, such as
            ``["docker", "restart", "tei"]``; the server has to give the same afterwards.
        fingerprint: File that keeps outputs of the server, which later runs have to find again; relative to the configuration.
        load: The load under which latency is measured; none is measured without this table.
    """

    url: str = Field(min_length=1)
    protocol: str = OPENAI
    model: str = ""
    headers: dict[str, str] = {}
    batch: int = Field(32, ge=1, le=4096)
    concurrency: int = Field(4, ge=1, le=64)
    timeout: float = Field(60.0, gt=0, le=3600)
    retries: int = Field(3, ge=0, le=10)
    normalized: bool | None = None
    prompts: Literal["client", "server"] = "client"
    precision: str = "int8"
    replicas: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    fingerprint: str = ""
    load: LoadConfig | None = None

    @field_validator("url", "headers", "protocol", "replicas")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        checks: dict[str, Callable[[Any], None]] = {
            "url": check_url,
            "headers": check_headers,
            "protocol": check_protocol,
            "replicas": check_urls,
        }
        try:
            checks[str(info.field_name)](value)
        except UsageProblem as e:
            raise ValueError(str(e)) from None  # which pydantic tells with the key
        return value

    def endpoint(self, name: str) -> Endpoint:
        """The same for whoever asks the server."""
        given = self.model_dump(exclude={"precision", "headers", "load"})
        return Endpoint(name, headers=tuple(sorted(self.headers.items())), **given)


class IndexConfig(_Table):
    """An index of a vector database that the candidate's vectors are searched in (``--index NAME``). See docs/indexes.md.

    Attributes:
        store: ``milvus``, ``faiss`` or another one of docs/indexes.md.
        type: Type of the index, as Milvus names it: ``FLAT``, ``HNSW``, ``IVF_SQ8``.
        uri: Where the store is: a file, relative to the configuration file, or the address of a server; defaults to a temporary
            place.
        token: Name of the environment variable that holds the token or password of the server.
        metric: ``cosine``, ``dot``, ``euclidean`` or ``hamming``; defaults to what the model ranks by.
        params: Parameters of the build, such as ``{ M = 16, efConstruction = 200 }``.
        search: Parameters of a search, such as ``{ ef = 64 }``.
        vectors: How the store keeps vectors that the precision leaves in float32: ``float32``, ``float16`` or ``bfloat16``.
        filters: Shares of the rows that filters meet, under which the index is searched too.
        k: Number of hits asked for.
        existing: Whether the index is one that is there already, which new queries search and nothing changes.
        collection: Of such an index the name of the collection or table.
        id_field: Of such an index the field that holds the ids of documents.
        vector_field: Of such an index the field that holds the vectors.
    """

    store: str = Field(min_length=1)
    type: str = Field(min_length=1)
    uri: str = ""
    token: str = ""
    metric: Literal["", "cosine", "dot", "euclidean", "hamming"] = ""
    params: dict[str, bool | int | float | str] = {}
    search: dict[str, bool | int | float | str] = {}
    vectors: Literal["float32", "float16", "bfloat16"] = "float32"
    filters: tuple[float, ...] = (0.1, 0.01, 0.001)
    k: int = Field(10, ge=10, le=1000)
    existing: bool = False
    collection: str = ""
    id_field: str = "id"
    vector_field: str = "vector"

    @field_validator("collection", "id_field", "vector_field")
    @classmethod
    def _of_existing(cls, value: str, info: ValidationInfo) -> str:
        if not info.data.get("existing"):
            raise ValueError("qguard names what it makes itself; this key is for an index with existing = true")
        try:
            check_name(value)
        except UsageProblem as e:
            raise ValueError(str(e)) from None
        return value

    @field_validator("uri", "token")
    @classmethod
    def _no_secret(cls, value: str, info: ValidationInfo) -> str:
        try:
            (check_uri if info.field_name == "uri" else check_token)(value)
        except UsageProblem as e:
            raise ValueError(str(e)) from None  # which pydantic tells with the key
        return value

    @field_validator("filters")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for share in value:
            if not 0.001 <= share < 1:
                raise ValueError(f"expected shares of the rows from 0.001, below 1, found {share:g}")
        return value

    def index(self, name: str, folder: Path) -> Index:
        """The same for whoever opens the store.

        Args:
            name: Its name.
            folder: What a file is relative to.
        """
        given = self.model_dump()
        if self.uri and "://" not in self.uri:
            given["uri"] = str(folder / self.uri)
        return Index(name, **given)


class GateConfig(_Table):
    """A gate's bound and what it applies to: the value, or the end of its interval that is closer to failing.

    Attributes:
        bound: ``>= NUMBER`` or ``<= NUMBER``.
        on: ``lower`` (for ``>=``) and ``upper`` (for ``<=``) apply the bound to that end of the 95 % interval.
    """

    bound: BoundText
    on: Literal["value", "lower", "upper"] = "value"


class LatencyConfig(_Table):
    """How latency is measured and which bounds apply. See docs/latency.md.

    Attributes:
        mode: ``gate`` judges, ``report`` measures without failing, ``off`` skips it.
        speedup: Bound on fp32's time divided by the precision's, in the same runtime; ``>= 1`` for int8 by default.
        regression: Bound on the time divided by that of the baseline (``--baseline-artifact``, ``-python`` or ``-endpoint``).
        trend: Bound on the ratio divided by the accepted ratio, on the same kind of machine.
        tokens: Text lengths to time.
        batches: Batch sizes to time.
        threads: Threads per call.
        budget: Seconds per trial; ``--benchmark-max-time`` overrides it.
    """

    mode: Literal["gate", "report", "off"] = "gate"
    speedup: BoundText | None = None
    regression: BoundText = Field("<= 1.05", validate_default=True)
    trend: BoundText | None = None
    tokens: tuple[int, ...] = (16, 64, 128)
    batches: tuple[int, ...] = (1, 32)
    threads: int = Field(1, ge=1)
    budget: float = Field(10.0, gt=0)

    @field_validator("tokens", "batches")
    @classmethod
    def _positive(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        return _from(3 if info.field_name == "tokens" else 1, value)

    @field_validator("speedup", "regression", "trend")
    @classmethod
    def _direction(cls, value: Bound | None, info: ValidationInfo) -> Bound | None:
        want = ">=" if info.field_name == "speedup" else "<="
        if value is not None and (value.op != want or value.number <= 0):
            raise ValueError(f"expected a bound such as '{want} 1.05', found '{value}'")
        return value


def _from(least: int, value: tuple[int, ...]) -> tuple[int, ...]:
    if not value or min(value) < least:
        raise ValueError(f"expected numbers from {least}, found {list(value)}")
    return value


class RobustnessConfig(_Table):
    """How generated texts are tested. See docs/robustness.md.

    Attributes:
        mode: ``gate`` judges, ``report`` measures without failing, ``off`` skips it.
        examples: Number of batches to generate; each has up to seven texts.
        seed: Random seed of the generated texts; ``--hypothesis-seed`` overrides it.
        replay: A suite, or a file or folder in a suite format, whose texts are tried first.
    """

    mode: Literal["gate", "report", "off"] = "gate"
    examples: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    replay: str | None = Field(None, min_length=1)


class ServiceConfig(_Table):
    """What is asked of servers beside the texts of suites. See docs/endpoints.md.

    Attributes:
        mode: ``gate`` judges, ``report`` measures without failing, ``off`` skips it.
        skip: Metrics of the family ``service`` that are not measured, such as ``unknown_model``.
    """

    mode: Literal["gate", "report", "off"] = "gate"
    skip: tuple[str, ...] = ()

    @field_validator("skip")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from qguard.metrics.service import NAMES

        for name in value:
            if name not in NAMES:
                raise ValueError(str(unknown("metric of servers", name, NAMES)))
        return value


class VectorsConfig(_Table):
    """How embeddings are quantized (``--precision int8+binary``).

    Attributes:
        calibration: The suite whose fp32 vectors give the ranges of ``int8`` and ``uint8`` vectors;
            defaults to the suite that is judged.
    """

    calibration: str | None = None


class JavaScriptConfig(_Table):
    """Where Node.js, npm packages and a browser are found. See docs/javascript.md.

    Attributes:
        modules: The folder ``node_modules`` that npm filled, relative to the configuration file.
        node: Node.js: the name of a program, or a path.
        browser: Chromium or Chrome: the name of a program, or a path; defaults to the first one that is found.
        close: Whether texts that are too long get back their closing token, which Transformers.js cuts off, as your code does.
        timeout: Seconds that one answer may take.
    """

    modules: str = Field("node_modules", min_length=1)
    node: str = Field("node", min_length=1)
    browser: str = ""
    close: bool = False
    timeout: float = Field(600.0, gt=0, le=86400)

    def settings(self, folder: Path) -> JavaScript:
        """The same for whoever starts JavaScript.

        Args:
            folder: What paths are relative to.
        """
        from qguard.javascript.settings import JavaScript

        def program(name: str) -> str:
            return str(folder / name) if {"/", "\\"} & set(name) else name

        return JavaScript(folder / self.modules, program(self.node), program(self.browser), self.close, self.timeout)


PARTS: dict[str, tuple[type[BaseModel], ...]] = {
    "models": (ModelConfig,), "suite": (SuiteConfig,), "latency": (LatencyConfig,), "robustness": (RobustnessConfig,),
    "precision": (PrecisionConfig,), "vectors": (VectorsConfig,), "gates": (GateConfig,), "javascript": (JavaScriptConfig,),
    "endpoint": (EndpointConfig, LoadConfig, StatedConfig), "service": (ServiceConfig,),
    "index": (IndexConfig,),
}  # fmt: skip
