"""Whether an artifact's loss is one by rounding: said only where the same graph without rounding does not show it.

Everything else is ruled out first: what the files declare, weights that are not the model's, and padding.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.encoders import Encoder, Floats, open_encoder
from qguard.encoders.runtimes import GGUF, TOKEN_IDS
from qguard.errors import QguardError
from qguard.judging.artifact import damage
from qguard.judging.once import once
from qguard.kinds import CROSS_ENCODER, MULTI_VECTOR
from qguard.models.modules import SpladePooling
from qguard.models.pipeline import Pipeline
from qguard.outputs import joined
from qguard.vectors.similarity import COSINE, Similarity, similarity_for

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target

LEFT = (
    1 / 3
)  # of a candidate's distance to fp32 that may be left where rounding is the cause: the recipes of qguard leave 0 to 0.15
_MOVED = 0.99  # cosine to its own fp32 vector below which a text is looked for among the others
_THEIRS = 0.95  # cosine to another text's from which on it is that text's vector
_SHOWN = 50  # characters of a text


@dataclass(frozen=True)
class Findings:
    """What was found of a candidate that is not where fp32 is.

    Attributes:
        declared: Settings in which the artifact's files differ from the model's.
        damage: Weights that are not the model's, in words.
        distance: Mean length of the difference between the candidate's vectors and fp32's, over the length of fp32's.
        unrounded: The same without rounding; ``None`` where it was not tried.
        alone: The same for each text by itself, without padding; ``None`` where it was not tried.
        exchanged: How many texts have the vector of another one, in words; empty where few of those that moved have.
        untested: Why it is not known whether rounding is the cause; empty where it is.
    """

    distance: float
    declared: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    unrounded: float | None = None
    alone: float | None = None
    exchanged: str = ""
    untested: str = ""

    @property
    def rounding(self) -> bool:
        """Whether rounding is proved to be the cause."""
        left = self.unrounded is not None and self.unrounded <= LEFT * self.distance
        return left and not (self.padding or self.exchanged)

    @property
    def elsewhere(self) -> bool:
        """Whether the cause is proved to lie outside of the stored weights and their rounding."""
        return not (self.rounding or self.untested or self.damage)

    @property
    def padding(self) -> bool:
        """Whether padding is proved to be the cause."""
        return self.alone is not None and self.alone <= LEFT * self.distance


def distance(golden: Any, found: Any, similarity: Similarity = COSINE) -> float:
    """Mean of :meth:`qguard.vectors.similarity.Similarity.distances`; infinite where ``found`` is not finite or has another
    shape.
    """
    far = float(similarity.distances(golden, found).mean())
    return far if np.isfinite(far) else float("inf")


@once
def findings(session: Session, target: Target, rows: tuple[int, ...]) -> Findings:
    """Everything of :class:`Findings` for a target with float32 vectors.

    Args:
        session: Holds the candidate's embeddings already.
        target: What failed.
        rows: Texts of its suite.
    """
    artifact, model = session.artifact(target.precision, target.model), session.model(target.model)
    golden = session.golden(target.model, target.suite).vectors[list(rows)]
    similarity = session.similarity(target.model)
    far = distance(golden, session.embeddings(target)[list(rows)], similarity)
    if not artifact.has_files:
        return Findings(far, untested="its runtime keeps the model, so that no file could be compared with fp32's")
    said = tuple(differing(model.pipeline, artifact.pipeline))
    broken = tuple(damage(artifact, model))
    if said or broken:
        return Findings(far, said, broken)
    if words := _exchanged(session, target, rows):
        return Findings(far, exchanged=words)
    encoder = session.encoder(target.precision, target.model)
    unrounded, untested = None, ""
    if target.precision.base != "fp32":
        try:
            unrounded = distance(golden, _without_rounding(session, target, rows), similarity)
        except Exception as e:  # files of other tools hold what no one has seen; the gate's own failure must still be told
            untested = str(e) if isinstance(e, QguardError) else f"{type(e).__name__}: {e}"
    # also where rounding would explain it: a batch that moves its texts is none of the file's, whose own vectors lie near too
    alone = distance(golden, _alone(session, target, encoder, rows), similarity) if encoder.takes == TOKEN_IDS else None
    return Findings(far, unrounded=unrounded, untested=untested, alone=alone)


def differing(model: Pipeline, artifact: Pipeline) -> list[str]:
    """Settings of a pipeline that change vectors, where an artifact's files declare them otherwise than the model's."""
    found = []
    if model.pooling != artifact.pooling:
        found.append(f"pooling is {'+'.join(artifact.pooling) or 'none'}, the model's {'+'.join(model.pooling) or 'none'}")
    if (own := _splade(model)) != (its := _splade(artifact)):
        found.append(f"weights of words are pooled by {its}, the model's by {own}")
    if model.scoring != artifact.scoring:
        found.append("labels, activation or token types are not the model's")
    if len(model.dense) != len(artifact.dense):
        found.append(f"{len(artifact.dense)} dense modules, the model has {len(model.dense)}")
    if model.normalize != artifact.normalize:
        found.append("they do not normalize, the model does" if model.normalize else "they normalize, the model does not")
    if model.normalizes_tokens != artifact.normalizes_tokens:
        found.append("they do not normalize, the model does" if model.normalizes_tokens else "they normalize, the model does not")
    if model.truncate_dim != artifact.truncate_dim:
        found.append(f"truncate_dim is {artifact.truncate_dim}, the model's {model.truncate_dim}")
    if not found and [m.declared() | {"path": ""} for m in model.head] != [m.declared() | {"path": ""} for m in artifact.head]:
        found.append("other modules behind the transformer than the model's")
    return found


def _splade(pipeline: Pipeline) -> str:
    found = (f"{m.strategy} of {m.activation}" for m in pipeline.modules if isinstance(m, SpladePooling))
    return next(found, "none")


def _exchanged(session: Session, target: Target, rows: tuple[int, ...]) -> str:
    """Texts that have another text's vector, as of batches that come back in another order, and caches that mix texts up."""
    suite = session.suite(target.suite, target.model)
    kind = session.kind(target.model)
    if kind == CROSS_ENCODER:  # texts may have one score
        return ""
    if kind == MULTI_VECTOR:
        return _exchanged_tokens(session, target, rows)
    golden, found = session.golden(target.model, target.suite).vectors, session.embeddings(target)[list(rows)]
    cosine = similarity_for(kind, COSINE.name)
    near = cosine.scores(cosine.prepared(found), cosine.prepared(golden))
    own = near[np.arange(len(rows)), list(rows)]
    best = near.argmax(1)
    moved = ~(own >= _MOVED)
    other = moved & (1 - near.max(1) <= LEFT * (1 - own)) & (near.max(1) >= _THEIRS)
    if not other.any() or 2 * other.sum() < moved.sum():
        return ""
    first = int(np.flatnonzero(other)[own[other].argmin()])
    text, taken = (repr(suite.texts[i][:_SHOWN]) for i in (rows[first], int(best[first])))
    return f"{int(other.sum())} of {int(moved.sum())} texts whose vectors moved have that of another text: {text} that of {taken}"


