"""The draw: strata by script and length, and within each a systematic sample in the order of topics and hardness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem
from qguard.sampling.allocation import allocate
from qguard.sampling.lengths import Count, words
from qguard.sampling.personal import personal
from qguard.sampling.production import DOCUMENTS, PAIRS, QUERIES, TEXTS, Production, Unit
from qguard.sampling.survey import DROP, Personal, Stratum, Survey, chosen, survey
from qguard.sampling.topics import Encode, clusters, gaps, hashed_words, one_thread, unit

POOL = 5  # texts for each one that is drawn, of which topics and hardness are found
REFERENCE = 2000  # documents whose distances say how hard a query is
EACH_QUERY = 5  # documents for each query
HARDNESS = ("hard", "middle", "easy")  # thirds of the pool, smallest gaps first


@dataclass(frozen=True)
class Settings:
    """What a user asks for.

    Attributes:
        n: Texts, pairs and queries to draw.
        seed: Of the draw.
        documents: That the drawn queries search; ``None`` for :data:`EACH_QUERY` a query.
        pool: Texts for each one drawn of which topics and hardness are found.
        personal: ``drop``, ``keep`` or ``refuse``.
        region: See :func:`qguard.sampling.personal.personal`.
    """

    n: int
    seed: int = 0
    documents: int | None = None
    pool: int = POOL
    personal: str = DROP
    region: str = "US"


@dataclass(frozen=True)
class Drawn:
    """One row of the sample.

    Attributes:
        unit: What the source says.
        stratum: Where it was drawn from.
        weight: The share of the source's distinct rows of its kind that it stands for; those of a kind sum to 1.
        cluster: Its topic, by number, or ``None`` where that was not asked.
        gap: See :func:`qguard.sampling.topics.gaps`; ``None`` without a model.
        hardness: One of :data:`HARDNESS`; ``None`` without a model.
    """

    unit: Unit
    stratum: Stratum
    weight: float
    cluster: int | None = None
    gap: float | None = None
    hardness: str | None = None


@dataclass(frozen=True)
class Sample:
    """What was drawn, in the order of the source, and what from.

    Attributes:
        drawn: Rows of all kinds.
        judgments: Query → document → grade, of the drawn ones.
        candidates: Rows for cross-encoders.
        sizes: Distinct texts of each stratum of the source that could be drawn.
        rows: Rows of the source by kind.
        exact: See :class:`qguard.sampling.survey.Survey`; so ``near`` and ``personal``.
        pooled: Texts of which topics and hardness were found.
        shares: Topic or hardness → the share of the source that has it, as the pool tells.
    """

    settings: Settings
    drawn: tuple[Drawn, ...]
    judgments: dict[str, dict[str, int]]
    candidates: tuple[dict[str, Any], ...]
    sizes: dict[Stratum, int]
    rows: dict[str, int]
    exact: int
    near: int
    personal: Personal
    pooled: int
    shares: dict[str, float] = field(default_factory=dict)


def draw(
    production: Production, settings: Settings, count: Count = words, encode: Encode | None = None,
    refuse: Callable[[Personal], None] = lambda found: None,
) -> Sample:  # fmt: skip
    """Draw a sample.

    Args:
        production: The source, which is read two or three times.
        settings: How many, and how.
        count: Of lengths.
        encode: Texts to vectors; ``None`` for hashed words, and no hardness.
        refuse: Told of personal data before anything is encoded.

    Raises:
        QguardError: for a source that cannot be read or of which nothing is left, or fewer texts than strata.
    """
    found = survey(production, count, settings.seed, settings.personal, settings.region)
    refuse(found.personal)
    main = {s: found.members(s) for s in found.of(TEXTS, PAIRS, QUERIES)}
    documents = {s: found.members(s) for s in found.of(DOCUMENTS)}
    if not main:
        raise MeasurementProblem(f"{production.source.name}: no texts, pairs or queries are left to draw from")
    numbers = allocate([len(of) for of in main.values()], settings.n)
    pools = {s: of[: settings.pool * k] for (s, of), k in zip(main.items(), numbers, strict=True)}
    asked = _reference(documents)
    held = chosen(production, found, np.concatenate([*pools.values(), asked]), settings.seed)
    known = _Known.of(found, pools, held, asked, encode, settings.seed)
    drawn = {
        number: s
        for s, k in zip(main, numbers, strict=True)
        for number in known.systematic(pools[s], k, f"{settings.seed} {found.strata[s]}")
    }
    queries = [held[i].id for i in sorted(drawn) if held[i].kind == QUERIES]
    judgments = {q: dict(production.judgments[q]) for q in queries if q in production.judgments}
    candidates = tuple(_candidates(found, production, set(queries), settings))
    if documents:
        named = {d for grades in judgments.values() for d in grades}
        named |= {str(entry["document"]) for row in candidates for entry in row["candidates"] if "document" in entry}
        taken = _documents(found, documents, named, settings, len(queries))
        drawn |= taken
        held |= chosen(production, found, np.asarray(sorted(taken), np.int64), settings.seed)
        there = {held[i].id for i in taken}
        judgments = {q: {d: g for d, g in grades.items() if d in there} for q, grades in judgments.items()}
    sizes = {found.strata[s]: len(of) for s, of in {**main, **documents}.items()}
    weights = _weights(found, drawn, sizes)
    rows = tuple(Drawn(held[i], found.strata[drawn[i]], weights[drawn[i]], *known.facts(i)) for i in sorted(drawn))
    shares = known.shares(pools, {s: len(of) for s, of in main.items()})
    return Sample(
        settings,
        rows,
        judgments,
        candidates,
        sizes,
        found.rows,
        found.exact,
        found.near,
        found.personal,
        len(known.place),
        shares,
    )


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of each text of the pools.

    Attributes:
        place: Row number → place in what follows.
        topic: int64 (texts,).
        gap: float64 (texts,); ``None`` without a model.
    """

    place: dict[int, int]
    topic: NDArray[np.int64]
    gap: NDArray[np.float64] | None

    @classmethod
    def of(
        cls, found: Survey, pools: dict[int, NDArray[np.int64]], held: dict[int, Unit], asked: NDArray[np.int64],
        encode: Encode | None, seed: int,
    ) -> _Known:  # fmt: skip
        pool = np.concatenate(list(pools.values()))
        pool = pool[np.argsort(found.keys[pool], kind="stable")]  # an order that the source's rows have no part in
        parts = [
            [held[int(i)] for i in numbers] for numbers in (pool, asked if encode is not None else asked[:0]) if len(numbers)
        ]
        vectors = [unit((encode or hashed_words)([u.text for u in part], [u.role for u in part])) for part in parts]
        with one_thread():
            gap = gaps(vectors[0], vectors[1] if len(vectors) > 1 else None) if encode is not None else None
            topic = clusters(vectors[0], seed)
        return cls({int(number): k for k, number in enumerate(pool)}, topic, gap)

    def systematic(self, pool: NDArray[np.int64], k: int, seed: str) -> list[int]:
        """``k`` of a pool at equal steps from a random start, in the order of topics, and of gaps up and down in turns (Cochran
        1977, 8.1): each topic and each hardness gets its share, without cells of too few texts.
        """
        at = np.asarray([self.place[int(number)] for number in pool])
        gap = np.zeros(len(at)) if self.gap is None else self.gap[at] * np.where(self.topic[at] % 2 == 0, 1.0, -1.0)
        order = pool[np.lexsort((np.arange(len(pool)), gap, self.topic[at]))]
        start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") / 2**64
        return [int(order[int((start + i) * len(order) / k)]) for i in range(k)]

    @cached_property
    def thirds(self) -> NDArray[np.int64] | None:
        """The third of all gaps that each is in, smallest first."""
        if self.gap is None:
            return None
        ranks = np.empty(len(self.gap), np.int64)
        ranks[np.argsort(self.gap, kind="stable")] = np.arange(len(self.gap))
        return ranks * 3 // len(ranks)

    def facts(self, number: int) -> tuple[int | None, float | None, str | None]:
        """Topic, gap and hardness of a row; nothing of a document."""
        if (k := self.place.get(number)) is None:
            return None, None, None
        if self.gap is None or self.thirds is None:
            return int(self.topic[k]), None, None
        return int(self.topic[k]), float(self.gap[k]), HARDNESS[self.thirds[k]]

    def shares(self, pools: dict[int, NDArray[np.int64]], sizes: dict[int, int]) -> dict[str, float]:
        """What share of the source has each topic and hardness."""
        out: dict[str, float] = {}
        total = sum(sizes.values())
        for s, pool in pools.items():
            for number in pool.tolist():
                topic, _, hardness = self.facts(number)
                for name in (f"topic {topic}", *(() if hardness is None else (hardness,))):
                    out[name] = out.get(name, 0.0) + sizes[s] / len(pool) / total
        names = [*(name for name in sorted(out) if name not in HARDNESS), *HARDNESS]
        return {name: out[name] for name in names if name in out}


