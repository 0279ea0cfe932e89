"""What is measured of an index that is proved to be used; its loss splits into that of model, vectors, index and filter."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.indexes.collection import Collection, IndexType, defaults
from qguard.indexes.existing import place_of
from qguard.indexes.fill import Filled, fill, name_of
from qguard.indexes.proof import Proof, prove
from qguard.indexes.settings import FLOAT32, Index, K, Parameters
from qguard.indexes.stored import Rows, stored, values
from qguard.indexes.stores import check, open_collection
from qguard.indexes.truth import Exact, Found, Scores, Truth, without_own
from qguard.metrics import Items

TIMED = 200  # queries that are timed one by one, after as many as warm up the store
_WARM = 20
NEAR = 1e-6  # of cosines: what float32's rounding of equal vectors costs


@dataclass(frozen=True, eq=False)
class Searches:
    """What an index is filled with and asked, and what its answers are held against.

    Attributes:
        rows: The candidate's vectors of the documents.
        queries: float32 (q, dim), the candidate's.
        metric: What the index ranks by.
        own: The row that is the query itself, (q,); -1 for none.
        plain: Exact search of the candidate's float32 vectors by what the model ranks by.
        fp32: The same of the golden; ``None`` for a large suite.
        kept: Of a large suite the golden's rows and their scores, (q, 100).
        texts: The beginning of each query, for labels.
        ids: Of the documents, where the collection is there already; otherwise empty.
        stale: Of such a collection a row a document: 1 where its vector is not that of its text, and its cosine to fp32's.
    """

    rows: Rows
    queries: Floats
    metric: str
    own: Found
    plain: Exact
    fp32: Exact | None
    kept: tuple[Found, Scores] | None
    texts: tuple[str, ...]
    ids: tuple[str, ...] = ()
    stale: Items | None = None

    @cached_property
    def golden(self) -> Truth:
        """fp32's neighbors, of a suite whose documents are all held."""
        assert self.fp32 is not None
        return self.fp32.neighbours(K)


@dataclass(frozen=True, eq=False)
class Measures:
    """What was found.

    Attributes:
        index: Its settings.
        metric: What it ranks by.
        vectors: How they are stored.
        exact: Whether it promises every nearest neighbor.
        versions: Of the store.
        filled: Times of insertion and build; ``None`` of a collection that was there already.
        proof: That it is used.
        bytes: Of the index; ``None`` where the store does not tell.
        hits: Rows that each query found, (q, 10); -1 for none.
        items: A row a query: recall, overlap with fp32, whether it came back full.
        filtered: Share of rows → a row a query: recall, whether it came back full.
        unfiltered: Shares of rows that no row meets here.
        metric_fit: Share of fp32's neighbors that an exact search by the index's metric finds in fp32's own vectors.
        fit_words: What is wrong with the metric; empty if nothing is.
        split: Overlap with fp32 of exact search of the candidate's vectors, of the stored ones, and of the index's answers.
        p50: Median time of a search, in milliseconds.
        p95: 95th percentile.
        queries: How many.
        dim: Values of a vector.
        stale: Of :class:`Searches`.
    """

    index: Index
    metric: str
    vectors: str
    exact: bool
    versions: Mapping[str, str]
    filled: Filled | None
    proof: Proof
    bytes: int | None
    hits: Found
    items: Items
    filtered: Mapping[float, Items]
    unfiltered: tuple[float, ...]
    metric_fit: float
    fit_words: str
    split: tuple[float, float, float]
    p50: float
    p95: float
    queries: int
    dim: int
    stale: Items | None = None

    @property
    def split_words(self) -> str:
        """One line: overlap@10 with fp32 after each part, and what a filter leaves of recall."""
        model, vectors, index = self.split
        kept = "stored" if self.index.existing else self.vectors
        words = f"fp32 1 → model {model:.3f} → {kept} vectors {vectors:.3f} → index {index:.3f}"
        filters = "; ".join(
            f"filter of {share:.3g} of the rows: recall {items.rows[:, 0].mean():.3f}, {int((items.rows[:, 1] == 0).sum())} of "
            f"{len(items.rows)} queries short"
            for share, items in self.filtered.items()
        )
        return f"overlap@{K}: {words}" + (f"; {filters}" if filters else "")

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        model, vectors, index = self.split
        filters = [
            {"share": share, "recall": float(i.rows[:, 0].mean()), "hits": float(i.rows[:, 1].mean())}
            for share, i in self.filtered.items()
        ]
        return {
            "name": self.index.name, **self.index.to_json(), "metric": self.metric, "vectors": self.vectors,
            "versions": dict(self.versions), "rows": self.proof.rows, "dim": self.dim, "queries": self.queries,
            "proof": self.proof.to_json(), "split": {"model": model, "vectors": vectors, "index": index},
            "filters": filters, "filters_empty": list(self.unfiltered),
            "insert_seconds": self.filled and self.filled.insert_seconds,
            "build_seconds": self.filled and self.filled.build_seconds,
            "resumed": self.filled.resumed if self.filled else 0, "bytes": self.bytes,
            "p50_ms": self.p50, "p95_ms": self.p95, "words": self.split_words,
        }  # fmt: skip


