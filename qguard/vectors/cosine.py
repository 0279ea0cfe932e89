"""Cosines of vectors, ``x·y / (|x| |y|)``, with one rule for zero vectors: their cosine with any vector is 0.

So is that of two zero vectors: they have no direction, and nothing says that they agree. A vector that holds NaN or infinity
has the cosine NaN, which no comparison holds for. Everything is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def cosine(a: Any, b: Any) -> Rows:
    """The cosine of each row of ``a`` with the same row of ``b``.

    Args:
        a: Numbers (n, dim).
        b: Numbers (n, dim).

    Returns:
        float64 (n,) in [-1, 1] but for rounding; 0 where a vector is zero, NaN where one is not finite.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(1) / _divisor(np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)), np.float64)


def unit(a: Any) -> Rows:
    """Rows (n, dim) scaled to unit length, float64; zero rows stay zero, rows that are not finite hold NaN."""
    x = np.asarray(a, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(x / _divisor(np.linalg.norm(x, axis=1, keepdims=True)), np.float64)


def of_units(a: Any, b: Any) -> Rows:
    """As :func:`cosine`, of rows that are of unit length or zero already: their inner product.

    It differs from :func:`cosine` of the same rows by rounding.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(1), np.float64)


def of_sums(xy: float, xx: float, yy: float) -> float:
    """As :func:`cosine`, of two vectors too long to be held: from the sums of ``x*y``, ``x*x`` and ``y*y``."""
    return float(np.float64(xy) / _divisor(np.sqrt(np.float64(xx) * np.float64(yy))))


def _divisor(lengths: Any) -> Any:
    """A zero vector's inner products are 0: divided by 1 they stay so."""
    return np.where(lengths == 0, 1.0, lengths)
