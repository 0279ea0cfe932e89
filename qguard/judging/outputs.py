"""What an artifact's file gives, before and beside qguard's own head: a head that hides a fault of the file proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from qguard.encoders import Encoder, Floats
from qguard.encoders.pooling import Head
from qguard.encoders.ports import Port
from qguard.encoders.runtimes import TOKEN_IDS
from qguard.errors import QguardError
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.judging.once import once
from qguard.judging.session import Session, Target
from qguard.judging.splade import alternatives as of_sparse
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.models.modules import POOLING_MODES, Dense
from qguard.models.pipeline import Pipeline
from qguard.vectors.finished import finished, given_by, refuse_several
from qguard.vectors.similarity import Similarity, similarity_of

SHORT = 48  # tokens
TEXTS = 16  # of the suite, spread over its lengths: a head is one for all texts
UNIT = Bound("<=", 0.01)  # fp16 leaves 5e-4
_NEAR = 0.1  # of the loss that rounding explains: what is nearer is the model's own head
_TIE = 1e-6  # a mean and a sum over a root differ by a factor alone
_CLEARLY = 4  # times nearer than the declared head


def of_target(session: Session, target: Target) -> list[Measured]:
    """The values of a target's ONNX file that gives finished vectors, or whose model has a Dense head or is sparse; else none.

    ``artifact.unit_length``: the largest distance of a finished vector's length from 1, where the model normalizes.
    ``artifact.output_agreement``: the smallest cosine of the file's finished vectors to what the head makes of its token
    embeddings. ``artifact.head``: 1 where the vectors are nearest to those of the model's own head; 0 where they are those of
    another one, such as one without the Dense module or with it twice.
    """
    return values(session, target.plain)


@once
def values(session: Session, target: Target) -> list[Measured]:
    """As :func:`of_target`, of a target with float32 vectors."""
    encoder, model = session.encoder(target.precision, target.model), session.model(target.model)
    if encoder.takes != TOKEN_IDS:
        return []
    interface = getattr(encoder.runtime, "interface", None)
    if model.kind == CROSS_ENCODER:
        from qguard.judging.scoring import of_target as of_scores

        return of_scores(session, target)
    ports = finished(interface) if interface and model.kind == DENSE else []
    if model.static:  # a file beside modules of its own is normalized by them
        alone = session.artifact(target.precision, target.model).folder == model.folder
        return list(_lengths(_Given.of(session, target, encoder), model.pipeline, ports if alone else []))
    if model.kind == SPARSE:
        return list(_head(session, target, _Given.of(session, target, encoder)))
    if not ports and not model.pipeline.dense:
        return []
    given, least = _Given.of(session, target, encoder), target.precision.recipe.width.least_cosine
    artifact = session.artifact(target.precision, target.model)
    if artifact.onnx is not None:
        refuse_several(encoder, given.rows, given.batches, artifact.onnx.name)
    found = list(_own(given, model.pipeline, least))
    if found and model.onnx is not None:  # what is so in the model's own file is no fault of the artifact
        runtime = fp32_runtime(session, target.precision, target.model)
        base = replace(given, encoder=fp32_encoder(session, target.model, runtime))
        its = {m.name for m in _own(base, model.pipeline, least) if m.bound is not None and not m.bound.holds(m.value)}
        found = [m for m in found if m.name not in its]
    return [*found, *_head(session, target, given)]


def _own(given: _Given, pipeline: Pipeline, least: float) -> Iterator[Measured]:
    """What a file's finished vectors tell by themselves."""
    interface = getattr(given.encoder.runtime, "interface", None)
    ports = finished(interface) if interface and pipeline.kind == DENSE else []
    yield from _lengths(given, pipeline, ports)
    yield from _agreement(given, ports, least)


@dataclass(frozen=True)
class _Given:
    """Some texts, in batches of mixed lengths.

    Attributes:
        encoder: The artifact's.
        rows: Token ids of the texts.
        at: Their indices in the suite.
        similarity: What the model ranks by.
    """

    encoder: Encoder
    rows: Sequence[Any]
    at: list[int]
    similarity: Similarity

    @classmethod
    def of(cls, session: Session, target: Target, encoder: Encoder) -> _Given:
        ids = session.token_ids(target)
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        if session.kind(target.model) == SPARSE:  # logits of long texts take much room, and short ones tell as much
            order = order[: max(TEXTS, sum(len(row) <= SHORT for row in ids))]
        at = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, TEXTS).astype(int))]
        return cls(encoder, [ids[i] for i in at], at, similarity_of(session.model(target.model).pipeline))

    @property
    def batches(self) -> list[list[int]]:
        return [list(range(start, len(self.rows), 2)) for start in range(min(2, len(self.rows)))]

    @cached_property
    def vectors(self) -> Floats:
        """As they are judged."""
        return self.encoder.encode_batches(self.rows, self.batches)

    def raw(self, port: Port) -> Floats:
        """What the file itself gives, before any head."""
        return given_by(self.encoder, port, self.rows, self.batches)

    def near(self, a: Floats, b: Floats) -> Any:
        """Cosines of two arrays, (texts,); -1 where their dimensions differ."""
        return self.similarity.agreement(a, b) if a.shape == b.shape else np.full(len(a), -1.0)


def _lengths(given: _Given, pipeline: Pipeline, ports: Sequence[Port]) -> Iterator[Measured]:
    if not ports or not pipeline.unit_length:
        return
    errors, shown = [], []
    for port in ports:
        norms = np.linalg.norm(given.raw(port).astype(np.float64), axis=1)
        errors.append(float(np.abs(norms - 1).max()))
        if not UNIT.holds(errors[-1]):
            shown.append(
                f"output {port.name} has vectors of length {norms.min():.4g} to {norms.max():.4g}, the model's have length 1: "
                "its Normalize is missing in the file"
            )
    yield Measured("artifact.unit_length", None, max(errors), len(given.rows), False, tuple(shown), UNIT)