def measure(index: Index, s: Searches) -> Measures:
    """Fill the index, prove that it is used, search it, and remove it again. One that is there already is only searched.

    Raises:
        MeasurementProblem: for a proof that fails.
    """
    return measure_searches(index, s, [index.search])[0]


def measure_searches(index: Index, s: Searches, searches: Sequence[Parameters]) -> list[Measures]:
    """As :func:`measure`, of one index that is searched with several parameters in turn."""
    kind = check(index, s.rows.kind, s.metric)
    name = name_of(index, s.rows, s.metric)
    collection = open_collection(index, name, s.rows.dim, s.rows.kind, s.metric)
    try:
        if index.existing:
            places = place_of(index, s.ids)
            collection.row = lambda told: places[str(told)]
            return [_measured(collection, replace(index, search=given), kind, s, None) for given in searches]
        filled = fill(collection, index, s.rows)  # one that is interrupted stays, and is resumed
        try:
            return [_measured(collection, replace(index, search=given), kind, s, filled) for given in searches]
        finally:
            collection.drop()
    finally:
        collection.close()


def _measured(collection: Collection, index: Index, kind: IndexType, s: Searches, filled: Filled | None) -> Measures:
    proof = prove(collection, index, kind, s.rows, s.metric)
    given = stored(s.queries, s.rows.kind, s.rows.ranges)
    exact = Exact(values(given, s.rows.kind, s.rows.dim), s.rows.scored, s.metric, s.own)
    truth = exact.neighbours(K)
    full, hits = _asked(collection, index, kind, given, s.own, None)
    wanted = np.minimum(index.k, len(s.rows) - (s.own >= 0))
    overlap, fit, fit_words = _fp32(s, hits)
    model, vectors = _overlap(s, _plain(s, truth)), _overlap(s, truth.rows)
    rows = np.stack([truth.recall(hits, exact.scores(hits)), overlap, full >= wanted], axis=1).astype(np.float64)

    def label(i: int) -> str:
        return f"recall {rows[i, 0]:.1f}, overlap {rows[i, 1]:.1f}  {s.texts[i]!r}"

    filtered, empty = _filtered(collection, index, kind, s, given, exact)
    p50, p95 = _times(collection, index, kind, given)
    return Measures(
        index, s.metric, s.rows.kind, kind.exact, collection.versions, filled, proof, collection.size(), hits,
        Items(rows, (None,) * len(rows), label, "queries"), filtered, empty, fit, fit_words,
        (float(model.mean()), float(vectors.mean()), float(overlap.mean())), p50, p95, len(given), s.rows.dim, s.stale,
    )  # fmt: skip


def _asked(
    collection: Collection, index: Index, kind: IndexType, given: NDArray[Any], own: Found, below: int | None
) -> tuple[NDArray[np.int64], Found]:
    """How many hits each query came back with, (q,), and the first 10 of them, (q, 10), both without the query itself."""
    more = bool((own >= 0).any())
    found = collection.search(given, index.k + more, defaults(kind, index), below)
    (rows,) = without_own(found.rows, own, index.k)
    return (rows >= 0).sum(1), rows[:, :K]


