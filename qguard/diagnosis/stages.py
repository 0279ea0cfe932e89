"""The stage first: token ids, attention mask, hidden states, pooling, heads, normalization; each compared by itself.

What the artifact declares is compared with what the model declares. Then each stage is measured alone: everything after the
hidden states is computed anew from the artifact's own hidden states, so that a wrong pooling is not taken for lost precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.artifacts.artifact import Artifact
from qguard.encoders.pooling import Head
from qguard.judging.artifact import stored_faults
from qguard.judging.outputs import alternatives
from qguard.models.model import Model
from qguard.models.pipeline import POOLING_MODES, Pipeline
from qguard.vectors.cosine import cosine

Array = NDArray[Any]
TOKENS, TABLES, MASK, HIDDEN = "tokens", "tables", "mask", "hidden states"
POOLED, DENSE, NORMALISED = "pooling", "dense", "normalization"
SAME = 1e-3  # relative difference that float rounding explains
FIRST = 4  # texts' hidden states that are compared with padding and without


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: One of the names of this module.
        fault: Whether it is wrong, apart from lost precision.
        words: What was found, and what mends a fault.
        value: What was measured; ``None`` for what is only compared.
    """

    name: str
    fault: bool
    words: str
    value: float | None = None


def tokens(golden: Sequence[Sequence[int]], own: Sequence[Sequence[int]], model: Model, differs: str = "") -> Stage:
    """The artifact's token ids against those of the golden.

    Args:
        golden: Token ids of each text.
        own: The artifact's own.
        model: The fp32 model.
        differs: See :func:`qguard.judging.surroundings.difference`.
    """
    from qguard.goldens.tokens import differing, token_change

    changed = differing(golden, own)
    share = 1 - len(changed) / len(golden)
    if not changed and differs:
        return Stage(TOKENS, True, f"no text of the suite shows it, but {differs}", share)
    if not changed:
        return Stage(TOKENS, False, f"the artifact's tokenizer gives fp32's ids of all {len(golden)} texts", share)
    reason = differs or "its tokenizer.json is another one: copy the model's"
    return Stage(TOKENS, True, f"{token_change(golden, own, model)}: {reason}", share)


def tables(artifact: Artifact, model: Model) -> Stage:
    """Rows of embedding tables against the model's, and whether every stored number is one."""
    wrong, rows, words = stored_faults(artifact, model)
    if not wrong:
        return Stage(TABLES, False, f"all {rows} rows of the embedding tables are the model's", 1.0)
    more = f"; and {len(words) - 3} more" if len(words) > 3 else ""
    return Stage(
        TABLES, True, f"{'; '.join(words[:3])}{more}: make the file again from this model", 1 - min(1.0, wrong / max(1, rows))
    )


def declared(model: Pipeline, artifact: Pipeline) -> list[Stage]:
    """Stages that the artifact's files declare otherwise than the model's."""
    found = []
    if model.pooling != artifact.pooling:
        words = f"its files declare {_modes(artifact)} pooling, the model's {_modes(model)}: copy 1_Pooling/config.json"
        found.append(Stage(POOLED, True, words))
    if model.dense != artifact.dense:
        words = f"the artifact declares {len(artifact.dense)} dense modules, the model {len(model.dense)}, or others: copy them"
        found.append(Stage(DENSE, True, words))
    if not found and _settings(model) != _settings(artifact):
        words = "the artifact declares other modules behind its transformer than the model: copy modules.json and their folders"
        found.append(Stage(DENSE, True, words))
    if model.normalize != artifact.normalize:
        said = "do not normalize" if model.normalize else "normalize"
        words = f"the artifact's files {said}, the model's {'do' if model.normalize else 'do not'}: copy modules.json"
        found.append(Stage(NORMALISED, True, words))
    if model.truncate_dim != artifact.truncate_dim:
        words = f"the artifact's files declare truncate_dim {artifact.truncate_dim}, the model's {model.truncate_dim}"
        found.append(Stage(POOLED, True, f"{words}: copy config_sentence_transformers.json"))
    return found


