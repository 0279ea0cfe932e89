"""Drift told from loss: fp32 is run now on some of the texts, and compared with the golden that the candidate failed against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from qguard.encoders import Floats
from qguard.encoders.runtimes import NO_FILES, RUNTIMES
from qguard.goldens import update_command
from qguard.goldens.reference import DRIFT
from qguard.judging.facts import changed
from qguard.judging.fp32 import live_fp32
from qguard.judging.once import once
from qguard.judging.rounding import LEFT, Findings, findings
from qguard.metrics import Comparison
from qguard.outputs import relative_change
from qguard.vectors.quantized import FLOAT

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision

SAMPLE = 64  # texts: half of them the worst, half spread over the suite
ELSEWHERE = "the artifact computes something else"

Kind = Literal["stack", "loss", "artifact", "unknown"]


class Facts(TypedDict, total=False):
    """The facts behind a cause. Which facts are present depends on the kind of the cause.

    Attributes:
        fp32: The fp32 precision that was run again for the comparison, or could not be run.
        texts: Number of the suite's texts in that run. It includes the texts whose vectors moved most.
        rounding: The largest such difference that the runtime's own arithmetic explains.
        change: The largest difference between an fp32 vector and the golden's, relative to the vector's length.
        precision: The judged precision, without the kind of its vectors.
        quantized: What is quantized: ``model``, ``vectors``, or both.
        mean_cosine: Mean cosine of the candidate to fp32, if rounding does not explain it.
        least_cosine: The smallest mean cosine that rounding explains.
        drift: Mean loss of cosine from the golden to fp32 as it runs now.
        loss: Mean loss of cosine from fp32 as it runs now to the candidate.
        declared: Settings in which the artifact's files differ from the model's.
        damage: Stored weights that are not the model's, in words.
        distance: Mean distance of the candidate's vectors to fp32's, relative to their length, on those texts.
        unrounded: The same for the artifact's own graph without rounding.
        alone: The same for each text by itself, without padding.
        exchanged: How many texts have the vector of another one, in words.
        versions: Versions that changed since the golden was recorded, such as ``torch 2.1.0 → 2.2.0``.
        error: The reason why fp32 could not be run, or why it is not known whether rounding is the cause.
        command: The command that fixes the cause (``stack``) or tells more about it (``unknown``).
    """

    fp32: str
    texts: int
    rounding: float
    change: float
    precision: str
    quantized: list[str]
    mean_cosine: float
    least_cosine: float
    declared: list[str]
    damage: list[str]
    distance: float
    unrounded: float
    alone: float
    exchanged: str
    drift: float
    loss: float
    versions: list[str]
    error: str
    command: str


@dataclass(frozen=True)
class Cause:
    """Why a candidate differs from the golden.

    Attributes:
        kind: ``stack``: fp32 itself differs from the golden. ``loss``: fp32 reproduces the golden, and so does the artifact's own
            graph without its rounding: quantization causes the loss. ``artifact``: fp32 reproduces the golden, and something else
            than rounding is proved to differ: weights, settings, what the graph computes or is fed, or vectors farther from
            fp32's than the recipe explains. ``unknown``: fp32 could not be run, or rounding could not be told from the rest.
        facts: The measured facts behind the kind.
        text: One or two sentences for people. :mod:`qguard.report.advice` says what to do.
    """

    kind: Kind
    facts: Facts
    text: str

    @classmethod
    def of(cls, kind: Kind, facts: Facts) -> Cause:
        """A cause with its text."""
        return cls(kind, facts, _TEXTS[kind](facts))

    def to_json(self) -> dict[str, Any]:
        """As a report has it; JSON has no NaN, and where fp32 gives one its number is ``null``."""
        facts = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self.facts.items()}
        return {"kind": self.kind, "facts": facts, "text": self.text}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cause:
        """The cause of :meth:`to_json`; what is ``null`` is not known."""
        facts: Any = {k: v for k, v in value["facts"].items() if v is not None}
        return cls(value["kind"], facts, value["text"])


def sample(comparison: Comparison, size: int = SAMPLE) -> list[int]:
    """Indices of the texts whose vectors moved most, and of others spread over the suite, sorted."""
    found = comparison.agreement
    worst = np.argsort(found, kind="stable")[: size // 2].tolist()
    spread = np.linspace(0, len(found) - 1, min(len(found), size - len(worst))).astype(int).tolist()
    return sorted({*worst, *spread})


def too_far(comparison: Comparison, precision: Precision) -> Facts | None:
    """``mean_cosine`` and ``least_cosine`` of a candidate where rounding does not explain them; else ``None``.

    Args:
        comparison: Of float32 vectors.
        precision: What the candidate should be.
    """
    mean, least = float(comparison.agreement.mean()), precision.recipe.width.least_cosine
    if mean >= least:
        return None
    return {"precision": str(precision.plain), "mean_cosine": mean, "least_cosine": least}


def how_far(facts: Facts) -> str:
    """The words for :func:`too_far`."""
    least = f"rounding to {facts['precision']} keeps it at {facts['least_cosine']} or above"
    return f"its mean cosine to fp32 is {facts['mean_cosine']:.4f}, and {least}"


@once
def find_cause(session: Session, target: Target) -> Cause:
    """Run fp32 in the candidate's runtime on a sample of the suite, and say whether it still gives the golden.

    Args:
        session: Holds the candidate's embeddings already.
        target: What failed an accuracy gate; its token ids are the golden's, or it would not have been measured.
    """
    plain = target.plain
    comparison = session.comparison(plain)
    rows = sample(comparison)
    name = "fp32"
    try:
        name, live = live_fp32(session, target, rows)
    except Exception as e:  # whatever keeps fp32 from running here, the gate's own failure must still be told
        again = f"pytest --precision {_repeat(session, target)} --qguard-suite {target.suite}"
        return Cause.of("unknown", {"fp32": name, "error": str(e), "command": again})
    golden = session.golden(target.model, target.suite)
    change = session.similarity(target.model).change(golden.vectors[rows], live)
    facts: Facts = {"fp32": name, "texts": len(rows), "change": float(change.max())}
    least = RUNTIMES[name.partition("@")[2]].drift
    if not change.max() <= least:
        return Cause.of("stack", {**facts, "rounding": least, **_drifted(session, target, rows, live)})
    far = too_far(comparison, target.precision) or {}
    parts = [] if target.precision.base == "fp32" else ["model"]
    parts += [] if target.precision.vectors == FLOAT else ["vectors"]
    whole = session.golden(target.model, target.suite).vectors
    if parts == ["vectors"] and float(relative_change(whole, session.embeddings(plain)).max()) <= DRIFT:
        return Cause.of("loss", {**facts, "quantized": parts})  # the model itself gives fp32's vectors
    found = findings(session, plain, tuple(rows))
    facts = {**facts, **far, **as_facts(found)}
    if found.rounding and not far:
        return Cause.of("loss", {**facts, "quantized": parts})
    if found.untested and not (far or found.padding):
        made_here = session.artifact_path is None and session.artifact(plain.precision, plain.model).file is None
        if made_here and target.precision.runs_in.files != NO_FILES:  # torch rounds the model's own weights
            return Cause.of("loss", {**facts, "quantized": parts})
        return Cause.of("unknown", {**facts, "error": found.untested})
    return Cause.of("artifact", facts)


def as_facts(found: Findings) -> Facts:
    """What was measured of a file, as facts."""
    facts: Facts = {"distance": found.distance}
    if found.declared:
        facts["declared"] = list(found.declared)
    if found.damage:
        facts["damage"] = list(found.damage)
    if found.unrounded is not None:
        facts["unrounded"] = found.unrounded
    if found.exchanged:
        facts["exchanged"] = found.exchanged
    if found.alone is not None:
        facts["alone"] = found.alone
    return facts


def _drifted(session: Session, target: Target, rows: list[int], live: Floats) -> Facts:
    golden = session.golden(target.model, target.suite).vectors[rows]
    near = session.similarity(target.model).nearness
    facts: Facts = {
        "drift": float(1 - near(golden, live).mean()),
        "versions": changed(session, target),
        "command": f"{update_command(target.model, target.suite)} --accept-change stack",
    }
    if target.precision.base != "fp32":
        facts["loss"] = float(1 - near(live, session.embeddings(target)[rows]).mean())
    return facts


def _stack(facts: Facts) -> str:
    changed = ", ".join(facts["versions"]) or "no recorded version changed: another CPU?"
    words = (
        f"the stack drifted: {facts['fp32']} as it runs now differs from the golden by up to {facts['change']:.1e} on "
        f"{facts['texts']} texts (rounding stays below {facts.get('rounding', DRIFT):.0e}) and costs {facts['drift']:.6f} of "
        "their mean cosine; "
        f"{changed}"
    )
    if (loss := facts.get("loss")) is not None:
        share = "the larger part of the loss" if loss > facts["drift"] else "the smaller part of the loss"
        words += f". Quantization costs {loss:.6f} more, {share}"
    return words


def _loss(facts: Facts) -> str:
    what = {"model": "quantization", "vectors": "quantizing the vectors"}
    parts = facts["quantized"]
    by = "quantizing the model or its vectors" if len(parts) > 1 else what[parts[0]]
    proof = "; without its rounding, so does the file" if "unrounded" in facts else ""
    return f"loss by {by}: {_reproduces(facts)}{proof}"


def _artifact(facts: Facts) -> str:
    told = [*([how_far(facts)] if "mean_cosine" in facts else []), *reasons(facts)]
    rest = f", but {'; '.join(told)}" if told else "; neither the stack nor rounding explains the difference"
    return f"{ELSEWHERE}: {_reproduces(facts)}{rest}"


def reasons(facts: Facts) -> list[str]:
    """What is proved to differ, the most telling first."""
    if said := facts.get("declared"):
        return [f"the artifact's files declare something else: {'; '.join(said)}"]
    if broken := facts.get("damage"):
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return [f"the file's weights are not the model's: {broken[0]}{more}"]
    if other := facts.get("exchanged"):
        return [f"{other}: batches come back in another order, or texts are taken for the same"]
    whole, alone, unrounded = facts.get("distance", 0.0), facts.get("alone"), facts.get("unrounded")
    if alone is not None and alone <= LEFT * whole:
        return [
            "each text by itself, without padding, gives fp32's vector: padding, its side or its mask, or the other texts of a "
            "batch move it"
        ]
    if unrounded is None:
        return []
    if unrounded <= LEFT * whole:
        return ["without its rounding the file gives fp32's vectors: look at its scales, zero points and ranges"]
    return [
        f"without any rounding the file's vectors still differ from fp32's by {unrounded:.1%} of their length, and with it by "
        f"{whole:.1%}: what it computes or is fed differs, not how it rounds"
    ]


def _unknown(facts: Facts) -> str:
    if "change" in facts:
        return f"the cause is not proved: {_reproduces(facts)}, but rounding could not be told from the rest ({facts['error']})"
    return f"the cause is not known: {facts['fp32']} could not be run here ({facts['error']})"


def _reproduces(facts: Facts) -> str:
    change, texts = max(facts["change"], 1e-7), facts["texts"]
    return f"{facts['fp32']} still reproduces the golden to {change:.0e} on {texts} texts, which include the worst ones"


_TEXTS: dict[Kind, Callable[[Facts], str]] = {"stack": _stack, "loss": _loss, "artifact": _artifact, "unknown": _unknown}


def _repeat(session: Session, target: Target) -> str:
    return "fp32" if session.model(target.model).onnx else "fp32@torch"