def _plain(s: Searches, truth: Truth) -> Found:
    """What an exact search of the candidate's float32 vectors finds."""
    same = s.rows.kind == FLOAT32 and s.metric == s.plain.metric
    return truth.rows if same else s.plain.neighbours(K).rows


def _overlap(s: Searches, rows: Found) -> Scores:
    """The share of fp32's neighbors among found rows, (q,)."""
    if s.fp32 is not None:
        return s.golden.recall(rows, s.fp32.scores(rows))
    assert s.kept is not None
    kept = s.kept[0][:, :K]
    return np.asarray((rows[:, :, None] == kept[:, None, :]).any(1).mean(1), np.float64)


def _fp32(s: Searches, hits: Found) -> tuple[Scores, float, str]:
    """Overlap of hits with fp32's neighbors, and whether the index's metric ranks as the model does."""
    overlap = _overlap(s, hits)
    if s.fp32 is None or s.rows.kind not in (FLOAT32, "float16", "bfloat16") or s.metric == s.fp32.metric:
        return overlap, 1.0, ""
    other = Exact(s.fp32.queries, s.fp32.documents, s.metric, s.own)
    found = other.neighbours(K).rows
    fit = _near(s.golden, found, s.fp32.scores(found))
    if fit >= 0.999:
        return overlap, fit, ""
    lengths = np.linalg.norm(np.asarray(s.fp32.documents, np.float64), axis=1)
    words = (
        f"the index ranks by {s.metric} and the model by {s.fp32.metric}; its vectors have lengths from {lengths.min():.3g} to "
        f'{lengths.max():.3g}, so the orders differ. Set metric = "{s.fp32.metric}"'
    )
    return overlap, fit, words


def _near(truth: Truth, rows: Found, scores: Scores) -> float:
    """As recall, but scores within float32's rounding of the last are equal: another metric rounds otherwise."""
    reach = truth.last - NEAR * np.maximum(1.0, np.abs(truth.last))
    good = (rows >= 0) & (scores >= reach[:, None])
    return float((good.sum(1) / np.maximum(truth.wanted, 1)).mean())


def _filtered(
    collection: Collection, index: Index, kind: IndexType, s: Searches, given: NDArray[Any], exact: Exact
) -> tuple[dict[float, Items], tuple[float, ...]]:
    """Recall and full answers under each filter that the store has."""
    found: dict[float, Items] = {}
    empty = []
    for share in index.filters if collection.filters else ():
        below = s.rows.below(share)
        allowed = np.flatnonzero(s.rows.buckets < below)
        if not len(allowed):
            empty.append(share)
            continue
        truth = exact.neighbours(K, allowed)
        every = exact.neighbours(min(index.k, len(allowed)), allowed).wanted
        full, hits = _asked(collection, index, kind, given, s.own, below)
        outside = ~np.isin(hits, allowed)
        scores = np.where(outside, -np.inf, exact.scores(hits))
        rows = np.stack([truth.recall(hits, scores), full >= every], axis=1).astype(np.float64)
        found[share] = Items(rows, (None,) * len(rows), _labels(rows, s.texts), "queries")
    return found, tuple(empty)


def _labels(rows: Scores, texts: tuple[str, ...]) -> Any:
    return lambda i: f"recall {rows[i, 0]:.1f}{'' if rows[i, 1] else ', came back short'}  {texts[i]!r}"


def _times(collection: Collection, index: Index, kind: IndexType, given: NDArray[Any]) -> tuple[float, float]:
    """Median and 95th percentile of the times of searches for one query, in milliseconds."""
    params = defaults(kind, index)
    for i in range(min(_WARM, len(given))):
        collection.search(given[i : i + 1], index.k, params)
    times = []
    for i in range(min(TIMED, len(given))):
        start = time.perf_counter()
        collection.search(given[i : i + 1], index.k, params)
        times.append((time.perf_counter() - start) * 1000)
    return float(np.percentile(times, 50)), float(np.percentile(times, 95))
