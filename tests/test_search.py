"""Exact top k in blocks equals a full sort in float64, ties and near ties included."""

from __future__ import annotations

import numpy as np
import pytest

from qguard.errors import MeasurementProblem
from qguard.vectors import screens, search
from qguard.vectors.search import VectorFile, top_k
from tests.machine import needs_exact_sums


def full_sort(queries, documents, k, own=None):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    if own is not None:
        rows = np.flatnonzero(own >= 0)
        scores[rows, own[rows]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, 1)


def vectors(rng, n, dim=48):
    x = rng.normal(size=(n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def stored(tmp_path):
    def write(array):
        array.astype(np.float32).tofile(tmp_path / "v.f32")
        return VectorFile(tmp_path / "v.f32", *array.shape)

    return write


@pytest.mark.parametrize("order", ["random", "best last", "best first"])
def test_equal_to_a_full_sort_from_memory_and_from_a_file(stored, order):
    rng = np.random.default_rng(0)
    queries, documents = vectors(rng, 50), vectors(rng, 9000)
    if order != "random":
        at = np.argsort(documents @ queries.mean(0))
        documents = documents[at if order == "best last" else at[::-1]]
    want = full_sort(queries, documents, 10)
    for source in (documents, stored(documents)):
        found = top_k(queries, source, 10)
        assert (found[0] == want[0]).all()
        np.testing.assert_allclose(found[1], want[1], rtol=1e-14)


def test_ties_go_by_document_order_and_near_ties_are_decided_in_float64(stored):
    rng = np.random.default_rng(1)
    queries = vectors(rng, 7, 384)
    base = np.repeat(vectors(rng, 30, 384), 100, axis=0)
    near = base + rng.normal(0, 3e-8, base.shape).astype(np.float32)  # below what single precision tells apart in a sum
    documents = np.concatenate([base[rng.permutation(len(base))], near])
    want = full_sort(queries, documents, 150)
    found = top_k(queries, stored(documents), 150)
    assert (found[0] == want[0]).all()


def test_a_text_does_not_find_itself(stored):
    rng = np.random.default_rng(2)
    documents = vectors(rng, 3000)
    own = np.array([5, -1, 2999])
    queries = documents[[5, 6, 2999]]
    found, _ = top_k(queries, stored(documents), 5, own)
    assert (found == full_sort(queries, documents, 5, own)[0]).all()
    assert 5 not in found[0]
    assert found[1, 0] == 6


def test_all_others_are_found_where_nothing_can_be_left_out(stored):
    documents = vectors(np.random.default_rng(6), 12)
    own = np.arange(12)
    assert (top_k(documents, stored(documents), 11, own)[0] == full_sort(documents, documents, 11, own)[0]).all()


def test_lengths_that_differ_by_orders_do_not_fool_the_bound():
    rng = np.random.default_rng(3)
    queries, documents = vectors(rng, 20) * 100, vectors(rng, 5000) * rng.uniform(0.001, 1000, (5000, 1)).astype(np.float32)
    assert (top_k(queries, documents, 10)[0] == full_sort(queries, documents, 10)[0]).all()


def test_many_queries_go_in_parts(monkeypatch):
    monkeypatch.setattr(search, "QUERIES", 16)
    rng = np.random.default_rng(4)
    queries, documents = vectors(rng, 50), vectors(rng, 500)
    assert (top_k(queries, documents, 3)[0] == full_sort(queries, documents, 3)[0]).all()


def test_what_cannot_be_searched_is_an_error(stored):
    rng = np.random.default_rng(5)
    queries, documents = vectors(rng, 2), vectors(rng, 10)
    for k, own in ((11, None), (10, np.array([0, 1])), (0, None)):
        with pytest.raises(MeasurementProblem, match="no such search"):
            top_k(queries, documents, k, own)
    file = stored(documents)
    with pytest.raises(MeasurementProblem, match="shorter than 11 rows"):
        top_k(queries, VectorFile(file.path, 11, file.dim), 3)
    with pytest.raises(MeasurementProblem, match="shorter than 11 rows"):
        VectorFile(file.path, 11, file.dim).take(np.array([10]))
    documents[3, 0] = np.nan
    for pair in ((queries, documents), (documents, queries)):
        with pytest.raises(MeasurementProblem, match="NaN"):
            top_k(*pair, 2)


@pytest.fixture(params=["singles", pytest.param("bytes", marks=needs_exact_sums), "bytes without VNNI"])
def screen(request, monkeypatch):
    monkeypatch.setattr(screens, "PAYS", np.inf if request.param == "singles" else 0)
    monkeypatch.setattr(screens, "saturates", lambda: "without" in request.param)
    return lambda queries, documents: screens.open_screens(queries, documents)[0]


CASES = {
    "unit": lambda rng, x: x,
    "one wide channel": lambda rng, x: x * np.where(np.arange(x.shape[1]) == 3, 40, 1),
    "lengths apart": lambda rng, x: x * 10.0 ** rng.uniform(-6, 6, (len(x), 1)),
    "zeros": lambda rng, x: x * rng.integers(0, 2, (len(x), 1)),
    "nothing": lambda rng, x: x * 0,
    "tiny": lambda rng, x: x * 1e-35,
    "large": lambda rng, x: x * 1e15,
    "one direction": lambda rng, x: x[:1] + 1e-3 * x,
}


@pytest.mark.parametrize("case", CASES)
def test_a_screen_rules_out_no_document_that_reaches_the_floor(screen, case):
    rng = np.random.default_rng(7)
    queries, documents = (CASES[case](rng, vectors(rng, n, 96)).astype(np.float32) for n in (40, 700))
    exact = documents.astype(np.float64) @ queries.astype(np.float64).T
    longest = float(np.linalg.norm(documents.astype(np.float64), axis=1).max())
    of_all = screen(queries, len(documents))
    for rank in (0, 1, 10, 350, 699):
        floor = np.sort(exact, axis=0)[::-1][rank]
        scores, least = of_all(documents, longest, floor)
        assert (scores >= least)[exact >= floor].all()
        if case == "unit" and rank == 10:  # and most others it does rule out
            assert (scores >= least).mean() < 0.1


def test_screens_find_the_same(screen, stored):
    rng = np.random.default_rng(8)
    queries, documents = vectors(rng, 30, 384), vectors(rng, 6000, 384)
    own = rng.integers(-1, 6000, 30)
    want = full_sort(queries, documents, 10, own)
    found = top_k(queries, stored(documents), 10, own)
    assert (found[0] == want[0]).all()
    np.testing.assert_allclose(found[1], want[1], rtol=1e-14)


def test_documents_that_are_all_alike_come_in_order(screen, stored):
    documents = np.repeat(vectors(np.random.default_rng(9), 1), 5000, axis=0)
    assert (top_k(documents[:3], stored(documents), 10)[0] == np.arange(10)).all()
