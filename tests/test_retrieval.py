"""The measures of retrieval: by hand, and equal to trec_eval's where its binding has a wheel."""

from __future__ import annotations

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qguard.metrics.retrieval import MEASURES, measured


def test_measures_of_a_small_ranking_by_hand():
    ndcg, recall, reciprocal, average = measured([7, 3, 9, 1], {3: 2, 1: 1, 5: 1, 9: 0, 7: -1})
    assert ndcg == pytest.approx((2 / log2(3) + 1 / log2(5)) / (2 / log2(2) + 1 / log2(3) + 1 / log2(4)), abs=1e-15)
    assert (recall, reciprocal, average) == (2 / 3, 1 / 2, (1 / 2 + 2 / 4) / 3)


def test_what_lies_beyond_rank_ten_counts_for_average_precision_alone():
    assert measured(range(11), {10: 1}) == (0, 0, 0, 1 / 11)
    assert measured(range(11), {9: 1}) == (1 / log2(11), 1, 1 / 10, 1 / 10)


@pytest.mark.parametrize("judged", [{}, {1: 0}, {1: -2, 2: 0}])
def test_a_query_without_a_relevant_document_counts_as_0(judged):
    assert measured([1, 2, 3], judged) == (0,) * len(MEASURES)


@given(
    ranking=st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=30),
    judged=st.dictionaries(st.integers(0, 40), st.integers(0, 12), min_size=1, max_size=30),
)
def test_measures_equal_trec_evals_to_the_last_bit(ranking, judged):
    """Of grades from 0 on, which are what its format has."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    names = ("ndcg_cut_10", "recall_10", "recip_rank", "map")
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {str(d): g for d, g in judged.items()}}, set(names))
    theirs = evaluator.evaluate({"q": {str(d): float(-rank) for rank, d in enumerate(ranking)}})["q"]
    cut = theirs["recip_rank"] if theirs["recip_rank"] > 1 / 10.5 else 0.0
    assert measured(ranking, judged) == (theirs["ndcg_cut_10"], theirs["recall_10"], cut, theirs["map"])
