"""What to do next, as a function of what is known of a failure: the same for the terminal, HTML, Markdown and annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qguard.endpoints.settings import SERVED
from qguard.gates import table_of
from qguard.gates.check import Check
from qguard.judging.cause import Cause
from qguard.kinds import in_words
from qguard.report.answers import HEADS
from qguard.vectors.quantized import FLOAT

PAIRED = ("latency.speedup", "latency.regression", "latency.trend")  # judged by pairs of runs in turn
_NO_LAYER = {"cpu", "index", "latency", "memory", "regression", "service"}  # families that no layer's loss explains
_ANEW = "Review the change, then record the golden again"
CHECK = (
    "Check that the file is made from this model and revision and that the right output is read. Check its pooling, Dense heads "
    "and normalization, its attention mask, positions and padding side, and its prompts"
)


@dataclass(frozen=True)
class Step:
    """Something to do: a sentence, and a command or configuration where there is one."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Case:
    """What advice depends on.

    Attributes:
        name: Name of the precision, without runtime and vectors.
        typed: The precision as the user types it, without its vectors.
        vectors: Kind of the stored vectors.
        suite: Name of the suite.
        failed: The failed checks, in the order of headlines; empty if something was not measured.
        cause: Cause of the failure, if it was looked for.
        diagnose: The command that shows which stage and layer lose accuracy; empty if there is none.
        fp32: The precision that repeats the golden's computation; empty if it is not known.
        url: Of the server that is judged; empty for all else.
    """

    name: str
    typed: str
    vectors: str
    suite: str
    failed: Sequence[Check] = ()
    cause: Cause | None = None
    diagnose: str = ""
    fp32: str = ""
    url: str = ""

    @property
    def given(self) -> str:
        """The option that names the server; empty where the configuration does, or there is none."""
        return f" --endpoint {self.url}" if self.url and self.name.partition(":")[0] == SERVED else ""

    @property
    def precision(self) -> str:
        """As the user types it."""
        return self.typed if self.vectors == FLOAT else f"{self.typed}+{self.vectors}"

    @property
    def families(self) -> set[str]:
        """Metric families with a failed check."""
        return {c.name.partition(".")[0] for c in self.failed}


def steps(case: Case) -> list[Step]:
    """What to do about failed checks, the nearest first; the last one may be to agree to what was measured."""
    if case.cause is not None and case.cause.kind == "stack":
        return [Step(_ANEW, case.cause.facts.get("command", ""))]
    if all(c.accepted for c in case.failed):
        lower = f'qguard accept --precision {case.precision} --suite {case.suite} --lower --reason "…"'
        return [Step("All gates hold; to accept the lower score", lower)]
    found = []
    if HEADS & {c.name for c in case.failed}:
        found.append(Step("Export the file again with the model's own pooling, Dense modules and Normalize"))
    elif "artifact" in case.families:
        build = f"qguard quantize --precision {case.typed} --out DIR"
        found.append(Step("The file does not compute what its name says; build it with the recipe of these gates", build))
    elif case.families - _NO_LAYER:
        found += _look(case)
        if _another_model(case.cause):
            return found  # a bound that lets another model pass is no agreement
    if "service" in case.families:
        found.append(Step("Change what the server does, or what the endpoint's table says of it (docs/endpoints.md)"))
    if lost := next((c.slice or "" for c in case.failed if c.name.startswith("index.")), ""):
        name = lost.partition(" ")[0]
        tried = f"qguard index sweep --index {name} --precision {case.typed}{case.given}"
        found.append(Step("Try other types and parameters of the index (docs/indexes.md)", tried))
    if "regression" in case.families:
        search = "qguard bisect --package onnxruntime --good OLD --bad NEW --metric ranking.overlap@10"
        found.append(Step("Find the release that changed it (docs/bisect.md)", search))
    if "cpu" in case.families:
        found.append(
            Step(
                "If it holds on a CPU with VNNI, products may saturate without it: declare the option for exact products beside "
                "the file, or quantize weights to 7 bits (docs/cpus.md)"
            )
        )
    if "latency" in case.families:
        found.append(too_slow(case.name, case.failed))
    # bounds on latency are no line of [tool.qguard.gates]
    agreed = next((c for c in case.failed if c.bound and not c.accepted and not c.name.startswith("latency.")), None)
    if agreed is not None and "artifact" not in case.families:
        found.append(_agree(case, agreed))
    return found


def _look(case: Case) -> list[Step]:
    """Where accuracy is lost, and which precision loses less."""
    found = []
    if case.vectors != FLOAT:
        _, colon, dims = case.name.partition(":")
        both = f"pytest --precision {case.typed},fp32{colon}{dims}+{case.vectors}{case.given} --qguard-suite {case.suite}"
        found.append(Step("Measure both losses separately", both))
    elif case.diagnose:
        found.append(Step("See where accuracy is lost", case.diagnose))
    elif case.fp32 and case.cause is None and case.families != {"robustness"}:
        found.append(Step("Tell drift of the stack from loss", f"pytest --precision {case.fp32} --qguard-suite {case.suite}"))
    if not _another_model(case.cause):
        others = ",".join(dict.fromkeys([case.precision, "int8", "int8-weight", "bf16@openvino"]))
        found.append(Step("See which precision passes", f"qguard compare --precision {others}{case.given} --suite {case.suite}"))
    return found


