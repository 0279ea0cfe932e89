"""Q4_K, Q5_K and Q6_K, which ``gguf`` reads and does not write: blocks of 256 values with scales in blocks of their own.

llama.cpp tries some scales for each group of values and keeps the one with the least weighted error. The same sums are formed
here in the same order and precision, over all blocks at once, so that its own quantizer gives the same bytes
(tests/test_gguf_llamacpp.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32, or uint8 of what is stored

BLOCK, WIDE, NARROW = 256, 32, 16  # values of a block, of a group of Q4_K and Q5_K, and of one of Q6_K
_ZERO, _ONE, _TENTH = np.float32(0), np.float32(1), np.float32(0.1)
_NOTHING = np.float32(1e-15)  # below which a group counts as zeros


def _q4_k(blocks: Array) -> Array:
    head, codes = _with_minima(blocks, 15, -1.0, 20)
    return np.concatenate([head, _halves(codes)], axis=1)


def _q5_k(blocks: Array) -> Array:
    head, codes = _with_minima(blocks, 31, -0.5, 15)
    high = np.zeros((len(blocks), WIDE), np.uint8)
    for group in range(BLOCK // WIDE):
        high |= (codes[:, group] >> 4) << np.uint8(group)
    return np.concatenate([head, high, _halves(codes & 15)], axis=1)


def _q6_k(blocks: Array) -> Array:
    groups = blocks.reshape(-1, NARROW)
    scales, codes = _symmetric(np.ascontiguousarray(groups.T), 32)
    scales, codes = scales.reshape(len(blocks), -1), codes.T.reshape(len(blocks), -1, NARROW)
    at = np.abs(scales).argmax(1)[:, None]
    widest = np.take_along_axis(scales, at, 1)
    empty = np.abs(widest) < _NOTHING
    inverse = np.float32(-128) / np.where(empty, _ONE, widest)
    whole = np.where(empty, _ZERO, _ONE / inverse).astype(np.float16)
    shares = np.where(empty, 0, np.minimum(127, np.rint(inverse * scales))).astype(np.int8)
    step = (whole.astype(np.float32) * shares)[:, :, None]
    near = np.rint(_divided(blocks.reshape(codes.shape), step))
    codes = np.where(step != 0, np.clip(near, -32, 31) + 32, codes).astype(np.uint8)
    codes[empty[:, 0]] = 0
    parts = codes.reshape(len(blocks), 2, 4, WIDE)  # two halves of four groups each
    low = np.stack([parts[:, :, 0] & 15 | (parts[:, :, 2] & 15) << 4, parts[:, :, 1] & 15 | (parts[:, :, 3] & 15) << 4], 2)
    high = parts[:, :, 0] >> 4 | (parts[:, :, 1] >> 4) << 2 | (parts[:, :, 2] >> 4) << 4 | (parts[:, :, 3] >> 4) << 6
    rows = len(blocks)
    return np.concatenate([low.reshape(rows, -1), high.reshape(rows, -1), shares.view(np.uint8), whole.view(np.uint8)], axis=1)


# Type → blocks, float32 (n, 256) → uint8 (n, bytes of a block)
QUANTIZERS: dict[str, Callable[[Array], Array]] = {"Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}


def _with_minima(blocks: Array, top: int, first: float, tries: int) -> tuple[Array, Array]:
    """Blocks whose groups have a scale and a minimum of 6 bits each.

    Args:
        blocks: (n, 256).
        top: The largest code.
        first: See :func:`_asymmetric`.
        tries: See there.

    Returns:
        Scales (n, 16) as they are stored, and codes (n, 8, 32).
    """
    groups = np.ascontiguousarray(blocks.reshape(-1, WIDE).T)
    scales, minima, found = _asymmetric(groups, top, first, tries)
    scales, minima = scales.reshape(len(blocks), -1), minima.reshape(len(blocks), -1)
    codes = found.T.reshape(len(blocks), -1, WIDE)
    stored = []
    for values in (scales, minima):
        most = np.maximum(values.max(1, keepdims=True), _ZERO)
        inverse = np.where(most > 0, np.float32(63) / np.where(most > 0, most, _ONE), _ZERO)
        share = np.minimum(63, np.rint(inverse * values)).astype(np.uint8)
        stored.append(((most / np.float32(63)).astype(np.float16), share))
    (whole, share), (offset, least) = stored
    step = (whole.astype(np.float32) * share)[:, :, None]
    start = (offset.astype(np.float32) * least)[:, :, None]
    near = np.rint(_divided(blocks.reshape(codes.shape) + start, step))
    codes = np.where(step != 0, np.clip(near, 0, top), codes).astype(np.uint8)
    packed = np.empty((len(blocks), 12), np.uint8)
    packed[:, :4] = share[:, :4] | (share[:, 4:] >> 4) << 6
    packed[:, 4:8] = least[:, :4] | (least[:, 4:] >> 4) << 6
    packed[:, 8:] = share[:, 4:] & 15 | (least[:, 4:] & 15) << 4
    return np.concatenate([whole.view(np.uint8), offset.view(np.uint8), packed], axis=1), codes


def _asymmetric(x: Array, top: int, first: float, tries: int) -> tuple[Array, Array, Array]:
    """For each group the scale, what is subtracted, and codes from 0 to ``top``, of the least weighted squared error.

    Args:
        x: Values (32, groups).
        top: The largest code.
        first: What is added to ``top`` in the first of the scales that are tried; a tenth more in each that follows.
        tries: How many follow the first.

    Returns:
        Scale (groups,), the minimum with its sign turned (groups,), codes (32, groups).
    """
    weights = np.sqrt(_sum(x * x) / np.float32(len(x))) + np.abs(x)
    least, most = np.minimum(x.min(0), _ZERO), x.max(0)
    flat = most == least
    total, weighted = _sum(weights), _sum(weights * x)
    inverse = np.float32(top) / np.where(flat, _ONE, most - least)
    scale, low = _ONE / inverse, least.copy()
    codes = _codes(x, inverse, least, top)
    best = _squares(x, weights, codes, scale, low)
    for i in range(tries + 1):
        # from the best minimum so far, which moves the scales that are tried as well
        inverse = (np.float32(first) + _TENTH * np.float32(i) + np.float32(top)) / np.where(most == low, _ONE, most - low)
        tried = _codes(x, inverse, low, top)
        product = weights * tried
        sums, squares, mixed = _sum(product), _sum(product * tried), _sum(product * x)
        determinant = total * squares - sums * sums
        solvable = determinant > 0
        divisor = np.where(solvable, determinant, _ONE)
        slope, start = (total * mixed - weighted * sums) / divisor, (squares * weighted - sums * mixed) / divisor
        above = start > 0
        slope, start = np.where(above, _divided(mixed, squares), slope), np.where(above, _ZERO, start)
        error = _squares(x, weights, tried, slope, start)
        better = solvable & (error < best)
        codes[:, better], best = tried[:, better], np.where(better, error, best)
        scale, low = np.where(better, slope, scale), np.where(better, start, low)
    codes[:, flat] = 0
    return np.where(flat, _ZERO, scale), -np.where(flat, least, low), codes.astype(np.uint8)


def _symmetric(x: Array, half: int) -> tuple[Array, Array]:
    """For each group the scale and codes from 0 to ``2 * half - 1``, around ``half``, of the least error weighted by squares.

    Args:
        x: Values (16, groups).
        half: The code of 0.

    Returns:
        Scale (groups,), whose sign is part of it, and codes (16, groups).
    """
    widest = np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0]
    empty = np.abs(widest) < _NOTHING
    widest = np.where(empty, _ONE, widest)
    scale = best = np.zeros_like(widest)
    codes = np.zeros_like(x)
    for i in (0, *(n for n in range(-9, 10) if n)):
        inverse = (-(np.float32(half) + _TENTH * np.float32(i)) if i else np.float32(-half)) / widest
        tried = np.clip(np.rint(inverse * x), -half, half - 1).astype(np.float32)
        weights = x * x
        mixed, squares = _sum(weights * x * tried), _sum(weights * tried * tried)
        slope = _divided(mixed, squares)
        better = np.full(len(widest), True) if not i else (squares > 0) & (mixed * mixed > best * squares)
        codes[:, better] = tried[:, better] + half
        scale, best = np.where(better, slope, scale), np.where(better, slope * mixed, best)
    codes[:, empty] = 0
    return np.where(empty, _ZERO, scale), codes


def _codes(x: Array, inverse: Array, least: Array, top: int) -> Array:
    return np.asarray(np.clip(np.rint(inverse * (x - least)), 0, top), np.float32)


def _squares(x: Array, weights: Array, codes: Array, scale: Array, low: Array) -> Array:
    """Weighted squared error of each group."""
    off = scale * codes + low - x
    return _sum(weights * (off * off))


def _sum(values: Array) -> Array:
    """Over the first axis, one value after the other: NumPy's own sums are in another order."""
    total: Array = values[0].copy()
    for row in values[1:]:
        total += row
    return total


def _divided(values: Array, by: Array) -> Array:
    """0 where the divisor is 0."""
    some = by != 0
    return np.asarray(np.where(some, values / np.where(some, by, _ONE), _ZERO), np.float32)


def _halves(codes: Array) -> Array:
    """Codes of 4 bits, those of two groups in the same bytes."""
    pairs = codes.reshape(len(codes), -1, 2, WIDE)
    return np.asarray(pairs[:, :, 0] | pairs[:, :, 1] << 4, np.uint8).reshape(len(codes), -1)
