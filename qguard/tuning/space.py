"""What is tried: the built-in recipes, then settings of those that have any, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from qguard.encoders.runtimes import RUNTIMES
from qguard.machine.cpu import cpu
from qguard.precisions import RECIPES, Precision, known, parse_precision
from qguard.precisions.calibration import Calibration
from qguard.precisions.support import obstacle
from qguard.precisions.tuning import Tuning

# by what benchmarks/recipes.py found: fast first
USUAL = ("int8", "int8-static@openvino", "int8@openvino", "int8-dynamic", "int8-weight", "int4", "bf16@openvino", "fp32@openvino")
OUTLIERS = (0, 8, 16, 32, 64, 128, 256)
SMOOTH = (0.5, 0.6, 0.7, 0.8, 0.9)
PLAIN_OUTLIERS, PLAIN_SMOOTH = 64, 0.8  # of the recipes themselves; see qguard.precisions.integer
N = TypeVar("N", int, float)


def usual() -> list[Precision]:
    """The recipes that can be made, run and timed here."""
    found = [parse_precision(name) for name in USUAL if name in known()]
    here = [p for p in found if not obstacle(p) and RUNTIMES[p.runtime].timed]
    return [p for p in here if p.base != "bf16" or "avx512_bf16" in cpu()[1]]


def described(precision: Precision) -> str:
    """A candidate in words: the recipe and what is set."""
    tuning = precision.tuning or Tuning()
    words = [f"{k}={v}" for k, v in tuning.given.items() if k != "exclude"]
    words += [f"without {', '.join(n for n in tuning.exclude if not n.endswith('/*'))}"] if tuning.exclude else []
    if precision.calibration is not None:
        words.append(f"calibrated on {precision.calibration.source}")
    return " ".join([str(parse_precision(f"{precision.base}@{precision.runtime}")), *words])


def steps(
    precision: Precision, holds: bool, dearest: Sequence[str], calibrations: Sequence[Calibration] = ()
) -> Iterator[Precision]:
    """The neighbors of a candidate, the most promising first: cheaper ones of one that holds, else more accurate ones.

    Args:
        precision: A precision of a tunable recipe; of another recipe only the calibration texts can change.
        holds: Whether it holds the gates.
        dearest: Layers that cost the most accuracy, the dearest first.
        calibrations: Texts to calibrate on instead.
    """
    recipe = RECIPES[f"{precision.base}@{precision.runtime}"]
    if recipe.calibrated:
        yield from (replace(precision, calibration=c) for c in calibrations if c != precision.calibration)
    if not recipe.tunable:
        return
    tuning = precision.tuning or Tuning()
    excluded = [name for name in tuning.exclude if not name.endswith("/*")]
    more = [name for name in dearest if name not in excluded]
    at, alpha = tuning.outliers, tuning.smooth
    lower, higher = _beside(OUTLIERS, PLAIN_OUTLIERS if at is None else at)
    fewer, others = ([replace(tuning, outliers=n) for n in some] for some in (lower, higher))
    smooth = [replace(tuning, smooth=x) for some in _beside(SMOOTH, PLAIN_SMOOTH if alpha is None else alpha) for x in some]
    without = [replace(tuning, exclude=patterns([*excluded, more[0]]))] if more else []
    within = [replace(tuning, exclude=patterns(excluded[:-1]))] if excluded else []
    order = [*within, *fewer, *smooth, *others] if holds else [*others, *smooth, *without, *fewer]
    yield from (replace(precision, tuning=_without_plain(t)) for t in order)


def patterns(layers: Sequence[str]) -> tuple[str, ...]:
    """What leaves these layers in float, and all that lies in them."""
    return tuple(pattern for name in layers for pattern in (name, f"{name}/*"))


def _beside(ladder: Sequence[N], now: N) -> tuple[list[N], list[N]]:
    """The next lower and the next higher step of a ladder, each alone or not at all."""
    lower, higher = [v for v in ladder if v < now], [v for v in ladder if v > now]
    return lower[-1:], higher[:1]


def _without_plain(tuning: Tuning) -> Tuning | None:
    """The same without what the recipe does anyway; ``None`` where nothing is left."""
    if tuning.outliers == PLAIN_OUTLIERS:
        tuning = replace(tuning, outliers=None)
    if tuning.smooth == PLAIN_SMOOTH:
        tuning = replace(tuning, smooth=None)
    return tuning if tuning.given else None
