"""The family ``index``: a candidate's vectors in a store, searched as users search them, with the loss of each part told apart.

Each index is filled, proved to be used (:mod:`qguard.indexes.proof`) and measured once a session. One that fails the proof has no
value, and the family's test is then not measured; the others are judged.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.boundary import step
from qguard.encoders import Floats
from qguard.errors import MeasurementProblem, QguardError, UsageProblem, unknown
from qguard.gates import Gate
from qguard.gates.check import Check, PartlyMeasured
from qguard.gates.check import judge as judge_values
from qguard.indexes.existing import STALE, Existing
from qguard.indexes.existing import read as read_existing
from qguard.indexes.measures import Measures, Searches, measure
from qguard.indexes.settings import BINARY, HAMMING, INT8, Index
from qguard.indexes.stored import Rows, buckets_of
from qguard.indexes.stores import STORES, check
from qguard.indexes.truth import Exact
from qguard.judging.once import once
from qguard.kinds import DENSE, KINDS
from qguard.metrics import Items, Measured, Metric, MetricInfo, reduced
from qguard.metrics import index as metrics
from qguard.metrics.bounds import Bound
from qguard.metrics.index import BOUNDS, DERIVED, EXACT, LEAST_RECALL
from qguard.metrics.task import labelled_items
from qguard.vectors.quantized import FLOAT
from qguard.vectors.search import VectorFile

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision
    from qguard.suites import Suite

FAMILY = "index"
_CODES = {"int8": INT8, "binary": BINARY, "ubinary": BINARY}


def refuse(session: Session, precisions: list[Precision]) -> None:
    """Every index of ``--index`` is known, and its store does what it asks for.

    Raises:
        UsageProblem: for anything else, before anything is built.
    """
    for key in {key for gates in session.config.gates.values() for key in gates if key.startswith(f"{FAMILY}.")}:
        part = re.search(r"\[([^\]*]+)\]$", key)
        if part and part[1].split(" ")[0] not in session.config.index:
            raise UsageProblem(
                f"gate {key} would never be judged: {unknown('index', part[1].split(' ')[0], session.config.index)}"
            )
    for name in session.indexes:
        index = session.config.index_settings(name)
        for precision in precisions:
            for model in session.config.models:
                check_target(session, index, precision, model)


def check_target(session: Session, index: Index, precision: Precision, model: str) -> None:
    """The store does what the index asks for with the vectors of a precision of a model.

    Raises:
        UsageProblem: for anything else.
    """
    if (kind := session.kind(model)) != DENSE:
        raise UsageProblem(
            f"--index {index.name}: model {model!r} gives {KINDS[kind].gives}; an index holds one vector for each text"
        )
    check(index, vectors_of(index, precision), metric_of(session, index, precision, model))


def vectors_of(index: Index, precision: Precision) -> str:
    """How vectors of a precision are stored in an index.

    Raises:
        UsageProblem: where index and precision say different things, or no store holds such codes.
    """
    if precision.vectors == FLOAT:
        return index.vectors
    if precision.vectors not in _CODES:
        raise UsageProblem(
            f"--index {index.name}: no store holds {precision.vectors} vectors; give {precision.base}+int8 or +binary"
        )
    return _CODES[precision.vectors]


def metric_of(session: Session, index: Index, precision: Precision, model: str) -> str:
    """What vectors are ranked by in an index: what the project says, else what the model ranks by; of bits their number."""
    if vectors_of(index, precision) == BINARY:
        return index.metric if index.metric == HAMMING else HAMMING
    return index.metric or session.similarity(model).name


def judge_index(session: Session, target: Target) -> list[Check]:
    """The checks of all indexes.

    Raises:
        PartlyMeasured: when some could not be measured; it holds the checks of the others.
    """
    checks: list[Check] = []
    problems = []
    for name in session.indexes:
        try:
            measured, exact = values(session, target, name)
        except QguardError as e:
            problems.append(str(e))
            continue
        checks += _judged(session, target, name, measured, exact)
    if problems:
        raise PartlyMeasured("; ".join(problems), checks)
    return checks


def facts(session: Session, target: Target) -> list[dict[str, Any]]:
    """What a report says of each index that was measured."""
    found = []
    for name in session.indexes:
        try:
            found.append(_measured(session, target, name).to_json())
        except QguardError:
            continue  # which the family's test tells
    return found


def values(session: Session, target: Target, name: str) -> tuple[list[Measured], bool]:
    """Every value of one index, and whether it promises every nearest neighbor."""
    found = _measured(session, target, name)
    suite = session.suite(target.suite, target.model)
    out = _of_items(suite, found.items, metrics.QUERIES, name, (found.split_words, found.proof.words))
    kept = retained(session, target, found)
    out += [] if kept is None else _of_items(suite, kept, (metrics.RETAINED,), name)
    if found.stale is not None:
        out += _of_items(suite, found.stale, (metrics.STALE,), name)
    for share, items in found.filtered.items():
        out += _of_items(suite, items, metrics.FILTERS, f"{name} {share:.1%}".replace(".0%", "%"))
    plain: dict[MetricInfo, float | None] = {
        metrics.METRIC_FIT: found.metric_fit, metrics.SCORE_ERROR: found.proof.score_error, metrics.P50: found.p50,
        metrics.P95: found.p95, metrics.BUILD: found.filled.build_seconds if found.filled else None, metrics.BYTES: found.bytes,
    }  # fmt: skip
    for info, value in plain.items():
        if value is not None:
            words = (found.fit_words,) if info is metrics.METRIC_FIT and found.fit_words else ()
            out.append(Measured(info.name, name, float(value), found.queries, info.higher_is_better, words, noun="queries"))
    return out, found.exact


def _of_items(suite: Suite, items: Items, wanted: Any, part: str, words: tuple[str, ...] = ()) -> list[Measured]:
    """Values over all queries, as a part of the family's: an index, or a filter of it."""
    chosen: tuple[Metric, ...] = tuple(wanted)
    every = replace(items, slices=(None,) * len(items.rows))
    return [
        replace(m, slice=part, worst=(*(words if m.name == metrics.OVERLAP.name else ()), *m.worst))
        for m in reduced(every, chosen, suite)
    ]


