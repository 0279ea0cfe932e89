"""The encodings of a hunt on other machines: batches of fp32 and of the candidate, each a task, as one machine fills them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from qguard.encoders import Encoder, Floats, length_batches
from qguard.encoders.runtimes import TOKEN_IDS
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.fleet import Item, Kept, Place
from qguard.fleet.nodes import digest
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.judging.nodes import artifact_part, opened_artifact, session_of, shared, torch_threads
from qguard.judging.session import Session
from qguard.precisions import Precision, parse_precision

_TASK = "qguard.hunting.afar:encode"
_SIDES = ("fp32", "candidate")
Pair = tuple[Floats, Floats]


class Afar:
    """What :func:`qguard.hunting.hunt.encoder_of` gives, on the session's fleet.

    Encodings are kept until the hunt is over. A hunt with the same seed asks for the same ones, so one that was killed is soon
    where it was.

    Args:
        session: Of the model.
        precision: The candidate.
        model: Its name.

    Raises:
        UsageProblem: for a runtime that takes texts: no batch of it can be told apart.
    """

    def __init__(self, session: Session, precision: Precision, model: str) -> None:
        if precision.runs_in.takes != TOKEN_IDS:
            raise UsageProblem(f"--ray: {precision} takes texts, whose batches are its own; hunt without --ray")
        assert session.fleet is not None
        self._fleet = session.fleet
        runtime = fp32_runtime(session, precision, model)
        part, entry = artifact_part(session.fp32(model, runtime), None, f"fp32:{model}")
        more = {"hunted": str(precision), "model": model, "runtime": runtime, "fp32": entry}
        self._shared = shared(session, (), precision, (part,), **more)
        self._kept = Kept("hunt", self._shared.key, digest())

    def __call__(self, texts: Sequence[str]) -> Pair:
        """float32 (texts, dim) of fp32 and of the candidate."""
        return next(self.many([texts], -(-self._fleet.lanes // 2)))

    def many(self, chunks: Sequence[Sequence[str]], parts: int = 1) -> Iterator[Pair]:
        """The same of each chunk of texts, in their order, several at the same time.

        Args:
            chunks: Texts that are encoded together.
            parts: Tasks among which the batches of one chunk and one side are dealt out.
        """
        items = (
            Item({"side": side, "part": i, "of": parts}, json.dumps(list(texts)).encode())
            for texts in chunks
            for side in _SIDES
            for i in range(parts)
        )
        found = self._fleet.map(_TASK, self._shared, items, self._kept)
        for texts in chunks:
            both = [self._whole(len(texts), [next(found) for _ in range(parts)]) for _ in _SIDES]
            yield both[0], both[1]

    def forget(self) -> None:
        """The hunt is over."""
        self._kept.forget()

    def _whole(self, count: int, parts: list[tuple[dict[str, Any], bytes]]) -> Floats:
        out = np.empty((count, next(told["dim"] for told, _ in parts if told["dim"])), np.float32)
        for told, data in parts:
            if told["dim"]:
                out[told["rows"]] = np.frombuffer(data, np.float32).reshape(-1, told["dim"])
        return out


def encode(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Some batches of some texts, by fp32 or by the candidate; a task of :mod:`qguard.fleet`."""
    tokenizer, encoder = _encoder(place, given["side"])
    ids = tokenizer(json.loads(data))
    if not all(len(row) for row in ids):
        raise MeasurementProblem("a text without a token has no vector; leave it out")
    batches = list(length_batches([len(row) for row in ids], encoder.runtime.batch_tokens))[given["part"] :: given["of"]]
    rows = [r for batch in batches for r in batch]
    if not rows:
        return {"rows": [], "dim": 0}, b""
    place_of = {row: i for i, row in enumerate(rows)}
    found = encoder.encode_batches([ids[r] for r in rows], [[place_of[r] for r in batch] for batch in batches])
    vectors = np.ascontiguousarray(found, np.float32)
    return {"rows": rows, "dim": vectors.shape[1]}, vectors.tobytes()


@lru_cache(4)
def _encoder(place: Place, side: str) -> tuple[TextTokenizer, Encoder]:
    """fp32 with the base model's tokenizer, or the candidate with its own."""
    session, model, runtime = session_of(place), place.given["model"], place.given["runtime"]
    precision = parse_precision(place.given["hunted"], session.config.own_precisions)
    torch_threads(place.given["threads"], f"@{runtime if side == _SIDES[0] else precision.runtime}")
    if side != _SIDES[0]:
        candidate = session.encoder(precision, model)
        return candidate.tokenizer, candidate
    fp32 = opened_artifact(session, f"fp32:{model}", place.given["fp32"], runtime, model, place)
    Session.fp32.put(session, fp32, model, runtime)
    return session.reference_tokenizer(model), fp32_encoder(session, model, runtime)
