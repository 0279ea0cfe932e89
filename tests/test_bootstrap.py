"""Intervals over items: those of scipy's bootstrap, exact ones, and words where there is none."""

from __future__ import annotations

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from scipy import stats

from qguard.families import FAMILIES, measure, sampled
from qguard.metrics import Comparison
from qguard.metrics.bootstrap import DETECTABLE, _sizes, cannot_tell, replicates, seed_of, uncertainty
from qguard.metrics.statistics import Absolute, Mean, Quantile, Ratio, Share, Spearman
from tests.processes import python
from tests.test_metrics import noisy, suite  # noqa: F401 - a fixture


@pytest.fixture
def rows():
    """fp32's and the candidate's score of 300 items."""
    rng = np.random.default_rng(0)
    fp32 = rng.beta(4, 2, 300)
    return np.stack([fp32, fp32 + rng.normal(-0.02, 0.05, 300)], axis=1)


def test_counts_give_what_the_drawn_rows_give(noisy):  # noqa: F811
    quantized = noisy.quantize("int8", np.stack([noisy.golden.min(0), noisy.golden.max(0)]))
    counted = 0
    for items, metrics in chain.from_iterable(FAMILIES[name].parts_of(quantized) for name in sampled(quantized.suite)):
        found = items.rows
        for metric in metrics:
            if hasattr(metric.reduce, "weighted"):
                counted += 1
                drawn = replicates(lambda r, reduce=metric.reduce: reduce(r), found, 7, 300)
                assert replicates(metric.reduce, found, 7, 300) == pytest.approx(drawn, abs=1e-12, nan_ok=True), metric.name
    assert counted > 8


