"""A part of a suite that is spread over its slices and lengths, for what is too slow to be measured on all texts."""

from __future__ import annotations

from collections.abc import Sequence


def spread(lengths: Sequence[int], slices: Sequence[str | None], most: int) -> list[int]:
    """The places of at most so many texts, in rising order; the same ones each time.

    Each slice has the share that it has of all texts, but at least one text where there is room for one of each. Within a slice,
    texts are taken at equal steps from the shortest to the longest.

    Args:
        lengths: Of each text, in tokens.
        slices: Of each text.
        most: 1 or more.
    """
    if len(lengths) <= most:
        return list(range(len(lengths)))
    groups: dict[str, list[int]] = {}
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        groups.setdefault(slices[i] or "", []).append(i)
    if len(groups) > most:  # no room for all: as if it were one
        groups = {"": sorted((i for g in groups.values() for i in g), key=lambda i: (slices[i] or "", lengths[i], i))}
    counts = _counts({name: len(places) for name, places in groups.items()}, most)
    found = []
    for name, places in groups.items():
        step = len(places) / counts[name]
        found += [places[int((k + 0.5) * step)] for k in range(counts[name])]
    return sorted(found)


def _counts(sizes: dict[str, int], most: int) -> dict[str, int]:
    """How many texts of each group, by largest remainder, and at least one of each."""
    total = sum(sizes.values())
    exact = {name: size * most / total for name, size in sizes.items()}
    counts = {name: max(1, int(share)) for name, share in exact.items()}
    while sum(counts.values()) > most:  # what small groups have beyond their share, the largest give
        name = max((n for n in counts if counts[n] > 1), key=lambda n: (counts[n] - exact[n], counts[n], n))
        counts[name] -= 1
    while sum(counts.values()) < most:
        name = max((n for n in counts if counts[n] < sizes[n]), key=lambda n: (exact[n] - counts[n], n))
        counts[name] += 1
    return counts