def _agree(case: Case, check: Check) -> Step:
    """The bound at which a failed check would pass."""
    assert check.bound is not None
    bound = check.bound.passing(check.judged)
    line = f'{table_of(check.tables, case.name, case.vectors)} "{check.label}" = "{bound.op} {bound.number:.4f}"'
    wins = f" ({shadowed})" if (shadowed := _shadowed(check.tables)) else ""
    return Step(f"If this loss is acceptable to your users, relax the gate{wins}", line)


def _shadowed(tables: Sequence[str]) -> str:
    return f"{tables[-1]} wins over {' and '.join(tables[:-1])}" if len(tables) > 1 else ""


def _another_model(cause: Cause | None) -> bool:
    return cause is not None and cause.kind == "artifact"


def too_slow(precision: str, failed: Iterable[Check]) -> Step:
    """After a latency gate failed."""
    if any(c.name.startswith("latency.") and c.name not in PAIRED for c in failed):
        table = f"[tool.qguard.endpoint.{precision}.load]"
        return Step(f"Give the server more room, or state the load and the bounds that its users have: {table}")
    return Step("Find the smallest slowdown that this machine can tell from noise", "qguard calibrate")


def measure_again(case: Case, only_speed: bool = False) -> Step:
    """After something could not be measured."""
    if only_speed:
        return Step(
            "Measure where less other work runs; or judge accuracy and size alone",
            f"pytest --precision {case.precision}{case.given} --qguard-latency=off",
        )
    return Step(
        "Fix what the message names, then measure again",
        f"pytest --precision {case.precision}{case.given} --qguard-suite {case.suite}",
    )


def why(cause: Cause | None) -> str:
    """A cause in words, with what to look at where no command does it; its :func:`steps` stand beside it."""
    if cause is None:
        return ""
    proved = {"declared", "damage"} & set(cause.facts)
    if cause.kind == "artifact" and {"mean_cosine", "unrounded"} & set(cause.facts) and not proved:
        return f"{cause.text}. {CHECK}"
    if cause.kind == "unknown" and "command" in cause.facts:
        return f"{cause.text}; to tell drift of the stack from loss: {cause.facts['command']}"
    return cause.text


def told(cause: Cause | None) -> str:
    """A cause in words that stand alone."""
    if cause is not None and cause.kind == "stack" and "command" in cause.facts:
        return f"{why(cause)}. {_ANEW}: {cause.facts['command']}"
    return why(cause)


def left_out(run: Mapping[str, Any]) -> list[str]:
    """What was not measured on purpose: first what is turned off, the only such thing in reports of older versions; then one
    line a reason.
    """
    because, off, reasons = run.get("left_out_because") or {}, [], dict[str, list[str]]()
    for name in run.get("left_out", []):
        switch = f"--qguard-{name}=off"
        if because.get(name, switch) == switch:
            off.append(f"{name} ({switch})")
        else:
            reasons.setdefault(because[name], []).append(name)
    return [*([", ".join(off)] if off else []), *(f"{', '.join(names)}: {why}" for why, names in reasons.items())]


def moved_gates(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Default gates that the model's golden moved, one line a reason; of a report of any version."""
    reasons = dict[str, list[str]]()
    for c in checks:
        if c.get("origin") and c["bound"]:
            reasons.setdefault(c["origin"], []).append(c["name"])
    return [f"{', '.join(dict.fromkeys(names))}: bounded {why}" for why, names in reasons.items()]


def shadowed_gates(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Gates that several tables of the configuration set, one line for the same tables; of a report of any version."""
    found = dict[str, list[str]]()
    for c in checks:
        if words := _shadowed(c.get("tables") or ()):
            found.setdefault(words, []).append(c["name"])
    return [
        f"{', '.join(dict.fromkeys(names))}: several tables of [tool.qguard.gates] set the bound; {words}"
        for words, names in found.items()
    ]


def judged(run: Mapping[str, Any]) -> list[str]:
    """What is judged of a run, in sentences: the file and how it is fed and read, then the kind of the model, which reports of
    older versions do not say, and what surrounds it.
    """
    parts = run.get("judged") or ()
    files = [p for p in parts if p["name"] in ("file", "output") or p["name"].startswith("input ")]
    others = [p for p in parts if p not in files]
    kind = [f"kind {in_words(str(run['kind']))}"] if others and "kind" in run else []
    lines = ["; ".join(group) for group in (map(_part, files), [*kind, *map(_part, others)])]
    lines += [f"against a golden of {run['golden_from']}"] if run.get("golden_from") else []
    return [line for line in lines if line]


def _part(part: Mapping[str, Any]) -> str:
    others = f", not {', '.join(part['others'])}" if part.get("others") else ""
    return f"{part['name']} {part['value']} ({part['source']}{others})"
