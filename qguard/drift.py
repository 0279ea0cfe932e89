"""Drift told from loss: fp32 is run now on some of the texts, and compared with the golden that the candidate failed against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qguard.encoders import Floats
from qguard.golden import update_command
from qguard.golden.reference import DRIFT, relative_change
from qguard.metrics import Comparison, Rows
from qguard.vectors import FLOAT

if TYPE_CHECKING:
    from qguard.harness import Harness, Target
    from qguard.precisions import Precision

SAMPLE = 64  # texts: half of them the worst, half spread over the suite
ELSEWHERE = "the artifact computes something else"
CHECK = (
    "Check that it is made from this model and revision, which of its outputs is read, its pooling, Dense heads and "
    "normalization, its attention mask, positions and padding side, and its prompts"
)


@dataclass(frozen=True)
class Cause:
    """Why a candidate differs from the golden.

    Attributes:
        kind: ``stack``: fp32 itself differs. ``loss``: fp32 still gives the golden, so the quantization does it.
            ``artifact``: the same of a file that is itself fp32, or whose vectors are further from fp32's than its recipe can
            bring them. ``unknown``: fp32 could not be run.
        words: One paragraph that begins with the answer.
    """

    kind: str
    words: str


def sample(comparison: Comparison, size: int = SAMPLE) -> list[int]:
    """Indices of the texts whose vectors moved most, and of others spread over the suite, sorted."""
    golden, candidate = comparison.units
    worst = np.argsort((golden * candidate).sum(1), kind="stable")[: size // 2].tolist()
    spread = np.linspace(0, len(golden) - 1, min(len(golden), size - len(worst))).astype(int).tolist()
    return sorted({*worst, *spread})


def too_far(comparison: Comparison, precision: Precision) -> str:
    """How far a candidate is from fp32, where rounding does not explain it; else empty.

    Args:
        comparison: Of float32 vectors.
        precision: What the candidate should be.
    """
    golden, candidate = comparison.units
    mean, least = float((golden * candidate).sum(1).mean()), precision.recipe.least_cosine
    assert least is not None  # else its record would not have been registered
    return "" if mean >= least else f"its mean cosine to fp32 is {mean:.4f}, and {precision.plain} loses no more than to {least}"


def find_cause(harness: Harness, target: Target) -> Cause:
    """Run fp32 in the candidate's runtime on a sample of the suite, and say whether it still gives the golden.

    Args:
        harness: Holds the candidate's embeddings already.
        target: What failed an accuracy gate; its token ids are the golden's, or it would not have been measured.
    """
    plain = target.plain
    comparison = harness.comparison(plain)
    rows = sample(comparison)
    name = "fp32"
    try:
        name, live = harness.live_fp32(target, rows)
    except Exception as e:  # whatever keeps fp32 from running here, the gate's own failure must still be told
        again = f"pytest --precision {_repeat(harness, target)} --qguard-suite {target.suite} tells drift of the stack from loss"
        return Cause("unknown", f"drift of the stack or loss? {name} could not be run here ({e}); {again}")
    golden = harness.golden(target.model, target.suite)
    change = relative_change(golden.vectors[rows], live)
    if not change.max() <= DRIFT:
        return Cause("stack", _drifted(harness, target, name, rows, live, float(change.max())))
    reproduces = (
        f"{name} still reproduces the golden to {max(float(change.max()), 1e-7):.0e} on {len(rows)} texts, the worst among them"
    )
    if far := too_far(comparison, target.precision):
        return Cause("artifact", f"{ELSEWHERE}: {reproduces}, but {far}. {CHECK}")
    if target.precision.vectors != FLOAT:
        what = "the vectors" if target.precision.base == "fp32" else "the model or its vectors"
        return Cause("loss", f"loss by quantizing {what}: {reproduces}")
    if target.precision.base == "fp32":
        return Cause("artifact", f"{ELSEWHERE}: {reproduces}; it is the file, not the stack")
    return Cause("loss", f"loss by quantization: {reproduces}")


def _drifted(harness: Harness, target: Target, name: str, rows: list[int], live: Floats, change: float) -> str:
    golden = harness.golden(target.model, target.suite).vectors[rows]
    drift = 1 - _cosine(golden, live).mean()
    changed = ", ".join(harness.changed(target)) or "no recorded version changed: another CPU?"
    words = (
        f"the stack drifted: {name}, run now, differs from the golden by up to {change:.1e} on {len(rows)} texts (rounding stays "
        f"below {DRIFT:.0e}) and costs {drift:.6f} of their mean cosine; {changed}"
    )
    if target.precision.base != "fp32":
        candidate = harness.embeddings(target)[rows]
        loss = 1 - _cosine(live, candidate).mean()
        share = " more, most of what is lost" if loss > drift else " more, the smaller part of what is lost"
        words += f". Quantization costs {loss:.6f}{share}"
    command = f"{update_command(target.model, target.suite)} --accept-change stack"
    return f"{words}. Record the golden anew after review: {command}"


def _cosine(a: Floats, b: Floats) -> Rows:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)))


def _repeat(harness: Harness, target: Target) -> str:
    return "fp32" if harness.model(target.model).onnx else "fp32@torch"
