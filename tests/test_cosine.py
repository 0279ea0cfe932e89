"""One cosine, and its rule: a zero vector has the cosine 0 with any vector."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qguard.errors import MeasurementProblem
from qguard.judging.invariance import _cosine as of_invariance
from qguard.robustness.probe import _cosine as of_robustness
from qguard.vectors.cosine import cosine, of_sums, of_units, unit

ZERO, X, Y = [0.0, 0.0], [3.0, 4.0], [4.0, -3.0]
CASES = ((X, X, 1), (X, [-6.0, -8.0], -1), (X, Y, 0), (X, [1.0, 0.0], 0.6), (ZERO, X, 0), (X, ZERO, 0), (ZERO, ZERO, 0))


def sums(a, b):
    x, y = np.asarray(a), np.asarray(b)
    return [of_sums(float(np.vdot(p, q)), float(np.vdot(p, p)), float(np.vdot(q, q))) for p, q in zip(x, y, strict=True)]


FORMS = {"rows": cosine, "units": lambda a, b: of_units(unit(a), unit(b)), "sums": sums}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_every_form_follows_the_rule_and_warns_of_nothing(form, kind):
    a, b = (np.asarray([c[i] for c in CASES], kind) for i in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = FORMS[form](a, b)
    assert np.abs(np.asarray(found) - [c[2] for c in CASES]).max() < 1e-7


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [ZERO, X, [0.0, 1.0]])
def test_what_is_not_finite_has_no_cosine(broken, other):
    rows = [broken, 1.0], [0.0, broken]
    for row in rows:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(cosine([row], [other])).all()
            assert np.isnan(cosine([other], [row])).all()
            assert np.isnan(of_units(unit([row]), unit([other]))).all()


@given(arrays(np.float32, (5, 3), elements=st.floats(-1e3, 1e3, width=32)), st.sampled_from([2.0**-20, 1.0, 2.0**20]))
def test_it_is_symmetric_and_does_not_depend_on_lengths(x, scale):
    y = x[::-1]
    found = cosine(x, y)
    assert np.array_equal(found, cosine(y, x))
    assert np.abs(found).max() <= 1 + 1e-12
    assert np.allclose(cosine(x.astype(np.float64) * scale, y), found, rtol=0, atol=1e-12)
    assert np.allclose(of_units(unit(x), unit(y)), found, rtol=0, atol=1e-12)


def test_float32_is_widened_before_it_is_multiplied():
    x = np.full((1, 3), np.float32(1e30))
    assert cosine(x, x) == pytest.approx(1)


def test_every_digit_is_that_of_the_formula():
    """Recorded values and their bounds rest on this order of operations."""
    x, y = np.random.default_rng(0).normal(size=(2, 500, 384))
    lengths = [np.linalg.norm(v, axis=1) for v in (x, y)]
    assert np.array_equal(cosine(x, y), (x * y).sum(1) / (lengths[0] * lengths[1]))
    u, v = x / lengths[0][:, None], y / lengths[1][:, None]
    assert np.array_equal(unit(x), u)
    assert np.array_equal(of_units(u, v), (u * v).sum(1))


def test_unit_rows_have_length_one_and_zero_rows_stay_zero():
    found = unit(np.asarray([X, ZERO, Y], np.float32))
    assert found.dtype == np.float64
    assert np.allclose(np.linalg.norm(found, axis=1), [1, 0, 1])


def test_invariance_refuses_a_zero_vector_and_robustness_gives_it_the_lowest_value():
    """Their own rules, older than the common one."""
    a, b = np.asarray([X, ZERO]), np.asarray([X, X])
    assert of_invariance(b, b) == pytest.approx([1, 1])
    for left, right in ((a, b), (b, a), (a, a)):
        with pytest.raises(MeasurementProblem, match="NaN, infinite or zero"):
            of_invariance(left, right)
        assert of_robustness(left, right) == pytest.approx([1, -1])
    assert of_robustness(np.asarray([[np.nan, 1.0], [np.inf, 1.0]]), b) == [-1, -1]