def _agreement(given: _Given, ports: Sequence[Port], least: float) -> Iterator[Measured]:
    output = given.encoder.runtime.interface.output if ports else None  # type: ignore[attr-defined]
    others = [p for p in ports if output is not None and p != output.port]
    if not others or (output is not None and output.port in ports):  # what is read is no token embeddings
        return
    # the file's own Dense may be rounded too
    bound = Bound(">=", 1 - (1 - least) * _NEAR if given.encoder.head.pipeline.dense else 0.999)
    cosines, shown = [], []
    for port in others:
        raw = given.raw(port)
        near = given.near(raw[:, : given.encoder.head.pipeline.truncate_dim], given.vectors)
        cosines.append(float(near.min()))
        if raw.shape[1] < given.vectors.shape[1] or not bound.holds(cosines[-1]):
            widths = "" if raw.shape == given.vectors.shape else f" ({raw.shape[1]} values and {given.vectors.shape[1]})"
            shown.append(
                f"output {port.name} is not what the model's head makes of output {output.port.name}{widths}: mean cosine "  # type: ignore[union-attr]
                f"{near.mean():.4f}. Whoever takes {port.name} gets vectors that are not judged; leave it out, or export it again"
            )
    yield Measured("artifact.output_agreement", None, min(cosines), len(given.rows), True, tuple(shown), bound)


def _head(session: Session, target: Target, given: _Given) -> Iterator[Measured]:
    golden = session.golden(target.model, target.suite)
    least = target.precision.recipe.width.least_cosine
    own = float(given.near(given.vectors, golden.vectors[given.at]).mean())
    words = ""
    if own < 1 - (1 - least) * _NEAR:
        try:
            words = _other_head(session, target, given, own, least)
        except QguardError:  # fp32 cannot be run here: what is far is judged by the vectors alone
            return
    if not words and given.vectors.shape[1] != golden.vectors.shape[1]:
        words = f"the file gives {given.vectors.shape[1]} values a text, and the model {golden.vectors.shape[1]}"
    yield Measured("artifact.head", None, float(not words), len(given.rows), True, (words,) if words else (), Bound(">=", 1))


def _other_head(session: Session, target: Target, given: _Given, own: float, least: float) -> str:
    """Of which other head the vectors are, in words; empty for none that is clearly nearer."""
    model, golden = session.model(target.model), session.golden(target.model, target.suite)
    suite = session.suite(target.suite, target.model)
    fp32 = fp32_encoder(session, target.model, fp32_runtime(session, target.precision, target.model))
    rows = fp32.tokenizer.told([golden.token_ids[i] for i in given.at], [suite.roles[i] for i in given.at])
    kept: Any = _Kept(fp32.runtime)
    head = Head.open(model.folder, model.pipeline)
    found = dict[str, float]()
    others = of_sparse(model) if model.kind == SPARSE else alternatives(model.pipeline)
    for other, pipeline in others.items():
        try:
            vectors = Encoder(fp32.tokenizer, kept, replace(head, pipeline=pipeline)).encode_batches(rows, given.batches)
        except ValueError:  # a Dense twice whose widths do not fit
            continue
        found[other] = float(given.near(vectors, given.vectors).mean())
    name = nearest(found, own)
    best = found.get(name, own)
    if not name or best < least or (1 - best) * _CLEARLY > 1 - own:
        return ""
    to_own = f"{own:.4f} to its own" if own > -1 else "its own have another dimension"
    what, near = ("weights", "agreement") if model.kind == SPARSE else ("vectors", "cosine")
    return f"the artifact gives the model's {what} {name}: mean {near} {best:.4f} to these, {to_own}"


def nearest(cosines: Mapping[str, float], own: float) -> str:
    """Which mean cosine is above ``own`` and the largest; of those that only rounding tells apart, the first. Empty for none."""
    largest = max(cosines.values(), default=own)
    return next((name for name, near in cosines.items() if near > own and near >= largest - _TIE), "")


def alternatives(pipeline: Pipeline) -> dict[str, Pipeline]:
    """What exports make of a pipeline by mistake: a Dense module left out or applied twice, another pooling."""
    head = pipeline.head
    dense = [i for i, m in enumerate(head) if isinstance(m, Dense)]
    found: dict[str, Pipeline] = {}

    def put(name: str, modules: tuple[Any, ...]) -> None:
        found[name] = replace(pipeline, head=modules)

    if dense:
        what = "its Dense head" if len(dense) == 1 else "its Dense modules"
        put(f"without {what}", tuple(m for i, m in enumerate(head) if i not in dense))
        end = dense[-1] + 1
        put(f"with {what} applied twice", (*head[:end], *(head[i] for i in dense), *head[end:]))
    for i in dense if len(dense) > 1 else ():
        put(f"without {head[i].path}", (*head[:i], *head[i + 1 :]))
        put(f"with {head[i].path} applied twice", (*head[: i + 1], *head[i:]))
    if len(pipeline.pooling) == 1:
        for mode in POOLING_MODES:
            if (mode,) != pipeline.pooling:
                found[f"pooled by {mode!r} instead of {pipeline.pooling[0]!r}"] = pipeline.pooled_by((mode,))
    return found


class _Kept:
    """A runtime that computes each batch once."""

    workers = 1

    def __init__(self, runtime: Any) -> None:
        self._runtime, self._found, self.batch_tokens = runtime, dict[bytes, Any](), runtime.batch_tokens

    def __call__(self, *batch: Any) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        key = batch[0].tobytes()
        if key not in self._found:
            self._found[key] = self._runtime(*batch)
        return self._found[key]