def _exchanged_tokens(session: Session, target: Target, rows: tuple[int, ...]) -> str:
    """As :func:`_exchanged`, of vectors of tokens, among these texts alone: another one has exactly these."""
    suite, similarity = session.suite(target.suite, target.model), session.similarity(target.model)
    golden = session.golden(target.model, target.suite).vectors[list(rows)]
    found = session.embeddings(target)[list(rows)]
    own = similarity.agreement(golden, found)
    moved = [k for k in range(len(rows)) if not own[k] >= _MOVED]
    taken = dict[int, int]()
    for k in moved:
        near = similarity.agreement(golden, found[[k] * len(rows)])
        best = int(np.nanargmax(near))
        if near[best] >= _THEIRS and 1 - near[best] <= LEFT * (1 - own[k]):
            taken[k] = best
    if not taken or 2 * len(taken) < len(moved):
        return ""
    first = min(taken, key=lambda k: own[k])
    text, other = (repr(suite.texts[rows[i]][:_SHOWN]) for i in (first, taken[first]))
    return f"{len(taken)} of {len(moved)} texts whose vectors moved have that of another text: {text} that of {other}"


def _without_rounding(session: Session, target: Target, rows: tuple[int, ...]) -> Floats:
    """The vectors of the artifact's own graph in float, fed and read as the artifact is.

    Raises:
        QguardError: when the file cannot be had without rounding.
    """
    from qguard.artifacts.unrounded import unrounded
    from qguard.errors import ArtifactProblem

    artifact, model = session.artifact(target.precision, target.model), session.model(target.model)
    if artifact.file is None:
        raise ArtifactProblem("torch computes from weights alone, and rounds them itself")
    tokenizer, ids = session.tokenizer(target.precision, target.model), session.token_ids(target)
    with tempfile.TemporaryDirectory() as folder:
        if artifact.kind == GGUF:
            from qguard.precisions.gguf import write_unrounded

            file = Path(folder) / artifact.file.name
            write_unrounded(artifact.file, model, file)
            return session.opened("llamacpp", artifact, file, tokenizer, model).encode_rows([ids[i] for i in rows])
        made = unrounded(artifact, model, Path(folder))
        if made.kept:
            raise ArtifactProblem(f"{len(made.kept)} of its stored weights are in no matrix of the model, such as {made.kept[0]}")
        file = Path(folder) / artifact.file.name
        made.graph.save(file)
        opened = open_encoder("onnx", artifact.folder, artifact.pipeline, "fp32", file, "cpu", tokenizer, model, artifact.feeding)
        return opened.encode_rows([ids[i] for i in rows])


def _alone(session: Session, target: Target, encoder: Encoder, rows: tuple[int, ...]) -> Any:
    ids = session.token_ids(target)
    return joined([encoder.encode_rows([ids[i]]) for i in rows])
