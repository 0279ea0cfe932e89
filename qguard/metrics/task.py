"""What users do with the model, on labeled data: the candidate's score, fp32's, and the share of it that is kept.

Pairs: the similarity that the model declares, against the label. Labels of two values ask for average precision, others for rank
and linear correlation.
Retrieval: trec_eval's measures (see :mod:`qguard.metrics.retrieval`) of each judged query over all documents, which are ranked by
that similarity in float64, by that of the codes where vectors are quantized; documents of equal score stand in descending order
of their ids, as trec_eval has them. trec_eval itself keeps scores in float32.
Candidates: the same measures of what a cross-encoder makes of each query's candidates, which alone are ranked and judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.errors import MeasurementProblem
from qguard.metrics import Comparison, Items, Metric, Rows
from qguard.metrics.agreement import AveragePrecision, Pearson, Retention
from qguard.metrics.ranking import best_first
from qguard.metrics.retrieval import MEASURES, measured
from qguard.metrics.scores import ranked as candidates_ranked
from qguard.metrics.statistics import Mean, Spearman, Statistic
from qguard.suites import Pair, Suite

DEPTH = 1000  # documents of a query that are judged, as in TREC's runs and MTEB's MAP
BLOCK = 64  # queries whose scores are held at once


def names(suite: Suite) -> list[str]:
    """The metrics that a suite's labels allow."""
    judged = suite.qrels or any(g.judged for g in suite.groups)
    return [m.name for m in (*_of_pairs(suite), *(_of_queries(suite) if judged else ()))]


def _of_pairs(suite: Suite) -> tuple[Metric, ...]:
    labels = {p.score for p in suite.pairs if p.score is not None}
    return () if not labels else BINARY if len(labels) == 2 else GRADED


def _of_queries(suite: Suite) -> tuple[Metric, ...]:
    """Of a large suite the first 100 documents of a query are known: too few for MAP, which looks at all of them."""
    return RETRIEVAL if suite.corpus is None else tuple(m for m in RETRIEVAL if not m.name.startswith("task.map"))


