"""What models of every kind give, behind the same few operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qguard.errors import MeasurementProblem
from qguard.kinds import CROSS_ENCODER, DENSE, MULTI_VECTOR, SPARSE
from qguard.outputs import (
    Collected,
    SparseRows,
    TokenVectors,
    arrays_of,
    empty,
    finite,
    first_values,
    joined,
    lengths,
    refuse_broken,
    relative_change,
    split,
    stored,
)

WIDTH, LENGTHS = 5, (3, 1, 4, 2)


def dense(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(4, WIDTH)).astype(np.float32)


def sparse(seed: int = 0) -> SparseRows:
    return SparseRows.of(np.maximum(dense(seed), 0))


def tokens(seed: int = 0) -> TokenVectors:
    batch = np.random.default_rng(seed).normal(size=(4, max(LENGTHS), WIDTH)).astype(np.float32)
    return TokenVectors.of(batch, np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None])


OUTPUTS = {DENSE: dense, CROSS_ENCODER: dense, SPARSE: sparse, MULTI_VECTOR: tokens}
kinds = pytest.mark.parametrize("kind", OUTPUTS)


def same(a: Any, b: Any) -> bool:
    x, y = arrays_of(a), arrays_of(b)
    return a.shape == b.shape and list(x) == list(y) and all(np.array_equal(x[k], y[k]) for k in x)


@kinds
def test_rows_are_taken_in_any_order_and_joined_again(kind: str) -> None:
    given = OUTPUTS[kind]()
    rows = [given[i : i + 1] for i in (2, 0, 3)]
    assert same(joined(rows), given[[2, 0, 3]])
    assert same(given[np.asarray([1, 1])], joined([given[1:2], given[1:2]]))
    assert same(joined(split(given, 2)), given)


@kinds
def test_batches_of_any_order_are_put_together(kind: str) -> None:
    given, found = OUTPUTS[kind](), Collected(4)
    for rows in ([3, 1], [0], [2]):
        found.put(rows, given[rows])
    assert same(found.whole(), given)


@kinds
def test_a_file_gives_back_what_it_holds(kind: str) -> None:
    given = OUTPUTS[kind]()
    assert same(stored(arrays_of(given), kind, given.shape[1]), given)


@kinds
def test_the_change_is_that_of_the_row_that_changed(kind: str) -> None:
    given = OUTPUTS[kind]()
    arrays = {name: array.copy() for name, array in arrays_of(given).items()}
    values = arrays["weights" if kind == SPARSE else "vectors"]
    values.reshape(-1)[0] *= 1.5
    change = relative_change(given, stored(arrays, kind, given.shape[1]))
    assert change[0] > 0.01
    assert not change[1:].any()


def test_a_text_with_another_number_of_tokens_changed_wholly() -> None:
    given = tokens()
    fewer = joined([TokenVectors.of(given.text(0)[None, :2], np.ones((1, 2))), given[1:]])
    assert relative_change(given, fewer).tolist() == [np.inf, 0, 0, 0]


@kinds
def test_what_is_not_finite_or_zero_is_found_and_named(kind: str) -> None:
    texts = ["a", "b", "c", "d"]
    given = OUTPUTS[kind]()
    refuse_broken(given, "golden embedding", texts)
    if kind == SPARSE:
        held = given.matrix.toarray()
        held[1] = 0
        zero = SparseRows.of(held)
    else:
        arrays = {name: array.copy() for name, array in arrays_of(given).items()}
        at = slice(given.offsets[1], given.offsets[2]) if kind == MULTI_VECTOR else slice(1, 2)
        arrays["vectors"][at] = 0
        zero = stored(arrays, kind, WIDTH)
    assert empty(zero).tolist() == [False, True, False, False]
    with pytest.raises(MeasurementProblem, match="the golden embedding of 1 of 4 texts holds only zeros; first: 'b'"):
        refuse_broken(zero, "golden embedding", texts)
    refuse_broken(zero, "golden score", texts, zeros=False)
    arrays = {name: array.copy() for name, array in arrays_of(given).items()}
    arrays["weights" if kind == SPARSE else "vectors"].reshape(-1)[-1] = np.nan
    broken = stored(arrays, kind, WIDTH)
    assert finite(broken).tolist() == [True, True, True, False]
    with pytest.raises(MeasurementProblem, match="holds NaN or infinite values; first: 'd'"):
        refuse_broken(broken, "candidate embedding", texts)


@kinds
def test_lengths_and_first_values_are_those_of_the_rows(kind: str) -> None:
    given = OUTPUTS[kind]()
    rows = [given.text(i) for i in range(4)] if kind == MULTI_VECTOR else None
    plain = given.matrix.toarray() if kind == SPARSE else given
    expected = [np.linalg.norm(r, axis=1).mean() for r in rows] if rows else np.linalg.norm(plain, axis=1)
    np.testing.assert_allclose(lengths(given), expected, rtol=1e-6)
    row = rows[2][0] if rows else plain[2]
    shown = row[row != 0][:2] if kind == SPARSE else row[:2]
    assert first_values(given, 2, 2).tolist() == shown.tolist()


@pytest.mark.parametrize("name", ["vector_offsets", "vectors"])
def test_token_vectors_whose_parts_do_not_fit_are_refused(name: str) -> None:
    arrays = arrays_of(tokens())
    with pytest.raises(ValueError, match="do not fit together"):
        stored(arrays | {name: arrays[name][:-1]}, MULTI_VECTOR, WIDTH)