def _judged(session: Session, target: Target, name: str, measured: list[Measured], exact: bool) -> list[Check]:
    """Checks with the project's gates, of which the one that names the most wins, or the defaults."""
    gates = [g for g in session.gates(target.precision, target.model) if g.metric.startswith(f"{FAMILY}.")]
    checks = []
    bounds = BOUNDS | (EXACT if exact else {}) | _derived(session, target)
    for m in measured:
        own = {g.slice: g for g in gates if g.metric == m.name}
        gate = next((own[part] for part in (m.slice, name, "*", None) if part in own), None)
        given = replace(m, bound=bounds.get(m.name))
        chosen = [] if gate is None else [Gate(gate.metric, m.slice, gate.bound, gate.on, gate.origin, gate.tables)]
        checks += judge_values([given], chosen, target.suite, session.intervals)
    return checks


def _derived(session: Session, target: Target) -> dict[str, Bound]:
    """Bounds of what model and index lose together: each may lose what it may lose alone."""
    own = {g.metric: g.bound for g in session.gates(target.precision, target.model) if g.slice is None}
    return {name: Bound(">=", round(own[of].number - (1 - LEAST_RECALL), 4)) for name, of in DERIVED.items() if of in own}


@once
def _measured(session: Session, target: Target, name: str) -> Measures:
    index = session.config.index_settings(name)
    with step(f"measuring index {name!r} with {target}"):
        return measure(index, searches(session, target, index))