def parts(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """Rows and metrics of what the suite's labels allow: pairs, retrieval, or both.

    Raises:
        MeasurementProblem: for a suite without labels, and where a score does not exist or retention of it says nothing.
    """
    found = labelled_items(c)
    if not found:
        raise MeasurementProblem(
            f"suite {c.suite.name!r} has no labels: task quality needs pairs with a score or label, or queries with judgments"
        )
    for items, metrics in found:
        _defined(c, items.rows, metrics)
    return found


def labelled_items(c: Comparison) -> list[tuple[Items, tuple[Metric, ...]]]:
    """As :func:`parts`, whatever the scores are."""
    found: list[tuple[Items, tuple[Metric, ...]]] = []
    if metrics := _of_pairs(c.suite):
        found.append((_pairs(c, [p for p in c.suite.pairs if p.score is not None]), metrics))
    if c.suite.qrels:
        found.append((_queries(c), _of_queries(c.suite)))
    if any(g.judged for g in c.suite.groups):
        found.append((_candidates(c), _of_queries(c.suite)))
    return found


def _pairs(c: Comparison, pairs: list[Pair]) -> Items:
    """Per pair: the label, and the similarity in fp32 and of the candidate. Of binary labels the greater is 1."""
    a, b = [p.a for p in pairs], [p.b for p in pairs]
    labels = np.asarray([p.score for p in pairs], np.float64)
    if len(set(labels)) == 2:
        labels = (labels == labels.max()).astype(np.float64)
    rows = np.stack([labels, *(c.similarity.pairs(v[a], v[b]) for v in c.prepared)], axis=1)

    def label(i: int) -> str:
        left, right = c.suite.texts[a[i]][:45], c.suite.texts[b[i]][:45]
        return f"label {pairs[i].score:g}  {c.similarity.name} {rows[i, 1]:.3f} → {rows[i, 2]:.3f}  {left!r} | {right!r}"

    return Items(rows, tuple(p.slice for p in pairs), label, "pairs")


def _queries(c: Comparison) -> Items:
    """Per judged query: the four :data:`MEASURES` of fp32, then the same of the candidate, each in [0, 1]."""
    suite = c.suite
    judgments = suite.qrels if suite.corpus is None else suite.corpus.qrels
    judged = sorted(judgments)
    queries = np.asarray([suite.queries[q] for q in judged])
    columns = []
    for side in (0, 1):
        ranked = _searched(c, side, judged) if c.neighbours is None else c.neighbours.ranked(suite, side, judged)
        columns.append(np.asarray([measured(ranked[q], judgments[q]) for q in judged], np.float64))
    rows = np.concatenate(columns, axis=1)

    def label(i: int) -> str:
        return f"ndcg@10 {rows[i, 0]:.3f} → {rows[i, len(MEASURES)]:.3f}  {suite.texts[queries[i]][:90]!r}"

    return Items(rows, tuple(suite.slices[q] for q in queries), label, "queries")


def _candidates(c: Comparison) -> Items:
    """As :func:`_queries`, of the queries whose candidates somebody judged: each ranking is of these alone."""
    groups = [g for g in c.suite.groups if g.judged]
    rows = []
    for group in groups:
        scores = (side[list(group.members), 0] for side in (c.golden, c.candidate))
        rows.append([value for s in scores for value in measured(candidates_ranked(s), group.judged)])
    found = np.asarray(rows, np.float64)

    def label(i: int) -> str:
        return f"ndcg@10 {found[i, 0]:.3f} → {found[i, len(MEASURES)]:.3f}  {groups[i].query[:90]!r}"

    return Items(found, tuple(g.slice for g in groups), label, "queries")


def _searched(c: Comparison, side: int, judged: list[int]) -> dict[int, list[int]]:
    """Each judged query's first documents, best first; ``side`` 0 is fp32."""
    suite = c.suite
    queries, documents = np.asarray([suite.queries[q] for q in judged]), np.asarray(suite.documents)
    ids = suite.document_ids or tuple(map(str, range(len(documents))))
    # ties: best_first keeps this order, which is trec_eval's
    by_id = np.asarray(sorted(range(len(ids)), key=lambda d: ids[d], reverse=True))
    vectors = c.prepared[side]
    searched, ranked = vectors[documents[by_id]], {}
    for start in range(0, len(judged), BLOCK):
        some = queries[start : start + BLOCK]
        stored = c.vectors if side else None
        scores = c.similarity.scores(vectors[some], searched) if stored is None else stored.scores(documents[by_id], some)
        for q, row in zip(judged[start : start + BLOCK], best_first(scores, DEPTH), strict=True):
            ranked[q] = by_id[row].tolist()
    return ranked


def _defined(c: Comparison, rows: Rows, metrics: tuple[Metric, ...]) -> None:
    """Say why a score does not exist rather than that it is NaN."""
    words = {0: "labels", 1: "fp32's similarities", 2: "the candidate's similarities"} if metrics in (GRADED, BINARY) else {}
    for column, what in words.items():
        if len(rows) > 1 and np.ptp(rows[:, column]) == 0:
            raise MeasurementProblem(
                f"suite {c.suite.name!r}: {what} of all {len(rows)} labeled pairs are {rows[0, column]:g}; no correlation with "
                "a constant exists"
            )
    for metric in metrics:
        if not metric.of_fp32 or len(rows) < metric.min_items:
            continue
        if (value := float(metric.reduce(rows))) <= 0:
            raise MeasurementProblem(
                f"suite {c.suite.name!r}: {metric.name} is {value:.3g}, and a share of a score that is not above 0 means "
                f"nothing; do the labels fit these texts (a distance is no similarity), and this model?"
            )


FP32, RETENTION = "_fp32", "_retention"


def _displaced(r: Rows) -> Rows:
    """How much further the candidate ranks each pair from where its label ranks it than fp32 does, in [-1, 1]."""
    label, fp32, candidate = (np.argsort(np.argsort(r[:, k], kind="stable"), kind="stable") for k in range(3))
    return np.asarray((np.abs(candidate - label) - np.abs(fp32 - label)) / len(r), np.float64)


_SCORES = {  # name → what it says, its unit and where it comes from
    "spearman": ("rank correlation of scores with labels", "correlation in [-1, 1]", "Spearman 1904, mean ranks for ties"),
    "pearson": ("linear correlation of scores with labels", "correlation in [-1, 1]", "Pearson 1895, as scipy.stats.pearsonr"),
    "average_precision": (
        "average precision of scores for pairs of two labels", "score in [0, 1]", "as sklearn.metrics.average_precision_score",
    ),
    "ndcg@10": ("nDCG@10 of the judged queries", "score in [0, 1]", "trec_eval ndcg_cut_10"),
    "recall@10": ("share of the relevant documents among the first 10", "share in [0, 1]", "trec_eval recall_10"),
    "mrr@10": ("mean reciprocal rank of the first relevant document, cut at 10", "score in [0, 1]", "trec_eval recip_rank"),
    "map": (f"mean average precision over the first {DEPTH} documents", "score in [0, 1]", "trec_eval map"),
}  # fmt: skip


def _forms(name: str, scores: tuple[Statistic, Statistic], worst: Any = None, least: int = 1) -> tuple[Metric, Metric, Metric]:
    """A score of the candidate, that of fp32, and the candidate's over fp32's; ``scores`` are fp32's and the candidate's."""
    fp32, candidate = scores
    what, unit, source = _SCORES[name]

    def metric(suffix: str, reduce: Statistic, description: str, unit: str = unit, **more: Any) -> Metric:
        return Metric(
            f"task.{name}{suffix}", reduce, higher_is_better=True, unit=unit, source=source, description=description,
            min_items=least, **more,
        )  # fmt: skip

    return (
        metric("", candidate, what),
        metric(FP32, fp32, f"the same of fp32: {what}", of_fp32=True),
        metric(RETENTION, Retention(candidate, fp32), f"share of fp32's score that is kept: {what}", "ratio", worst=worst),
    )


def _lost(r: Rows) -> Rows:
    return np.asarray(r[:, 0] - r[:, len(MEASURES)], np.float64)


GRADED = (
    *_forms("spearman", (Spearman(0, 1), Spearman(0, 2)), _displaced, 3),
    *_forms("pearson", (Pearson(0, 1), Pearson(0, 2)), None, 3),
)
BINARY = _forms("average_precision", (AveragePrecision(0, 1), AveragePrecision(0, 2)), _displaced, 2)
RETRIEVAL = tuple(
    metric
    for i, name in enumerate(MEASURES)
    for metric in _forms(name, (Mean(i), Mean(i + len(MEASURES))), _lost if name == "ndcg@10" else None)
)
METRICS = (*GRADED, *BINARY, *RETRIEVAL)