def _settings(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Of every module but a norm at the end, wherever its folder is."""
    return [m.declared() | {"path": ""} for m in pipeline.head if m not in pipeline.closing]


def _modes(pipeline: Pipeline) -> str:
    return "+".join(pipeline.pooling) or "the declared pooling"


@dataclass(frozen=True)
class Seen:
    """What both sides gave for one padded batch.

    Attributes:
        mask: (batch, length).
        fp32, candidate: Hidden states, float32 (batch, length, hidden).
        vectors: The artifact's embeddings as they are deployed, before any head of qguard's if the file pools itself.
        pooled: The file itself gives ``vectors``.
        rows: Token ids of each text as :class:`qguard.encoders.tokenizer.Tokens`; without, no text has a role or a prompt.
    """

    mask: Array
    fp32: Array
    candidate: Array
    vectors: Array
    pooled: bool
    rows: Sequence[Any] | None = None


def hidden(seen: Sequence[Seen]) -> Stage:
    """How far the hidden states of all tokens lie from fp32's."""
    far = near = 0.0
    for s in seen:
        x, y = (a[s.mask.astype(bool)].astype(np.float64) for a in (s.fp32, s.candidate))
        far, near = far + float(((x - y) ** 2).sum()), near + float((x * x).sum())
    error = float(np.sqrt(far / near))
    finite = bool(np.isfinite(error))
    words = f"they differ from fp32's by {error:.1%}" if finite else "they hold NaN or infinite values"
    return Stage(HIDDEN, not finite, words, error if finite else None)


def padding(alone: Sequence[Array], padded: Sequence[Array], cores: Sequence[float]) -> Stage:
    """Whether padding is masked.

    Args:
        alone: Hidden states (tokens, hidden) of some texts, each by itself.
        padded: The same behind padding, its rows left out.
        cores: Own error of each layer's attention, given its queries, keys and values, on padded batches; where layers could
            be aligned.

    A file whose activation ranges are those of the batch changes with padding too; its attention does not.
    """
    x, y = (np.concatenate(a).astype(np.float64) for a in (alone, padded))
    change = float(np.linalg.norm(x - y) / np.linalg.norm(x))
    core = float(np.median(cores)) if len(cores) else None
    if change <= SAME:
        return Stage(MASK, False, "hidden states are the same with padding and without", change)
    if (core is not None and core > 0.01) or (core is None and change > 0.3):
        words = f"padding changes hidden states by {change:.0%}: attention sees it. The attention mask does not reach attention"
        return Stage(MASK, True, f"{words}; export the model with attention_mask as an input", change)
    why = "attention masks padding, but activation ranges come from the batch" if core is not None else "ranges of the batch"
    return Stage(MASK, False, f"padding changes hidden states by {change:.1%}: {why}", change)


def after(seen: Sequence[Seen], model: Model, artifact: Artifact) -> list[Stage]:
    """Pooling, dense modules and normalization, by what reproduces the artifact's vectors from its own hidden states."""
    head, own = Head.open(model.folder, model.pipeline), Head.open(artifact.folder, artifact.pipeline)
    given, wanted = [], []
    for s in seen:
        given.append(s.vectors[:, : artifact.pipeline.truncate_dim] if s.pooled else own(s.candidate, s.mask, s.rows))
        wanted.append(head(s.candidate, s.mask, s.rows))
    x, y = (np.concatenate(a).astype(np.float64) if _widths(a) == 1 else None for a in (given, wanted))
    said = declared(model.pipeline, artifact.pipeline)
    if x is None or y is None or x.shape != y.shape:
        other = [] if said or x is None else _other_dense(seen, x, head)
        return said or other or [Stage(POOLED, True, "the artifact's vectors have another dimension than the model's")]
    pooling = float(cosine(x, y).min())
    norms = np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    off = float(np.abs(norms - 1).max())
    found = [s for s in said if s.name != NORMALISED]
    if pooling < 1 - SAME and not found:
        found += _other_dense(seen, x, head) or [_explained(seen, x, head, pooling)]
    elif not found:
        words = f"{_modes(model.pipeline)} of the artifact's own hidden states gives its vectors"
        found.append(Stage(POOLED, False, words, pooling))
    normalized = [s for s in said if s.name == NORMALISED]
    if not normalized:
        wrong = off > SAME and model.pipeline.unit_length
        words = "as declared"
        if wrong:
            words = f"norms differ from the model's by up to {off:.1%}: normalization is missing from the file"
        normalized = [Stage(NORMALISED, wrong, words, off)]
    return [*found, *normalized]


def _widths(arrays: Sequence[Array]) -> int:
    return len({a.shape[1:] for a in arrays})


def _other_dense(seen: Sequence[Seen], vectors: Array, head: Head) -> list[Stage]:
    """The stage of a Dense module that the file leaves out or applies twice, where that gives the artifact's vectors."""
    for name, pipeline in alternatives(head.pipeline).items():
        if pipeline.dense != head.pipeline.dense and _near(seen, vectors, replace(head, pipeline=pipeline)) >= 1 - SAME:
            return [Stage(DENSE, True, f"the file gives the model's vectors {name}: export it again with each module once")]
    return []


def _near(seen: Sequence[Seen], vectors: Array, head: Head, *, masked: bool = True) -> float:
    """The lowest cosine of the artifact's vectors to those of a head on its hidden states; -1 where they cannot be compared."""
    try:
        made = np.concatenate([head(s.candidate, s.mask if masked else np.ones_like(s.mask), s.rows) for s in seen])
    except ValueError:  # a module gets another width than it takes
        return -1.0
    return float(cosine(made, vectors).min()) if made.shape == vectors.shape else -1.0


def _explained(seen: Sequence[Seen], vectors: Array, head: Head, worst: float) -> Stage:
    """The pooling that gives the artifact's vectors, where one does."""
    best, pipeline = ("", -1.0), head.pipeline
    for masked in (True, False):
        for mode in POOLING_MODES:
            found = _near(seen, vectors, replace(head, pipeline=pipeline.pooled_by((mode,))), masked=masked)
            if found > best[1] + 1e-6:  # mean and mean_sqrt_len_tokens point the same way: the first, not what rounding prefers
                best = (mode if masked else f"{mode} over padding too", found)
    words = f"its vectors are not {_modes(pipeline)} of its own hidden states (cosine down to {worst:.4f})"
    if best[1] >= 1 - SAME:
        words += f", but {best[0]}"
    return Stage(POOLED, True, f"{words}; export hidden states, or pool as the model does", worst)