@pytest.mark.parametrize(
    ("reduce", "plain", "within"),
    [
        (Mean(0), lambda a, b: a.mean(), 0.06),
        (Ratio(Mean(1), Mean(0)), lambda a, b: b.mean() / a.mean(), 0.06),
        (Spearman(0, 1), lambda a, b: stats.spearmanr(a, b).statistic, 0.15),  # on Fisher's scale, not BCa
    ],
)
def test_the_interval_is_that_of_scipys_paired_bootstrap(rows, reduce, plain, within):
    """Within a part of its width: both draw at random."""
    found = uncertainty(reduce, rows, 1)
    want = stats.bootstrap(
        tuple(rows.T), plain, paired=True, vectorized=False, n_resamples=2000, method="BCa", rng=np.random.default_rng(2)
    )
    width = want.confidence_interval.high - want.confidence_interval.low
    assert found.interval == pytest.approx(tuple(want.confidence_interval), abs=within * width)
    assert found.error == pytest.approx(want.standard_error, rel=0.1)
    assert found.detectable == pytest.approx((stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * found.error)


def test_one_seed_one_interval(rows):
    seed = seed_of("a" * 64, "ranking", None)
    assert uncertainty(Mean(0), rows, seed) == uncertainty(Mean(0), rows, seed)
    others = {seed_of("b" * 64, "ranking", None), seed_of("a" * 64, "task", None), seed_of("a" * 64, "ranking", "legal")}
    assert len(others - {seed}) == 3
    assert uncertainty(Mean(0), rows, seed).low != uncertainty(Mean(0), rows, others.pop()).low


def test_a_quantile_has_the_order_statistics_that_hold_it():
    values = np.arange(1440.0)[:, None]
    found = uncertainty(Quantile(0, 0.01), values, 0)
    low, high = (int(v) + 1 for v in found.interval)  # their ranks
    holds = stats.binom.cdf(high - 1, 1440, 0.01) - stats.binom.cdf(low - 1, 1440, 0.01)
    assert 0.95 <= holds < 0.97
    upper = uncertainty(Quantile(0, 0.99), -values, 0)
    assert upper.interval == (-found.interval[1], -found.interval[0])


@pytest.mark.parametrize(("q", "n", "words"), [(0, 900, "minimum"), (1, 900, "maximum"), (0.01, 64, "at least 368")])
def test_the_worst_item_has_no_interval_and_says_why(q, n, words):
    found = uncertainty(Quantile(0, q), np.random.default_rng(0).random((n, 1)), 0, "texts")
    assert found.interval is None
    assert found.detectable is None
    assert found.tail
    assert words in found.note


def test_a_share_has_the_exact_interval():
    values = np.zeros((127, 1))
    values[:120] = 1
    low, high = uncertainty(Share(0), values, 0).interval
    for end, tail in ((low, 0.975), (high, 0.025)):  # mid-P: half of the chance of what was found
        assert stats.binom.cdf(119, 127, end) + stats.binom.pmf(120, 127, end) / 2 == pytest.approx(tail, abs=1e-6)


def test_items_that_lost_nothing_bound_what_others_may_lose():
    ones = np.ones((60, 1))
    assert uncertainty(Mean(0, best=1.0), ones, 0).interval == pytest.approx((0.025 ** (1 / 60), 1))
    assert uncertainty(Mean(0, best=0.0), 0 * ones, 0).interval == pytest.approx((0, 1 - 0.025 ** (1 / 60)))
    assert uncertainty(Share(0), ones, 0).interval == pytest.approx((0.05 ** (1 / 60), 1), abs=1e-6)


def test_too_few_items_that_differ_give_words():
    values = np.zeros((400, 1))
    assert "does not vary" in uncertainty(Mean(0), values, 0, "texts").note
    values[0] = 1
    assert "rests on 1 of them" in uncertainty(Mean(0), values, 0, "texts").note
    assert uncertainty(Mean(0), values, 0, "texts").interval is None


def test_the_interval_of_a_size_reaches_zero_where_the_sign_is_open():
    values = np.random.default_rng(0).normal(0.01, 1, (400, 1))
    signed, size = uncertainty(Mean(0), values, 3), uncertainty(Absolute(Mean(0)), values, 3)
    assert signed.low < 0 < signed.high
    assert size.low == 0
    assert max(-signed.low, signed.high) < size.high < 1.1 * max(-signed.low, signed.high)
    assert uncertainty(Absolute(Mean(0)), values - 5, 3).low == pytest.approx(-uncertainty(Mean(0), values - 5, 3).high)


@pytest.mark.parametrize("size", [0, 0.3, 0.7, 1, 1.3, 1.7, 2, 2.5, 3])
def test_the_size_of_a_mean_is_held_as_often_as_promised(size):
    grid = np.linspace(0, 6.5, 261)
    low, high = np.array([_sizes(t) for t in grid]).T
    found = np.abs(size + np.random.default_rng(1).standard_normal(100_000))
    held = (np.interp(found, grid, low) <= size) & (size <= np.interp(found, grid, high))
    assert held.mean() == pytest.approx(0.95, abs=0.005)


def test_memory_is_bounded():
    values = np.random.default_rng(0).random((50_000, 1))
    tracemalloc.start()
    found = replicates(Mean(0), values, 0, 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.std() > 0
    assert peak < 40e6  # all counts at once would be 16 MB a thousandth of the full draws


def test_groups_of_many_rows_give_the_interval_that_single_ones_give():
    values = np.random.default_rng(0).weibull(0.7, (1600, 1))
    fewer = uncertainty(Mean(0), values[:1500], 0)
    more = uncertainty(Mean(0), values, 0)
    assert (more.high - more.low) == pytest.approx((fewer.high - fewer.low) * (1500 / 1600) ** 0.5, rel=0.1)


def test_what_a_suite_cannot_tell_is_said_with_as_many_digits_as_differ():
    assert cannot_tell(0.99, 0.98, 60, "queries", 0.02) == "60 queries cannot tell 0.99 from 0.98: they resolve 0.02"
    assert cannot_tell(0.99, 0.98, 60, "queries", 0.005) == ""
    assert cannot_tell(0.99, 0.98, 60, "queries", None) == ""
    assert "0.9704 from 0.9700" in cannot_tell(0.9704, 0.97, 60, "queries", 0.005)


def test_slices_have_their_own_items(noisy):  # noqa: F811
    found = {m.slice: m for m in measure(noisy, "ranking") if m.name == "ranking.overlap@10"}
    whole, part = (found[s].uncertainty() for s in (None, "s0"))
    assert part.error > whole.error
    assert found["s0"].noun == "texts"
    assert found["s0"].uncertainty() is part  # computed once


def test_equal_embeddings_vary_in_nothing():
    golden = np.random.default_rng(0).normal(size=(40, 16))
    same = Comparison.of(suite(40, 30), golden, golden)
    values = {m.name: m for f in sampled(same.suite) for m in measure(same, f)}
    assert values["ranking.overlap@10"].uncertainty().low > 0.9
    assert values["embedding.cosine_mean"].uncertainty().interval is None
    assert "does not vary" in values["embedding.cosine_mean"].uncertainty().note


def test_no_interval_imports_scipy():
    code = (
        "import sys, numpy as np; from qguard.metrics.bootstrap import uncertainty; from qguard.metrics.statistics import *\n"
        "rows = np.random.default_rng(0).random((400, 2))\n"
        "for s in (Mean(0), Spearman(0, 1), Quantile(0, 0.01), Ratio(Mean(0), Mean(1)), Share(lambda r: r[..., 0] > 0.5)):\n"
        "    assert uncertainty(s, rows, 0).interval\n"
        "print(sorted(m for m in sys.modules if m.startswith('scipy')))"
    )
    assert python(code) == "[]"


def test_the_smallest_drop_is_found_four_times_of_five():
    """A gate 1.64 standard errors below the true value: 1 alarm of 20; a drop of the stated size is stopped 4 times of 5."""
    rng = np.random.default_rng(0)
    error = 0.05 / np.sqrt(200)
    bound = 0.9 - stats.norm.ppf(0.95) * error
    for drop, stopped in ((0.0, 0.05), (DETECTABLE * error, 0.8)):
        means = rng.normal(0.9 - drop, 0.05, (4000, 200)).mean(1)
        assert (means < bound).mean() == pytest.approx(stopped, abs=0.03)
