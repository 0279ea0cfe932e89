"""GPTQ: what it stores is on the grid, and what its products lose is less than by rounding to nearest."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from qguard.precisions.gptq import compensated, round_weights


def bfloat16(row):
    return row.astype(ml_dtypes.bfloat16).astype(np.float64)


def tenths(row):
    return np.rint(row * 10) / 10


@pytest.fixture
def layer():
    """Inputs (tokens, in) whose channels go together, as activations do, and weights (in, out)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8)) @ rng.normal(size=(8, 200)) + 0.1 * rng.normal(size=(600, 200))
    return x, rng.normal(size=(200, 16))


@pytest.mark.parametrize("nearest", [bfloat16, tenths])
def test_products_lose_less_than_by_rounding_to_nearest(layer, nearest):
    x, weight = layer
    stored = compensated(weight, x.T @ x / len(x), nearest)
    assert np.array_equal(nearest(stored), stored)
    plain = nearest(weight)
    assert np.linalg.norm(x @ (stored - weight)) < 0.5 * np.linalg.norm(x @ (plain - weight))


def test_channels_that_do_not_go_together_are_rounded_to_nearest(layer):
    _, weight = layer
    assert np.array_equal(compensated(weight, np.eye(len(weight)), tenths), tenths(weight))


def test_eight_bits_with_one_scale_an_output_channel_and_channels_left_out(layer):
    x, weight = layer
    rows = np.arange(0, 200, 2)
    values, scale = round_weights(weight, x.T @ x / len(x), rows)
    assert values.dtype == np.int8
    assert not values[1::2].any()
    assert scale == pytest.approx(np.abs(weight[rows]).max(0) / 127)
    lost = x[:, rows] @ (values[rows] * scale.astype(np.float64) - weight[rows])
    plain = x[:, rows] @ (np.rint(weight[rows] / scale) * scale - weight[rows])
    assert np.linalg.norm(lost) < 0.5 * np.linalg.norm(plain)
