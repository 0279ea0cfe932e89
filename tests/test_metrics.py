from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from qguard.errors import MeasurementProblem
from qguard.families import FAMILIES, measure, sampled
from qguard.metrics import Comparison
from qguard.metrics.ranking import items as ranking_items
from qguard.suites import Pair, Suite


def suite(n: int, pairs: int = 0, slices: int = 1) -> Suite:
    names = tuple(f"s{i % slices}" for i in range(n))
    return Suite("t", tuple(f"text {i}" for i in range(n)), names, tuple(Pair(i, i + 1, None, names[i]) for i in range(pairs)))


def values(comparison: Comparison, family: str) -> dict[str, float]:
    return {m.name: m.value for m in measure(comparison, family) if m.slice is None}


@pytest.fixture
def noisy():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(40, 16))
    return Comparison.of(suite(40, 30, 2), g, g + 0.3 * rng.normal(size=g.shape))


def test_identical_embeddings_lose_nothing(noisy):
    same = Comparison.of(noisy.suite, noisy.golden, noisy.golden)
    assert values(same, "embedding")["embedding.cosine_min"] == pytest.approx(1)
    assert values(same, "similarity")["similarity.max_error"] == 0
    ranking = values(same, "ranking")
    assert [ranking[f"ranking.{m}"] for m in ("overlap@10", "top1", "rbo", "ndcg@10", "inversions")] == pytest.approx(
        [1, 1, 1, 1, 0]
    )


def test_spearman_equals_scipy(noisy):
    g, c = noisy.units
    pairs = [(p.a, p.b) for p in noisy.suite.pairs]
    a, b = ([float(u[i] @ u[j]) for i, j in pairs] for u in (g, c))
    assert values(noisy, "similarity")["similarity.spearman"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_overlap_and_rbo_equal_a_plain_reference(noisy):
    rows = ranking_items(noisy).rows
    for i in (0, 7, 39):
        tops = []
        for u in noisy.units:
            scores = [(-float(u[i] @ u[j]), j) for j in range(40) if j != i]
            tops.append([j for _, j in sorted(scores)[:10]])
        assert rows[i, 0] == pytest.approx(len(set(tops[0]) & set(tops[1])) / 10)
        weights = [0.9**d for d in range(10)]
        agreement = [len(set(tops[0][: d + 1]) & set(tops[1][: d + 1])) / (d + 1) for d in range(10)]
        assert rows[i, 2] == pytest.approx(sum(w * x for w, x in zip(weights, agreement, strict=True)) / sum(weights))


def test_slices_are_the_same_reduction_over_their_rows(noisy):
    by = {m.slice: m.value for m in measure(noisy, "embedding") if m.name == "embedding.cosine_mean"}
    assert by[None] == pytest.approx((by["s0"] + by["s1"]) / 2)


def test_reductions_of_many_samples_at_once_are_those_of_each(noisy):
    quantized = noisy.quantize("int8", np.stack([noisy.golden.min(0), noisy.golden.max(0)]))
    draws = np.random.default_rng(0).integers(0, 30, (2, 3, 30))
    parts = [part for name in sampled(quantized.suite) for part in FAMILIES[name].parts_of(quantized)]
    assert len(parts) == 3  # nothing of truncation where vectors are whole
    for items, metrics in parts:
        rows = items.rows[draws]  # (2, 3, 30, columns)
        for metric in metrics:
            want = [[float(metric.reduce(rows[i, j])) for j in range(3)] for i in range(2)]
            assert np.asarray(metric.reduce(rows)) == pytest.approx(np.asarray(want), abs=1e-12), metric.name


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_values_are_errors_that_name_a_text(bad):
    g = np.eye(3)
    c = g.copy()
    c[1, 0] = bad
    with pytest.raises(MeasurementProblem, match="text 1"):
        Comparison.of(suite(3), g, c)


def test_zero_vectors_wrong_shapes_and_nothing_are_errors():
    with pytest.raises(MeasurementProblem, match="only zeros"):
        Comparison.of(suite(2), np.eye(2), np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(MeasurementProblem, match="shape"):
        Comparison.of(suite(2), np.eye(2), np.ones((2, 3)))
    with pytest.raises(MeasurementProblem, match="shape"):
        Comparison.of(suite(0), np.ones((0, 3)), np.ones((0, 3)))
