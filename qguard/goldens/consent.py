"""What a golden update may not bless by accident: a change of the model that nobody named."""

from __future__ import annotations

from collections.abc import Collection

from qguard.errors import GoldenProblem, unknown
from qguard.goldens.review import PARTS, Review
from qguard.goldens.stored import update_command

RULE = {
    "weights": "the weights changed",
    "tokenizer": "the tokenizer changed",
    "pipeline": "pooling, normalization, lengths or prompts changed",
    "stack": "the libraries compute other vectors",
    "quality": "the labels show that fp32 itself became worse",
}


def check_named(accepted: Collection[str]) -> None:
    """The names exist: what was mistyped would accept nothing, after minutes of recording.

    Raises:
        UsageProblem: with the nearest ones.
    """
    for part in accepted:
        if part not in PARTS:
            raise unknown("part of --accept-change", part, PARTS)


def refuse_unnamed(review: Review, doubts: str, accepted: Collection[str], model: str, suite: str) -> None:
    """A change of what a golden rests on, besides its suite, must be named by whoever records it.

    Args:
        review: What moves.
        doubts: What speaks against the declared pipeline, of a first golden too; see :mod:`qguard.goldens.pooling`.
        accepted: The parts that were named, of :data:`~qguard.goldens.review.PARTS`.
        model: The model's name.
        suite: The suite's name.

    Raises:
        GoldenProblem: naming every change that was not named, and the option that names it.
    """
    reasons = {part: f"{RULE[part]}: {review.details[part]}" for part in review.parts}
    if doubts:
        reasons["pipeline"] = f"{reasons['pipeline']}; {doubts}" if "pipeline" in reasons else doubts
    left = [part for part in PARTS if part in reasons and part not in accepted]
    if not left:
        return
    flags = " ".join(f"--accept-change {part}" for part in left)
    raise GoldenProblem(
        f"golden {review.name} is not updated: "
        + "; ".join(f"[{part}] {reasons[part]}" for part in left)
        + ". Whatever changes besides the texts must be named, so that a broken model is not recorded as right. "
        + "If it is intended: "
        + f"{update_command(model, suite)} {flags}"
    )
