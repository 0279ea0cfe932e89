"""The shape of a statement: what the in-toto specification demands, and what qguard writes into annotations.

Fields that are not named here are ignored, as the specification's parsing rules want it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, model_validator

from qguard.attest.refusal import listed
from qguard.attest.statement import KEY, PREDICATE, TYPE
from qguard.console.visible import visible
from qguard.errors import RefusedProblem, UsageProblem
from qguard.gates import Gate
from qguard.kinds import DENSE
from qguard.metrics.bounds import Bound

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
On = Literal["value", "lower", "upper"]
# Until 0.1.0 a statement held a bound as text of six digits: what is compared with it may lie that far from it
_ROUNDING = 1e-6


def _bound(value: object) -> Bound:
    """A bound of a statement, from its value or, in older ones, from its text."""
    if isinstance(value, Bound):
        return value
    try:
        return Bound.parse(value) if isinstance(value, str) else Bound.from_json(value)
    except UsageProblem as e:
        raise ValueError(str(e)) from None


BoundValue = Annotated[InstanceOf[Bound], BeforeValidator(_bound)]


class Part(BaseModel):
    """Numbers are finite, and nothing is taken for what it is not."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True, frozen=True)


class Resource(Part):
    """A ResourceDescriptor v1."""

    name: str = ""
    uri: str | None = None
    digest: dict[str, str] | None = None
    content: str | None = None
    annotations: dict[str, Any] = {}

    @model_validator(mode="after")
    def _identified(self) -> Resource:
        if not (self.uri or self.digest or self.content):
            raise ValueError("expected one of uri, digest and content")
        return self


class Hashed(Part):
    """The digest that is looked at; others may stand beside it."""

    sha256: Sha256


class Subject(Part):
    """A file of the artifact."""

    name: str = Field(min_length=1)
    digest: Hashed


class Predicate(Part):
    """Test Result v0.1."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: list[Resource]
    url: str | None = None
    passedTests: list[str] = []  # noqa: N815 - the specification's names
    warnedTests: list[str] = []  # noqa: N815
    failedTests: list[str] = []  # noqa: N815


class Statement(Part):
    """Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[Subject] = Field(min_length=1)
    predicateType: Literal["https://in-toto.io/attestation/test-result/v0.1"]  # noqa: N815
    predicate: Predicate


class GateFacts(Part):
    """A gate in force."""

    bound: BoundValue
    on: On = "value"


