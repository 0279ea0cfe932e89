"""Every metric on arrays that Hypothesis makes up: bounds, symmetry, permutation, and a slow reference that is obviously right.

``--hypothesis-profile thorough`` tries a thousand arrays for each test.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qguard.encoders import Encoder
from qguard.encoders.pooling import Head
from qguard.errors import MeasurementProblem
from qguard.families import FAMILIES, measure
from qguard.families.own import COUNT
from qguard.gates import Gate
from qguard.gates.check import judge
from qguard.hunting.pairs import most_moved, unit
from qguard.judging.invariance import measure_invariance
from qguard.metrics import Comparison, Measured
from qguard.metrics.agreement import AveragePrecision, Pearson
from qguard.metrics.bootstrap import uncertainty
from qguard.metrics.bounds import Bound
from qguard.metrics.ranking import best_first
from qguard.metrics.statistics import Mean, Quantile, Ratio, Share, Spearman
from qguard.models.pipeline import Pipeline
from qguard.robustness.metrics import PROPERTIES, Tried, reduced
from qguard.suites import Pair, Suite
from qguard.vectors.quantized import KINDS, SCALAR, Vectors, quantize
from tests import profiles  # noqa: F401

# few values, so that ties are common, and any others, far from overflow
VALUES = st.integers(-4, 4).map(lambda i: i / 4) | st.floats(-100, 100, allow_nan=False, width=32)
IN_UNIT = ("cosine_mean", "cosine_p01", "cosine_min")


def vectors(n: int, dim: int) -> st.SearchStrategy[np.ndarray]:
    """Rows none of which is so short that its direction is lost."""
    return arrays(np.float32, (n, dim), elements=VALUES).filter(lambda a: bool((np.linalg.norm(a, axis=1) > 1e-3).all()))


@st.composite
def comparisons(draw, least: int = 3, most: int = 9, retrieval: bool = False, near: bool = False) -> Comparison:
    n, dim = draw(st.integers(least, most)), draw(st.integers(2, 5))
    golden = draw(vectors(n, dim))
    candidate = (
        draw(vectors(n, dim))
        if not near
        else golden + draw(arrays(np.float32, (n, dim), elements=st.floats(-0.125, 0.125, width=32)))
    )
    assume((np.linalg.norm(candidate, axis=1) > 1e-3).all())
    indices = st.integers(0, n - 1)
    found = draw(st.lists(st.tuples(indices, indices), max_size=6))
    slices = tuple(draw(st.lists(st.sampled_from(["a", "b", None]), min_size=n, max_size=n)))
    # as readers make them: each pair has the slice of its row
    pairs = tuple(Pair(a, b, None, slices[a]) for a, b in found)
    documents = tuple(draw(st.lists(indices, min_size=2, max_size=n, unique=True))) if retrieval else ()
    return Comparison.of(Suite("s", tuple(f"text {i}" for i in range(n)), slices, pairs, documents=documents), golden, candidate)


def values(c: Comparison, name: str) -> dict[str, float]:
    return {m.name.partition(".")[2]: m.value for m in measure(c, name) if m.slice is None}


def measured(c: Comparison, name: str) -> dict[str, float] | None:
    """Values, or ``None`` where a correlation does not exist."""
    try:
        return values(c, name)
    except MeasurementProblem:
        return None


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """In plain Python, summed exactly."""
    x, y = [float(v) for v in a], [float(v) for v in b]
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(
        math.fsum(p * p for p in x) * math.fsum(q * q for q in y)
    )


@given(c=comparisons())
def test_embedding_equals_a_slow_reference_and_keeps_its_bounds(c):
    found = values(c, "embedding")
    cosines = [cosine(g, q) for g, q in zip(c.golden, c.candidate, strict=True)]
    norms = [abs(math.hypot(*q) / math.hypot(*g) - 1) for g, q in zip(c.golden, c.candidate, strict=True)]
    assert found["cosine_mean"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)
    assert found["cosine_min"] == pytest.approx(min(cosines), abs=1e-9)
    assert found["cosine_p01"] == pytest.approx(float(np.percentile(cosines, 1)), abs=1e-9)
    assert found["norm_error"] == pytest.approx(max(norms), rel=1e-9, abs=1e-12)
    assert all(-1 - 1e-9 <= found[name] <= 1 + 1e-9 for name in IN_UNIT)
    assert found["cosine_min"] <= found["cosine_p01"] + 1e-12


@given(c=comparisons(), factor=st.floats(0.125, 8, width=32))
def test_cosines_do_not_depend_on_length_nor_on_which_side_is_which(c, factor):
    longer, swapped = Comparison.of(c.suite, c.golden, c.candidate * factor), Comparison.of(c.suite, c.candidate, c.golden)
    for name in IN_UNIT:
        assert values(longer, "embedding")[name] == pytest.approx(values(c, "embedding")[name], abs=1e-9)
        assert values(swapped, "embedding")[name] == pytest.approx(values(c, "embedding")[name], abs=1e-9)


@given(c=comparisons())
def test_similarity_equals_a_slow_reference(c):
    pairs = [(p.a, p.b) for p in c.suite.pairs] or [(i, i + 1) for i in range(len(c.golden) - 1)]
    before, after = ([cosine(v[a], v[b]) for a, b in pairs] for v in (c.golden, c.candidate))
    errors = [abs(x - y) for x, y in zip(before, after, strict=True)]
    found = measured(c, "similarity")
    if found is None:
        assert len(pairs) < 3 or np.ptp(before) < 1e-9 or np.ptp(after) < 1e-9
        return
    assert found["max_error"] == pytest.approx(max(errors), abs=1e-9)
    assert found["p99_error"] == pytest.approx(float(np.percentile(errors, 99)), abs=1e-9)
    assert found["bias"] == pytest.approx(abs(sum(after) - sum(before)) / len(pairs), abs=1e-9)
    assert 0 <= found["threshold_flips"] <= 1
    assert -1 - 1e-9 <= found["spearman"] <= 1 + 1e-9


@given(c=comparisons())
def test_similarity_is_symmetric(c):
    assert measured(c, "similarity") == pytest.approx(
        measured(Comparison.of(c.suite, c.candidate, c.golden), "similarity"), abs=1e-12
    )


def ranked(c: Comparison, side: int, query: int) -> list[int]:
    """Documents of a query, best first; equal scores in the order of documents."""
    documents = list(c.suite.documents) or list(range(len(c.golden)))
    scores = [float(c.units[side][query] @ c.units[side][d]) for d in documents]
    order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))
    return [documents[i] for i in order if documents[i] != query]


@given(c=comparisons(retrieval=True) | comparisons())
def test_ranking_equals_a_slow_reference_and_keeps_its_bounds(c):
    # products of single rows and of whole matrices may differ in the last bit: only clear orders are compared
    units = [np.asarray(u) for u in c.units]
    for u in units:
        scores = np.sort(u @ u.T, axis=1)
        assume((np.diff(scores, axis=1) > 1e-9).all())
    found = values(c, "ranking")
    assert all(0 <= v <= 1 + 1e-12 for v in found.values())
    overlap, top1, rbo, ndcg = [], [], [], []
    for q in range(len(c.golden)):
        k = min(10, len(c.suite.documents or c.golden) - 1)
        gold, now = ranked(c, 0, q)[:k], ranked(c, 1, q)[:k]
        overlap.append(len(set(gold) & set(now)) / k)
        top1.append(gold[0] == now[0])
        weights = [0.9**d for d in range(k)]
        rbo.append(sum(w * len(set(gold[: d + 1]) & set(now[: d + 1])) / (d + 1) for d, w in enumerate(weights)) / sum(weights))
        gain = {d: k - i for i, d in enumerate(gold)}
        ideal = sum((k - i) / math.log2(i + 2) for i in range(k))
        ndcg.append(sum(gain.get(d, 0) / math.log2(i + 2) for i, d in enumerate(now)) / ideal)
    for name, wanted in (("overlap@10", overlap), ("top1", top1), ("rbo", rbo), ("ndcg@10", ndcg)):
        assert found[name] == pytest.approx(sum(wanted) / len(wanted), abs=1e-9), name


@given(draw=st.data(), queries=st.integers(1, 4), documents=st.integers(1, 12), k=st.integers(1, 14))
def test_best_first_is_a_stable_sort_that_stops_at_k(draw, queries, documents, k):
    tied = st.integers(-2, 2).map(float) | st.just(-math.inf)
    scores = draw.draw(arrays(np.float64, (queries, documents), elements=tied))
    assert best_first(scores, k).tolist() == [sorted(range(documents), key=lambda i: -row[i])[:k] for row in scores]


@given(c=comparisons())
def test_nothing_is_lost_by_the_same_vectors(c):
    same = Comparison.of(c.suite, c.golden, c.golden)
    assert values(same, "embedding")["cosine_min"] == pytest.approx(1)
    ranking = values(same, "ranking")
    assert [ranking[n] for n in ("overlap@10", "top1", "rbo", "ndcg@10")] == pytest.approx([1, 1, 1, 1])
    assert ranking["inversions"] == 0
    if found := measured(same, "similarity"):
        assert found["max_error"] == found["bias"] == found["threshold_flips"] == 0
        assert found["spearman"] == pytest.approx(1)


@given(c=comparisons(near=True), draw=st.data())
def test_the_order_of_texts_does_not_matter(c, draw):
    order = draw.draw(st.permutations(range(len(c.golden))))
    place = {old: new for new, old in enumerate(order)}
    pairs = tuple(Pair(place[p.a], place[p.b], p.score, p.slice) for p in c.suite.pairs)
    moved = Suite("s", tuple(c.suite.texts[i] for i in order), tuple(c.suite.slices[i] for i in order), pairs)
    other = Comparison.of(moved, c.golden[order], c.candidate[order])
    assert values(other, "embedding") == pytest.approx(values(c, "embedding"), abs=1e-9)
    if pairs:
        assert measured(other, "similarity") == pytest.approx(measured(c, "similarity"), abs=1e-9)
    if all((np.diff(np.sort(u @ u.T, axis=1), axis=1) > 1e-9).all() for u in c.units):  # ties go by the order of documents
        assert values(other, "ranking") == pytest.approx(values(c, "ranking"), abs=1e-9)


@given(c=comparisons(), name=st.sampled_from(("embedding", "similarity", "ranking")))
def test_a_slice_is_the_same_reduction_over_its_rows(c, name):
    parts = FAMILIES[name].parts_of(c)
    try:
        found = measure(c, name)
    except MeasurementProblem:
        return
    for m in found:
        ((items, metric),) = ((items, x) for items, metrics in parts for x in metrics if x.name == m.name)
        at = [i for i, s in enumerate(items.slices) if m.slice is None or s == m.slice]
        assert m.items == len(at)
        assert m.value == pytest.approx(float(metric.reduce(items.rows[at])), nan_ok=True)


LABELS = st.lists(st.integers(0, 3), min_size=3, max_size=12)


@st.composite
def columns(draw, n: int = 2) -> np.ndarray:
    size = draw(st.integers(3, 12))
    return draw(arrays(np.float64, (size, n), elements=st.integers(-3, 3) | st.floats(-10, 10, width=32)))


@given(rows=columns())
def test_rank_and_linear_correlation_equal_scipys(rows):
    varies = all(np.ptp(rows[:, k]) > 0 for k in (0, 1))
    found = float(Spearman(0, 1)(rows))
    assert math.isnan(found) != varies
    if varies:
        assert found == pytest.approx(stats.spearmanr(rows[:, 0], rows[:, 1]).statistic, abs=1e-9)
        assert found == pytest.approx(float(Spearman(1, 0)(rows)), abs=1e-12)
        assert -1 - 1e-12 <= found <= 1 + 1e-12
    if all(np.std(rows[:, k]) > 1e-3 for k in (0, 1)):
        assert float(Pearson(0, 1)(rows)) == pytest.approx(stats.pearsonr(rows[:, 0], rows[:, 1]).statistic, abs=1e-9)


@given(rows=columns())
def test_average_precision_equals_a_slow_reference(rows):
    rows[:, 0] = rows[:, 0] > 0
    positive = [r for r in rows if r[0]]
    shares = [Fraction(sum(o[1] >= r[1] for o in positive), sum(o[1] >= r[1] for o in rows)) for r in positive]
    found = float(AveragePrecision(0, 1)(rows))
    assert found == pytest.approx(float(sum(shares) / len(shares))) if shares else math.isnan(found)


@given(rows=columns(), draw=st.data())
def test_a_weighted_statistic_is_that_of_repeated_rows(rows, draw):
    rows[:, 1] = np.abs(rows[:, 1]) + 1
    counts = draw.draw(arrays(np.float64, (len(rows), 2), elements=st.integers(0, 3)))
    assume((counts.sum(0) >= 3).all())
    labelled = rows.copy()
    labelled[:, 0] = labelled[:, 0] > 0
    for statistic, table in (
        (Mean(0), rows), (Share(0), labelled), (Ratio(Mean(0), Mean(1)), rows), (Spearman(0, 1), rows),
        (AveragePrecision(0, 1), labelled),
    ):  # fmt: skip
        found = statistic.weighted(table, counts)
        for b in range(2):
            repeated = np.repeat(table, counts[:, b].astype(int), axis=0)
            assert found[b] == pytest.approx(float(statistic(repeated)), abs=1e-7, nan_ok=True), statistic


@given(rows=columns(1), q=st.sampled_from([0, 0.01, 0.5, 0.99, 1]))
def test_quantiles_and_intervals(rows, q):
    value = float(Quantile(0, q)(rows))
    assert rows.min() <= value <= rows.max()
    assert value == pytest.approx(float(np.quantile(rows[:, 0], q)))
    for reduce in (Mean(0), Quantile(0, q)):
        spread = uncertainty(reduce, rows, 1)
        assert spread == uncertainty(reduce, rows, 1)
        if spread.interval is None:
            assert spread.note
        else:
            assert spread.interval[0] <= spread.interval[1]


@st.composite
def graded(draw) -> Comparison:
    """A retrieval suite: two queries, up to seven documents, grades from 0 to 3; and pairs with a score."""
    documents = draw(st.integers(2, 7))
    n = documents + 2
    golden = draw(vectors(n, 3))
    candidate = draw(st.just(golden) | vectors(n, 3))
    qrels = {q: draw(st.dictionaries(st.integers(0, documents - 1), st.integers(0, 3), min_size=1)) for q in range(2)}
    pairs = tuple(Pair(i, i + 1, float(draw(st.integers(0, 4))), None) for i in range(n - 1))
    suite = Suite(
        "s", tuple(f"text {i}" for i in range(n)), (None,) * n, pairs, (0, 1), tuple(range(2, n)),
        {q: {d: float(g) for d, g in judged.items()} for q, judged in qrels.items()}, ("q0", "q1"),
        tuple(f"d{i}" for i in range(documents)),
    )  # fmt: skip
    return Comparison.of(suite, golden, candidate)


@given(c=graded())
def test_task_quality_equals_a_slow_reference(c):
    found = measured(c, "task")
    if found is None:
        return
    ids = c.suite.document_ids
    for side, end in ((0, "_fp32"), (1, "")):
        totals = {"ndcg@10": 0.0, "recall@10": 0.0, "mrr@10": 0.0, "map": 0.0}
        for q, judged in c.suite.qrels.items():
            scores = {d: float(c.units[side][q] @ c.units[side][t]) for d, t in enumerate(c.suite.documents)}
            assume(len({round(s, 9) for s in scores.values()}) == len(scores))  # one row's product may differ in its last bit
            order = sorted(scores, key=lambda d: (scores[d], ids[d]), reverse=True)
            gains = [judged.get(d, 0.0) for d in order]
            relevant = [i for i, g in enumerate(gains, 1) if g > 0]
            ideal = sum(g / math.log2(i + 1) for i, g in enumerate(sorted(judged.values(), reverse=True)[:10], 1))
            if relevant:
                totals["ndcg@10"] += sum(g / math.log2(i + 1) for i, g in enumerate(gains[:10], 1)) / ideal
                totals["recall@10"] += sum(i <= 10 for i in relevant) / len(relevant)
                totals["mrr@10"] += 1 / relevant[0]
                totals["map"] += sum(k / i for k, i in enumerate(relevant, 1)) / len(relevant)
        for name, total in totals.items():
            assert found[name + end] == pytest.approx(total / 2, abs=1e-6), name
    for name in {"ndcg@10", "spearman", "average_precision"} & set(found):
        assert found[f"{name}_retention"] == pytest.approx(found[name] / found[f"{name}_fp32"])
        if np.array_equal(c.golden, c.candidate):
            assert found[f"{name}_retention"] == pytest.approx(1)


@given(draw=st.data(), kind=st.sampled_from(KINDS))
def test_quantized_vectors(draw, kind):
    n, dim = draw.draw(st.integers(2, 6)), draw.draw(st.integers(1, 20))
    floats = draw.draw(arrays(np.float32, (n, dim), elements=VALUES))
    ranges = np.stack((floats.min(0), floats.max(0))) if kind in SCALAR else None
    stored = Vectors.of(floats, kind, ranges)
    assert np.array_equal(quantize(floats[::-1], kind, ranges), stored.codes[::-1])
    values, documents = stored.values(), np.arange(n)
    wanted = [[math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)) for b in values] for a in values]
    assert np.array_equal(stored.scores(documents), wanted)
    if kind in SCALAR:
        steps = (ranges[1].astype(np.float64) - ranges[0]) / 255
        assert (stored.clipped() == 0).all()
        assert (np.abs(stored.dequantized() - floats) <= steps * 1.001 + np.abs(floats) * 1e-5 + 1e-6).all()
    else:
        bits = floats > 0
        hamming = [[int((a != b).sum()) for b in bits] for a in bits]
        assert np.array_equal(stored.scores(documents), dim - 2 * np.asarray(hamming))
        assert stored.size_ratio == math.ceil(dim / 8) / (4 * dim)


class Table:
    """A runtime whose token embeddings are rows of a table; ``leak`` of the batch's largest id is added to each."""

    batch_tokens, workers = 64, 1

    def __init__(self, table: np.ndarray, leak: float) -> None:
        self.table, self.leak = table, leak

    def __call__(self, input_ids, attention_mask):
        return self.table[input_ids] + np.float32(self.leak * int((input_ids * attention_mask).max()))


