"""What generated texts are measured by: the worst value of each property over all texts that were tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qguard.families.own import COUNT, ROBUSTNESS
from qguard.metrics import Measured, MetricInfo

SHOWN = 5  # worst texts of a failure


# Public name → what it bounds; one that counts texts is the number of those whose own value is not 0, the others are the worst
PROPERTIES: Mapping[str, MetricInfo] = {m.name: m for m in ROBUSTNESS}
NAMES = tuple(PROPERTIES)
COSINE = "robustness.cosine_min"


@dataclass(frozen=True)
class Tried:
    """One text in one batch, with the value of each property that was looked at."""

    text: str
    values: Mapping[str, float]


def reduced(tried: Iterable[Tried], describe: Callable[[str], str], first: str | None = None) -> list[Measured]:
    """Each property over all texts.

    Args:
        tried: What was looked at; a text may come in several batches.
        describe: A text to words for a person.
        first: The text that a failure was shrunk to: shown before all others that are as bad.
    """
    tried = list(tried)
    out = []
    for name, kind in PROPERTIES.items():
        worst: dict[str, float] = {}  # text → its worst value
        for t in tried:
            value = t.values.get(name, math.nan)
            if math.isnan(value):
                continue
            known = worst.setdefault(t.text, value)
            worst[t.text] = min(known, value) if kind.higher_is_better else max(known, value)
        if not worst:
            continue
        order = sorted(worst, key=lambda text: (worst[text] if kind.higher_is_better else -worst[text], len(text), text))
        if first in worst:
            order = [first, *(text for text in order if text != first)]
        ideal = 1.0 if kind.higher_is_better else 0.0
        shown = tuple(f"{worst[t]:.6g}  {describe(t)}" for t in order[:SHOWN] if abs(worst[t] - ideal) > 1e-6)
        values = list(worst.values())
        value = float(sum(v > 0 for v in values)) if kind.unit == COUNT else min(values) if kind.higher_is_better else max(values)
        out.append(Measured(name, None, value, len(worst), kind.higher_is_better, shown, noun="texts"))
    return out