def _reference(documents: dict[int, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Documents that stand for all, in proportion to their strata."""
    total = sum(map(len, documents.values()))
    parts = [of[: max(1, round(REFERENCE * len(of) / total))] for of in documents.values()]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _candidates(found: Survey, production: Production, queries: set[str], settings: Settings) -> Iterator[dict[str, Any]]:
    """The candidates of the drawn queries, without those that hold personal data."""
    for query, row in production.candidates():
        entries = row.get("candidates")
        if query not in queries or not isinstance(entries, list):
            continue
        entries = [{k: v for k, v in e.items() if v is not None} for e in entries if isinstance(e, dict)]
        if settings.personal == DROP:
            entries = [
                e
                for e in entries
                if not personal(str(e.get("text", "")), settings.region) and not _flagged(found, str(e.get("document")))
            ]
        if entries:
            yield {"query": query, "candidates": entries}


def _flagged(found: Survey, document: str) -> bool:
    return document in found.named and bool(found.flagged[found.named[document]])


def _documents(
    found: Survey, documents: dict[int, NDArray[np.int64]], named: set[str], settings: Settings, queries: int
) -> dict[int, int]:
    """The documents that the drawn queries name, and others up to the number that is asked for: row number → stratum."""
    kept = [found.named[d] for d in named if d in found.named and not (settings.personal == DROP and _flagged(found, d))]
    taken = {number: int(found.stratum[number]) for number in kept}
    total = sum(map(len, documents.values()))
    wanted = settings.documents if settings.documents is not None else EACH_QUERY * queries
    numbers = allocate([len(of) for of in documents.values()], max(len(documents), min(wanted, total)))
    have = np.bincount(list(taken.values()), minlength=len(found.strata)) if taken else np.zeros(len(found.strata), int)
    keys = {int(found.keys[number]) for number in taken}
    for (s, of), k in zip(documents.items(), numbers, strict=True):
        others = (int(number) for number in of if int(found.keys[number]) not in keys)
        for number in islice(others, max(0, k - int(have[s]))):
            taken[number] = s
    return taken


def _weights(found: Survey, drawn: dict[int, int], sizes: dict[Stratum, int]) -> dict[int, float]:
    """Stratum → weight of each of its rows."""
    totals: dict[str, int] = {}
    for stratum, size in sizes.items():
        totals[stratum.kind] = totals.get(stratum.kind, 0) + size
    counts = np.bincount(list(drawn.values()), minlength=len(found.strata))
    return {
        s: sizes.get(found.strata[s], int(counts[s])) / int(counts[s]) / totals[found.strata[s].kind]
        for s in np.flatnonzero(counts).tolist()
    }
