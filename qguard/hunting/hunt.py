"""The hunt: encode a corpus by fp32 and by the candidate, mutate what moved most, and repeat until the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.hunting.pool import Encode, Pool
from qguard.judging.fp32 import fp32_encoder, fp32_runtime
from qguard.texts.mutations import mutate
from qguard.vectors.similarity import COSINE, Similarity

if TYPE_CHECKING:
    from qguard.judging.session import Session
    from qguard.precisions import Precision

CHUNK = 512  # texts of the corpus that are encoded between two looks at the clock
GENERATION = 96  # mutations that are tried together
FRESH = 0.1  # share of them that mutate any text of the corpus: what is worst now need not lead furthest


@dataclass(frozen=True)
class WorstText:
    """A text and the cosine of its vector to fp32's, lengths counted where they count for the model; see
    :meth:`qguard.vectors.similarity.Similarity.agreement`. ``made`` names the mutations, none for a text of the corpus.
    """

    text: str
    cosine: float
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorstPair:
    """Two texts, and their similarity in fp32 and in the candidate, on the scale of cosines."""

    text_a: str
    text_b: str
    fp32: float
    candidate: float

    @property
    def moved(self) -> float:
        """How far the similarity moved."""
        return abs(self.candidate - self.fp32)


@dataclass(frozen=True)
class Status:
    """Where a hunt is: what was tried, the seconds since it began, and the worst so far."""

    tried: int
    of: int
    seconds: float
    text: WorstText
    pair: WorstPair


@dataclass(frozen=True)
class Hunted:
    """What a hunt found.

    Attributes:
        plain_text: The worst text of the corpus as it is.
        plain_pair: The pair of it that moved most, over all pairs.
        texts: The worst of corpus and mutations, worst first.
        pairs: The pairs that moved most, largest move first.
        corpus: Distinct texts of the corpus.
        tried: Mutations that were encoded.
        generations: Of mutations.
        seconds: In all; ``searching`` of it after the corpus was encoded.
    """

    plain_text: WorstText
    plain_pair: WorstPair
    texts: tuple[WorstText, ...]
    pairs: tuple[WorstPair, ...]
    corpus: int
    tried: int
    generations: int
    seconds: float
    searching: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The stable shape of ``--json``, schema 1."""
        return {"schema": 1, **asdict(self)}


def encoder_of(session: Session, precision: Precision, model: str) -> Encode:
    """Texts to the vectors of fp32, in the candidate's runtime and with the base model's tokenizer, and to the candidate's."""
    if session.fleet is not None:
        from qguard.hunting.afar import Afar

        return Afar(session, precision, model)
    candidate, tokenizer = session.encoder(precision, model), session.reference_tokenizer(model)
    fp32 = fp32_encoder(session, model, fp32_runtime(session, precision, model))
    return lambda texts: (fp32.encode_ids(tokenizer(texts)), candidate.encode(texts))


def hunt(
    encode: Encode, corpus: Sequence[str], seconds: float, seed: int = 0, say: Callable[[Status], None] = lambda status: None,
    generations: int | None = None, keep: int = 32, similarity: Similarity = COSINE,
) -> Hunted:  # fmt: skip
    """Look for the texts whose vectors, and the pairs whose similarities, move most.

    Equal seeds try equal texts in an equal order; time decides only how many.

    Args:
        encode: See :func:`encoder_of`. Its method ``many``, where it has one, encodes chunks of the corpus side by side.
        corpus: Texts; blank and repeated ones are passed over.
        seconds: In all. The corpus is encoded whole whatever that takes, and one generation of mutations at least is tried.
        seed: Of the mutations.
        say: Told of the progress.
        generations: Stop after so many.
        keep: Texts, and pairs, of the result.
        similarity: What the model ranks by.

    Raises:
        MeasurementProblem: for fewer than two texts, or vectors that are not finite.
    """
    start, rng, pool = time.monotonic(), Random(seed), Pool(encode, similarity)
    plain = list(dict.fromkeys(t for t in corpus if t.strip()))
    if len(plain) < 2:
        raise MeasurementProblem(f"a hunt needs a corpus of at least two texts, found {len(plain)}")

    def tell() -> None:
        say(Status(pool.tried, len(plain), time.monotonic() - start, _text(pool, int(pool.cosines.argmin())), _pair(pool, 0)))

    chunks = [plain[i : i + CHUNK] for i in range(0, len(plain), CHUNK)]
    many: Callable[[list[list[str]]], Iterator[tuple[Floats, Floats]]] = getattr(encode, "many", lambda some: map(encode, some))
    for i, encoded in zip(range(0, len(plain), CHUNK), many(chunks), strict=True):
        part = plain[i : i + CHUNK]
        pool.add(part, range(i, i + len(part)), [()] * len(part), encoded)
        tell() if pool.pairs else None
    pool.corpus = len(plain)
    plain_text, plain_pair = _text(pool, int(pool.cosines.argmin())), _pair(pool, 0)
    begun, done = time.monotonic(), 0
    while done == 0 or time.monotonic() - start < seconds:
        pool.add(*_offspring(pool, rng))
        done += 1
        tell()
        if done == generations:
            break
    end = time.monotonic()
    pairs = [WorstPair(pool.texts[m.a], pool.texts[m.b], m.fp32, m.candidate) for m in pool.worst_pairs(keep)]
    texts = tuple(_text(pool, i) for i in pool.worst_texts(keep))
    tried = pool.tried - len(plain)
    return Hunted(plain_text, plain_pair, texts, tuple(pairs), len(plain), tried, done, end - start, end - begun, seed)


def _offspring(pool: Pool, rng: Random) -> tuple[list[str], list[int], list[tuple[str, ...]]]:
    """Mutations of the worst texts, of the texts of the worst pairs, and of a few others."""
    worst = pool.worst_texts()
    paired = [i for m in pool.worst_pairs() for i in (m.a, m.b)]
    texts: dict[str, tuple[int, tuple[str, ...]]] = {}
    for _ in range(8 * GENERATION):  # short texts may have few mutations that are new
        draw = rng.random()
        elite = worst if draw < (1 - FRESH) / 2 else paired
        i = rng.randrange(pool.corpus) if draw > 1 - FRESH else elite[_low(rng, len(elite))]
        other = rng.choice(elite) if rng.random() < 0.5 else rng.randrange(pool.corpus)
        text, names = mutate(rng, pool.texts[i], pool.texts[other])
        if pool.is_new(text):
            texts.setdefault(text, (pool.roots[i], (*pool.made[i], *names)[-12:]))
        if len(texts) == GENERATION:
            break
    return list(texts), [root for root, _ in texts.values()], [names for _, names in texts.values()]


def _low(rng: Random, size: int) -> int:
    """A place in a list, the first ones most often."""
    return int(size * rng.random() ** 2)


def _text(pool: Pool, i: int) -> WorstText:
    return WorstText(pool.texts[i], float(pool.cosines[i]), pool.made[i])


def _pair(pool: Pool, k: int) -> WorstPair:
    m = pool.pairs[k]
    return WorstPair(pool.texts[m.a], pool.texts[m.b], m.fp32, m.candidate)
