"""Whether a cross-encoder's file gives the model's own scores, or what exports make of them by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from qguard.encoders.runtimes import TOKEN_IDS
from qguard.encoders.tokenizer import Tokens, types_of
from qguard.errors import QguardError
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.judging.session import Session, Target
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.models.modules.activations import COMPUTED
from qguard.suites.paired import TextPair
from qguard.vectors.scores import Scores

PAIRS = 32  # of the suite, spread over their lengths
_FAR = 0.05  # of the spread: what lies nearer is the model's own score
_CLEARLY = 4  # times nearer than the model's own scores
_MOST_LABELS = 5  # whose orders are all tried
_ACTIVATIONS = ("Sigmoid", "Softmax", "Tanh")
HEAD = "artifact.head"


def of_target(session: Session, target: Target) -> list[Measured]:
    """``artifact.head``: 1 where the file's scores are nearest to the model's own; 0 where they are those of other labels, have
    the activation inside, or come from pairs that are fed in another way. None for a runtime that takes texts.
    """
    encoder = session.encoder(target.precision, target.model)
    if encoder.takes != TOKEN_IDS:
        return []
    ids, golden = session.token_ids(target), session.golden(target.model, target.suite).vectors
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    at = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, PAIRS).astype(int))]
    found, own = encoder.encode_ids([ids[i] for i in at]), golden[at]
    words = ""
    if found.shape != own.shape:
        words = f"the file gives {found.shape[1]} scores a pair, and the model {own.shape[1]}"
    elif (far := _apart(found, own, Scores().scale(golden))) > _FAR:
        words = _nearer(session, target, at, found, own, far)
    return [Measured(HEAD, None, float(not words), len(at), True, (words,) if words else (), Bound(">=", 1))]


def _apart(a: Any, b: Any, spread: float) -> float:
    """Mean distance of scores, over their spread; infinite where they are not finite."""
    found = float(np.abs(np.asarray(a, np.float64) - b).mean() / spread)
    return found if np.isfinite(found) else float("inf")


def _nearer(session: Session, target: Target, at: list[int], found: Any, own: Any, far: float) -> str:
    """What the scores are instead of the model's, in words; empty for nothing that lies clearly nearer."""
    try:
        for words, other in _others(session, target, at, own):
            spread = Scores().scale(other)
            near = _apart(found, other, spread)
            if near * _CLEARLY <= _apart(found, own, spread):
                return f"{words}: they lie {near:.2g} spreads from these, and {far:.2g} from the model's own scores"
    except QguardError:  # fp32 cannot be run here: what is far is judged by the scores alone
        pass
    return ""


def _others(session: Session, target: Target, at: list[int], own: Any) -> Iterator[tuple[str, Any]]:
    labels = own.shape[1]
    for name in _ACTIVATIONS:
        if labels > 1 or name != "Softmax":
            mend = "whoever applies the model's activation applies two; export logits"
            yield f"the file gives scores after {name}, not logits, so that {mend}", COMPUTED[name](own)
    scoring = session.model(target.model).pipeline.scoring
    names = scoring.labels if scoring else tuple(map(str, range(labels)))
    for turned in permutations(range(labels)) if 1 < labels <= _MOST_LABELS else ():
        if turned != tuple(range(labels)):
            order = ", ".join(names[i] for i in turned)
            yield f"the file gives the labels in another order ({order}), the model has {', '.join(names)}", own[:, turned]
    golden, suite = session.golden(target.model, target.suite), session.suite(target.suite, target.model)
    fp32 = fp32_encoder(session, target.model, fp32_runtime(session, target.precision, target.model))
    rows = [golden.token_ids[i] for i in at]
    if any(any(types_of(row) or ()) for row in rows):
        untold = [Tokens(row, types=[0] * len(row)) for row in rows]
        words = "the file does not tell the two texts of a pair apart (its token_type_ids are all 0, or do nothing)"
        yield words, fp32.encode_ids(untold)
    pairs = [TextPair.of(suite.texts[i]) for i in at]
    swapped = fp32.tokenizer([TextPair(p.second, p.first) for p in pairs])
    yield "the file scores each pair with its texts in the other order", fp32.encode_ids(swapped)