def searches(session: Session, target: Target, index: Index) -> Searches:
    """What an index is filled with and asked for, and what its answers are held against."""
    suite, golden = session.suite(target.suite, target.model), session.golden(target.model, target.suite)
    kind, similarity = vectors_of(index, target.precision), session.similarity(target.model)
    metric = metric_of(session, index, target.precision, target.model)
    candidate = session.cut(target, session.embeddings(target))
    ranges = session.ranges(target)
    queries = list(suite.queries) if suite.queries else list(range(len(suite.texts)))
    own = np.full(len(queries), -1)
    if suite.corpus is not None:
        documents: Floats | VectorFile = session.corpus_vectors(target)
        ids = [suite.corpus.id(int(d)) for d in _first_documents(suite)]
        fp32 = None
    else:
        texts = list(suite.documents) if suite.queries else list(range(len(suite.texts)))
        documents = candidate[texts]
        ids = list(suite.document_ids) if suite.queries and suite.document_ids else [suite.texts[t] for t in texts]
        if not suite.queries:
            own = np.arange(len(queries))
        vectors = session.cut(target, golden.vectors)
        fp32 = Exact(vectors[queries], vectors[texts], similarity.name, own)
    told: tuple[str, ...] = ()
    stale = None
    if index.existing:
        told, found = _existing(suite, index, fp32, metric)
        rows, stale = found.rows, _stale(found, told)
    else:
        rows = Rows(documents, kind, buckets_of(ids), ranges)
    plain = Exact(candidate[queries], documents, similarity.name, own)
    kept = None
    if golden.retrieved is not None:
        kept = golden.retrieved.rows.astype(np.int64), np.asarray(golden.retrieved.scores, np.float64)
    label = [suite.texts[q][:60] for q in queries]
    return Searches(rows, candidate[queries], metric, own, plain, fp32, kept, tuple(label), told, stale)


def _existing(suite: Suite, index: Index, fp32: Exact | None, metric: str) -> tuple[tuple[str, ...], Existing]:
    """The ids of the documents as the collection has them, and what it holds.

    Raises:
        MeasurementProblem: of a large suite, or for other documents or vectors than the suite's.
    """
    if fp32 is None:
        raise MeasurementProblem(
            f"index {index.name!r} exists already, and suite {suite.name!r} is large: fp32's vectors of its documents are not "
            "kept, so the rows cannot be compared with them; judge it on a smaller suite"
        )
    documents = suite.documents if suite.queries else range(len(suite.texts))
    named = suite.document_ids if suite.queries and STORES[index.store].fields else ()
    ids = tuple(map(str, named or range(len(documents))))
    return ids, read_existing(index, ids, fp32.documents, metric)


def _stale(found: Existing, ids: tuple[str, ...]) -> Items:
    """A row a document: whether its vector is stale, and its cosine to fp32's."""
    rows = np.stack([found.cosines < STALE, found.cosines], axis=1).astype(np.float64)
    return Items(rows, (None,) * len(rows), lambda i: f"cosine {rows[i, 1]:.3f}  document {ids[i]!r}", "documents")


def _first_documents(suite: Suite) -> Any:
    """Of each row of a large collection the first document with its text."""
    assert suite.corpus is not None
    first = np.full(suite.corpus.rows, -1, np.int64)
    numbers = np.arange(suite.corpus.documents)[::-1]
    first[suite.corpus.row_of[::-1]] = numbers
    return first


def retained(session: Session, target: Target, found: Measures) -> Items | None:
    """Of each judged query nDCG@10 of fp32 and of the index's answers; ``None`` for a suite without judgments."""
    from qguard.metrics.retrieval import measured as of_ranking

    suite = session.suite(target.suite, target.model)
    judgments = suite.qrels if suite.corpus is None else suite.corpus.qrels
    if not judgments or not suite.queries:
        return None
    judged = sorted(judgments)
    fp32 = _fp32_scores(session, target)
    rows = []
    for q in judged:
        hits = found.hits[q]
        hits = hits[hits >= 0]
        ranking = (hits if suite.corpus is None else suite.corpus.documents_of(hits)).tolist()
        rows.append(of_ranking(ranking, judgments[q])[0])
    table = np.stack([fp32, np.asarray(rows, np.float64)], axis=1)
    if table[:, 0].mean() <= 0:
        raise MeasurementProblem(f"suite {suite.name!r}: fp32's nDCG@10 is 0, and a share of it means nothing")

    def label(i: int) -> str:
        return f"ndcg@10 {table[i, 0]:.3f} → {table[i, 1]:.3f}  {suite.texts[suite.queries[judged[i]]][:80]!r}"

    return Items(table, (None,) * len(table), label, "queries")


@once
def _fp32_scores(session: Session, target: Target) -> Any:
    """nDCG@10 of fp32 for each judged query, as the family ``task`` counts it."""
    found = [
        items for items, chosen in labelled_items(session.comparison(target.plain)) if "task.ndcg@10" in {m.name for m in chosen}
    ]
    return found[0].rows[:, 0]