class CheckFacts(Part):
    """A value, and the gate that judged it; see :class:`qguard.gates.check.Check`.

    Attributes:
        promised: The recipe's own bound, which a gate of the project replaced.
        rounding: How far the bound may be from the one that judged; 0 but in older statements.
    """

    name: str
    slice: str | None
    value: float
    bound: BoundValue | None
    on: On
    outcome: str
    items: int
    judged: float | None = None
    accepted: bool = False
    promised: BoundValue | None = None
    rounding: float = Field(0.0, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _printed(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        bound = value.get("bound")
        slack = _ROUNDING * max(1.0, abs(_bound(bound).number)) if isinstance(bound, str) else 0.0
        return {**value, "rounding": slack}

    @property
    def holds(self) -> bool:
        """Whether it says that it passed, and its numbers say so too."""
        if self.bound is None or self.outcome != "pass" or (self.on != "value" and self.judged is None):
            return False  # an interval's end is not the value
        return self.bound.margin(self.value if self.judged is None else self.judged) >= -self.rounding

    @property
    def label(self) -> str:
        """Name and slice, as a gate's key is written."""
        return self.name + (f"[{self.slice}]" if self.slice else "")


class PrecisionFacts(Part):
    """What was judged, and what it ran in; ``file`` is the ONNX file among those of a folder, empty without one."""

    name: str
    runtime: str
    vectors: str
    recipe: str
    computed_in: str
    file: str = ""


class ToolFacts(Part):
    """The run."""

    version: str
    date: datetime.datetime = Field(strict=False)
    precision: PrecisionFacts

    @model_validator(mode="after")
    def _zoned(self) -> ToolFacts:
        if self.date.tzinfo is None:
            raise ValueError("the date names no time zone")
        return self


class ModelFacts(Part):
    """The fp32 model's kind, and its hashes beside that of its weights, which is its digest.

    Attributes:
        kind: A name in :data:`qguard.kinds.KINDS`; an older statement, which does not say it, is of a dense model.
    """

    kind: str = DENSE
    tokenizer: str
    pipeline: str


class SuiteFacts(Part):
    """What was measured on a suite."""

    checks: list[CheckFacts]


class ScopeFacts(Part):
    """See :class:`qguard.accepted.scores.Scope`."""

    precision: str
    machine: str
    golden: dict[str, str]


class GoldenFacts(Part):
    """The golden's manifest; its data are its digest."""

    manifest: Sha256
    scope: ScopeFacts


class EndpointFacts(Part):
    """A server that was judged; see :mod:`qguard.attest.served`."""

    fingerprint: dict[str, Any]


class Verdict(Part):
    """A statement of qguard's with its parts by what they are.

    Attributes:
        settings: Those that decide a verdict and are no gates; ``None`` in an older one.
        printed: An older one, whose bounds are text of six digits.
        endpoint: The server, of a verdict on one.
    """

    subjects: list[Subject]
    predicate: Predicate
    tool: ToolFacts
    gates: dict[str, GateFacts]
    gates_sha256: str
    settings: dict[str, Any] | None
    settings_sha256: str
    model: str
    weights: str
    model_facts: ModelFacts
    suites: dict[str, SuiteFacts]
    suite_sha256: dict[str, str]
    goldens: dict[str, GoldenFacts]
    golden_data: dict[str, str]
    printed: bool
    endpoint: EndpointFacts | None = None

    @property
    def sealed_gates(self) -> dict[str, dict[str, Any]]:
        """The gates as their digest is of; whatever wrote the file again, a number has one form."""
        return {key: {"bound": str(g.bound) if self.printed else g.bound.to_json(), "on": g.on} for key, g in self.gates.items()}

    def as_written(self, gates: Mapping[str, Gate]) -> dict[str, Gate]:
        """Gates in force now with the digits that this verdict could write; those of older ones are printed."""
        return {k: replace(g, bound=g.bound.printed) if self.printed else g for k, g in gates.items()}


def verdict_of(statement: Mapping[str, Any]) -> Verdict:
    """The statement as a verdict of qguard's.

    Raises:
        RefusedProblem: naming the first field that is not as the specification or qguard has it.
    """
    if statement.get("_type") != TYPE or statement.get("predicateType") != PREDICATE:
        raise RefusedProblem(
            f"expected a statement {TYPE} with the predicate {PREDICATE}, found {statement.get('_type')!r} with "
            f"{statement.get('predicateType')!r}; give the file that pytest --qguard-attest wrote"
        )
    try:
        whole = Statement.model_validate(statement)
        return _parts(whole)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or e.title
        raise RefusedProblem(
            f"the statement is not one that qguard writes: {visible(where, '')}: {first['msg']}; "
            "give the file that pytest --qguard-attest wrote"
        ) from None


_SINGLE = ("qguard", "gates", "settings")  # resources of which there is one


def _parts(whole: Statement) -> Verdict:
    found: dict[str, dict[str, Any]] = {"suite": {}, "golden": {}, "model": {}, "endpoint": {}, "": {}}
    digests: dict[str, str] = {}
    for r in whole.predicate.configuration:
        kind, slash, name = r.name.partition("/")
        if KEY in r.annotations and kind in (found if slash else _SINGLE):
            if r.name in digests:
                raise RefusedProblem(
                    f"the statement's configuration names {visible(r.name, '')} twice; give the file as it was written"
                )
            digests[r.name] = (r.digest or {}).get("sha256", "")
            found[kind if slash else ""][name if slash else kind] = r.annotations[KEY]
    if not {"qguard", "gates"} <= set(found[""]) or len(found["model"]) != 1 or not found["suite"]:
        raise RefusedProblem(
            "expected a configuration of qguard, gates, one model and at least one suite, found "
            f"{visible(listed(r.name or '(unnamed)' for r in whole.predicate.configuration), '') or 'none'}; "
            "judge the artifact with: pytest --precision int8 --artifact=PATH --qguard-attest=verdict.json"
        )
    (model,) = found["model"]
    golden = {suite.removeprefix(f"{model}/"): facts for suite, facts in found["golden"].items()}
    gates = found[""]["gates"].get("gates") if isinstance(found[""]["gates"], dict) else None
    settings = found[""].get("settings")
    return Verdict.model_validate(
        {
            "settings": settings.get("settings") if isinstance(settings, dict) else settings,
            "settings_sha256": digests.get("settings", ""),
            "subjects": whole.subject, "predicate": whole.predicate, "tool": found[""]["qguard"], "gates": gates,
            "gates_sha256": digests["gates"], "model": model, "weights": digests[f"model/{model}"],
            "model_facts": found["model"][model], "suites": found["suite"],
            "suite_sha256": {s: digests[f"suite/{s}"] for s in found["suite"]}, "goldens": golden,
            "golden_data": {s: digests.get(f"golden/{model}/{s}", "") for s in golden}, "printed": _printed(gates),
            "endpoint": next(iter(found["endpoint"].values()), None),
        }
    )  # fmt: skip


def _printed(gates: object) -> bool:
    found = gates.values() if isinstance(gates, dict) else ()
    return any(isinstance(g, dict) and isinstance(g.get("bound"), str) for g in found)