class Pad:
    pad_id, side = 0, "right"


@given(
    table=vectors(8, 4).map(np.abs),
    lengths=st.lists(st.integers(4, 12), min_size=2, max_size=12),
    leak=st.sampled_from([0.0, 2.0]),
)
def test_invariance_is_one_unless_the_batch_leaks_in(table, lengths, leak):
    table = table + np.float32(0.5)
    ids = [[1 + (i + k) % 7 for k in range(n)] for i, n in enumerate(lengths)]
    suite = Suite("s", tuple(f"text {i}" for i in range(len(ids))), (None,) * len(ids))
    encoder = Encoder(Pad(), Table(table, leak), Head(Pipeline()))  # type: ignore[arg-type]
    found = {m.name: m.value for m in measure_invariance(encoder, suite, ids) if m.slice is None}
    assert all(-1 <= v <= 1 + 1e-9 for v in found.values())
    assert found["invariance.order"] == pytest.approx(1, abs=1e-6)
    assert found["invariance.padding"] == pytest.approx(1, abs=1e-6)
    if not leak:
        assert found["invariance.batch_cosine_min"] == pytest.approx(1, abs=1e-6)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.dictionaries(st.sampled_from(list(PROPERTIES)), st.floats(0, 1))), max_size=8
    )
)
def test_robustness_is_the_worst_of_what_was_tried(rows):
    counted = {name for name, metric in PROPERTIES.items() if metric.unit == COUNT}
    tried = [Tried(text, {k: float(round(v)) if k in counted else v for k, v in found.items()}) for text, found in rows]
    for m in reduced(tried, str):
        seen = [(t.text, t.values[m.name]) for t in tried if m.name in t.values]
        assert m.items == len({text for text, _ in seen})
        if m.name in counted:
            assert m.value == len({text for text, v in seen if v})
        else:
            assert m.value == (min if m.higher_is_better else max)(v for _, v in seen)


