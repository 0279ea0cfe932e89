"""Drift told from loss: fp32 is run now on some of the texts, and compared with the golden that the candidate failed against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from qguard.encoders import Floats
from qguard.goldens import update_command
from qguard.goldens.reference import DRIFT, relative_change
from qguard.judging.facts import changed
from qguard.judging.fp32 import live_fp32
from qguard.judging.once import once
from qguard.metrics import Comparison
from qguard.vectors.cosine import cosine, of_units
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
        change: The largest difference between an fp32 vector and the golden's, relative to the vector's length.
        precision: The judged precision, without the kind of its vectors.
        quantized: What is quantized: ``model``, ``vectors``, or both.
        mean_cosine: Mean cosine of the candidate to fp32, if rounding does not explain it.
        least_cosine: The smallest mean cosine that rounding explains.
        drift: Mean loss of cosine from the golden to fp32 as it runs now.
        loss: Mean loss of cosine from fp32 as it runs now to the candidate.
        versions: Versions that changed since the golden was recorded, such as ``torch 2.1.0 → 2.2.0``.
        error: The reason why fp32 could not be run.
        command: The command that fixes the cause (``stack``) or tells more about it (``unknown``).
    """

    fp32: str
    texts: int
    change: float
    precision: str
    quantized: list[str]
    mean_cosine: float
    least_cosine: float
    drift: float
    loss: float
    versions: list[str]
    error: str
    command: str


@dataclass(frozen=True)
class Cause:
    """Why a candidate differs from the golden.

    Attributes:
        kind: ``stack``: fp32 itself differs from the golden. ``loss``: fp32 reproduces the golden, so quantization causes the
            loss. ``artifact``: fp32 reproduces the golden, and the file is fp32 itself or its vectors are farther from fp32's
            than its recipe explains. ``unknown``: fp32 could not be run.
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
    golden, candidate = comparison.units
    worst = np.argsort(of_units(golden, candidate), kind="stable")[: size // 2].tolist()
    spread = np.linspace(0, len(golden) - 1, min(len(golden), size - len(worst))).astype(int).tolist()
    return sorted({*worst, *spread})


def too_far(comparison: Comparison, precision: Precision) -> Facts | None:
    """``mean_cosine`` and ``least_cosine`` of a candidate where rounding does not explain them; else ``None``.

    Args:
        comparison: Of float32 vectors.
        precision: What the candidate should be.
    """
    mean, least = float(of_units(*comparison.units).mean()), precision.recipe.width.least_cosine
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
    change = relative_change(golden.vectors[rows], live)
    facts: Facts = {"fp32": name, "texts": len(rows), "change": float(change.max())}
    if not change.max() <= DRIFT:
        return Cause.of("stack", {**facts, **_drifted(session, target, rows, live)})
    if far := too_far(comparison, target.precision):
        return Cause.of("artifact", {**facts, **far})
    parts = [] if target.precision.base == "fp32" else ["model"]
    parts += [] if target.precision.vectors == FLOAT else ["vectors"]
    return Cause.of("loss" if parts else "artifact", {**facts, "quantized": parts})


def _drifted(session: Session, target: Target, rows: list[int], live: Floats) -> Facts:
    golden = session.golden(target.model, target.suite).vectors[rows]
    facts: Facts = {
        "drift": float(1 - cosine(golden, live).mean()),
        "versions": changed(session, target),
        "command": f"{update_command(target.model, target.suite)} --accept-change stack",
    }
    if target.precision.base != "fp32":
        facts["loss"] = float(1 - cosine(live, session.embeddings(target)[rows]).mean())
    return facts


def _stack(facts: Facts) -> str:
    changed = ", ".join(facts["versions"]) or "no recorded version changed: another CPU?"
    words = (
        f"the stack drifted: {facts['fp32']} as it runs now differs from the golden by up to {facts['change']:.1e} on "
        f"{facts['texts']} texts (rounding stays below {DRIFT:.0e}) and costs {facts['drift']:.6f} of their mean cosine; "
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
    return f"loss by {by}: {_reproduces(facts)}"


def _artifact(facts: Facts) -> str:
    rest = f", but {how_far(facts)}" if "mean_cosine" in facts else "; the file is at fault, not the stack"
    return f"{ELSEWHERE}: {_reproduces(facts)}{rest}"


def _unknown(facts: Facts) -> str:
    return f"the cause is not known: {facts['fp32']} could not be run here ({facts['error']})"


def _reproduces(facts: Facts) -> str:
    change, texts = max(facts["change"], 1e-7), facts["texts"]
    return f"{facts['fp32']} still reproduces the golden to {change:.0e} on {texts} texts, which include the worst ones"


_TEXTS: dict[Kind, Callable[[Facts], str]] = {"stack": _stack, "loss": _loss, "artifact": _artifact, "unknown": _unknown}


def _repeat(session: Session, target: Target) -> str:
    return "fp32" if session.model(target.model).onnx else "fp32@torch"
