"""GPTQ: weights rounded one input channel after the other, later ones making up for the errors of earlier ones.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DAMPING = 0.01  # of the mean of the Hessian's diagonal, as in the paper
BLOCK = 128  # channels whose errors are spread over the rest in one product


def round_weights(weight: Array, hessian: Array, rows: Array) -> tuple[Array, Array]:
    """GPTQ: signed 8 bits per output channel; rows that are not in ``rows`` become zero.

    Args:
        weight: (in, out).
        hessian: (in, in), mean of the outer products of the inputs.
        rows: Input channels that are quantized.

    Returns:
        int8 (in, out) and float32 scales (out,).
    """
    part = weight[rows].astype(np.float64)
    scale = np.maximum(np.abs(part).max(0) / 127, 1e-12)
    rounded = compensated(part, hessian[np.ix_(rows, rows)], lambda row: np.rint(row / scale).clip(-127, 127) * scale)
    values = np.zeros(weight.shape, np.int8)
    values[rows] = np.rint(rounded / scale).astype(np.int8)
    return values, scale.astype(np.float32)


def compensated(weight: Array, hessian: Array, nearest: Callable[[Array], Array]) -> Array:
    """Every weight rounded, the channels with the largest inputs first.

    Args:
        weight: (in, out).
        hessian: (in, in), mean of the outer products of the inputs.
        nearest: One input channel's weights, float64 (out,) → the values that can be stored nearest to them, float64 (out,).

    Returns:
        What is stored, float64 (in, out).
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    spread = _spread(hessian, order)
    left = weight[order].astype(np.float64)
    out = np.zeros_like(left)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.zeros((stop - start, left.shape[1]))
        for k in range(start, stop):
            wanted = left[k] - spread[start:k, k] @ errors[: k - start]
            out[k] = nearest(wanted)
            errors[k - start] = (wanted - out[k]) / spread[k, k]
        left[stop:] -= spread[start:stop, stop:].T @ errors
    stored = np.zeros_like(out)
    stored[order] = out
    return stored


def _spread(hessian: Array, order: Array) -> Array:
    """How an error spreads over the weights that are still free: rows of the upper Cholesky factor of the inverse.

    The factor R of the Hessian itself that is upper, H = R R^T, gives it as R^-1; and R is the usual lower factor of the
    matrix with rows and columns in reverse. That is a quarter of the work of an inverse and a factor, and in place.

    Args:
        hessian: (in, in).
        order: Its rows and columns in the order in which they are rounded.

    Returns:
        float64 (in, in), upper.
    """
    from scipy.linalg import lapack

    back = order[::-1]
    h = hessian[np.ix_(back, back)].astype(np.float64, copy=False)
    h[np.diag_indices_from(h)] += DAMPING * max(np.diag(h).mean(), 1e-12)
    factor, wrong = lapack.dpotrf(h.T, lower=1, overwrite_a=1)  # symmetric: transposed it is the same, in LAPACK's order
    if not wrong:
        factor, wrong = lapack.dtrtri(factor, lower=1, overwrite_c=1)
    if wrong:
        raise np.linalg.LinAlgError("second moments of the calibration texts hold NaN or infinite values")
    return np.ascontiguousarray(factor[::-1, ::-1])
