"""How many texts of a sample each stratum gets.

In proportion to the square root of what the stratum holds, with a floor: the power allocation of Bankier 1988 ("Power
Allocations: Determining Sample Sizes for Subnational Areas", The American Statistician 42:3) with the exponent 1/2. It lies
between the proportional allocation (Cochran 1977, *Sampling Techniques*, 5.3), which leaves rare strata nothing, and equal
numbers. Neyman's optimum (Cochran 5.5) would need the spread of the metric within each stratum, which nobody knows before it is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qguard.errors import UsageProblem

FLOOR = 10  # texts of each stratum that has so many, where the sample is large enough


def allocate(sizes: Sequence[int], n: int) -> list[int]:
    """Numbers of texts to draw, of which the sum is ``n``, or all where there are fewer.

    Args:
        sizes: Distinct texts of each stratum, at least one.
        n: Wanted in all.

    Raises:
        UsageProblem: for fewer than one text a stratum.
    """
    if n >= sum(sizes):
        return list(sizes)
    if n < len(sizes):
        raise UsageProblem(
            f"--n {n}: the source has {len(sizes)} kinds of text by script and length; expected at least one of each"
        )
    floor = [min(size, FLOOR, n // len(sizes)) for size in sizes]

    def at(scale: float) -> list[float]:
        return [min(float(size), max(float(least), scale * math.sqrt(size))) for size, least in zip(sizes, floor, strict=True)]

    low, high = 0.0, math.sqrt(max(sizes))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) < n else (low, middle)
    wanted = at(low)
    out = [math.floor(w) for w in wanted]
    rest = sorted((i for i in range(len(sizes)) if out[i] < sizes[i]), key=lambda i: (out[i] - wanted[i], i))
    for i in rest[: n - sum(out)]:
        out[i] += 1
    return out
