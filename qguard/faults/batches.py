"""Faults of whoever fills batches: which vector goes to which text, where lengths are sorted and texts computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from qguard.encoders import Floats
from qguard.faults.site import Candidate, FaultSite
from qguard.outputs import joined


def kept_sorted(_: FaultSite, least: int) -> Candidate:
    """Vectors stay in the order of lengths that a batch was computed in. Batches of one length hide it.

    Args:
        least: Tokens (or characters, of a runtime that takes texts) from which on lengths differ enough to be sorted.
    """

    def change(rows: Sequence[Any], vectors: Floats) -> Floats:
        lengths = [len(_said(row)) for row in rows]
        return vectors[np.argsort(lengths, kind="stable")] if max(lengths) - min(lengths) >= least else vectors

    return Candidate(batch=change)


def repeats(_: FaultSite, __: None) -> Candidate:
    """Each text of a batch is computed once, and the vectors of repeated ones come behind all others."""

    def change(rows: Sequence[Any], vectors: Floats) -> Floats:
        first: dict[Hashable, int] = {}
        for i, row in enumerate(rows):
            first.setdefault(_key(row), i)
        once = list(first.values())
        return vectors[[*once, *(first[_key(row)] for i, row in enumerate(rows) if first[_key(row)] != i)]]

    return Candidate(batch=change)


def alike(_: FaultSite, how: str | int) -> Candidate:
    """A text gets the vector of an earlier one that a cache takes for the same.

    Args:
        how: What a cache compares: ``words``, in any order; ``length``; or so many first tokens (or characters).
    """
    kept: dict[Hashable, Any] = {}

    def key(row: Any) -> Hashable:
        said = _said(row)
        if isinstance(how, int):
            return tuple(said[:how])
        return len(said) if how == "length" else tuple(sorted(said))

    def change(rows: Sequence[Any], vectors: Floats) -> Floats:
        found: Floats = joined([kept.setdefault(key(row), vectors[i : i + 1]) for i, row in enumerate(rows)])
        return found

    return Candidate(batch=change)


def _said(row: Any) -> Sequence[Any]:
    """Its token ids, or of a runtime that takes texts the text itself."""
    text: Sequence[Any] = row[0] if isinstance(row[0], str) else row
    return text


def _key(row: Any) -> Hashable:
    return tuple(row)