@given(draw=st.data(), top=st.integers(1, 6), dim=st.integers(2, 4), n=st.integers(2, 9))
def test_pairs_that_moved_most_are_those_of_all_pairs(draw, top, dim, n):
    before, after = (unit(draw.draw(vectors(n, dim))) for _ in range(2))
    first = draw.draw(st.integers(0, n - 1))
    sizes = sorted(
        (abs(cosine(after[a], after[b]) - cosine(before[a], before[b])) for a in range(first, n) for b in range(a)), reverse=True
    )
    found = most_moved(before, after, top, first)
    assert [m.size for m in found] == pytest.approx(sizes[:top], abs=1e-5)
    assert all(m.a > m.b and m.a >= first for m in found)
    assert len({(m.a, m.b) for m in found}) == len(found)


@given(value=st.floats(allow_nan=True), bound=st.floats(allow_nan=False, allow_infinity=False), op=st.sampled_from([">=", "<="]))
def test_a_gate_passes_what_its_bound_says_and_never_nan(value, bound, op):
    (check,) = judge([Measured("ranking.top1", None, value, 1, True)], [Gate("ranking.top1", None, Bound(op, bound))], "s")
    assert (check.outcome == "pass") == (not math.isnan(value) and (value >= bound if op == ">=" else value <= bound))
