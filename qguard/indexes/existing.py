"""A collection that is there already, which new queries search: its vectors are read, and nothing is written.

A team that quantizes or updates its encoder of queries often keeps the documents that it embedded before. The rows of such a
collection are told by ids of documents. All vectors are read once, so that the exact neighbors among them are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.errors import MeasurementProblem
from qguard.indexes.settings import Index
from qguard.indexes.stored import Rows, values
from qguard.indexes.stores import open_collection
from qguard.vectors.cosine import cosine
from qguard.vectors.search import VectorFile

STALE = 0.9  # cosine to fp32's vector; int8 keeps .97 of its worst text, another model and another text stay below .8
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Existing:
    """What a collection holds.

    Attributes:
        rows: Its vectors, in the order of the suite's documents.
        cosines: float64 (n,), of each to fp32's vector of the document.
    """

    rows: Rows
    cosines: NDArray[np.float64]


def read(index: Index, ids: Sequence[str], fp32: Floats | VectorFile, metric: str) -> Existing:
    """The vectors of the suite's documents as the collection of ``index`` holds them.

    Args:
        index: With ``existing``.
        ids: Of the documents, in their order.
        fp32: The golden's vectors of the documents (n, dim).
        metric: What the index ranks by.

    Raises:
        MeasurementProblem: where the collection holds other documents than the suite, values that are not finite, or vectors of
            another model.
        UsageProblem: where the index cannot be opened.
    """
    assert not isinstance(fp32, VectorFile)  # of a large suite
    places, dim = place_of(index, ids), fp32.shape[1]
    out = np.full((len(ids), dim), np.nan, np.float32)
    seen = np.zeros(len(ids), bool)
    unknown: list[str] = []
    collection = open_collection(index, index.collection, dim, index.vectors, metric)
    try:
        for told, vectors in collection.scan():
            at = [places.get(i, -1) for i in told]
            unknown += [i for i, place in zip(told, at, strict=True) if place < 0]
            known = np.asarray([place for place in at if place >= 0], np.int64)
            given = vectors[np.asarray(at) >= 0]
            if given.shape[1:] != (dim,):
                raise _problem(index, f"holds vectors of {given.shape[1]} values; expected {dim}")
            if seen[known].any() or len(np.unique(known)) < len(known):
                twice = next(told[at.index(p)] for p in known.tolist() if seen[p] or at.count(p) > 1)
                raise _problem(index, f"holds document {twice!r} in several rows; expected one row for each document")
            seen[known] = True
            out[known] = values(given, index.vectors, dim)
    finally:
        collection.close()
    missing = [ids[i] for i in np.flatnonzero(~seen).tolist()]
    _same_documents(index, len(ids), missing, unknown)
    bad = np.flatnonzero(~np.isfinite(out).all(1))
    if len(bad):
        raise _problem(index, f"holds NaN or infinite values in {len(bad)} of {len(out)} rows, such as that of {ids[bad[0]]!r}")
    near = cosine(out, fp32)
    if np.median(near) < STALE:
        raise _problem(
            index,
            f"holds other vectors than this model's: the median cosine to fp32's vectors of the documents is "
            f"{np.median(near):.3f}, expected {STALE} at least. Its model, prompts or texts are others",
        )
    return Existing(Rows(out, index.vectors, np.zeros(len(out), np.int64)), np.asarray(near, np.float64))


def place_of(index: Index, ids: Sequence[str]) -> Mapping[str, int]:
    """Id → place of the document.

    Raises:
        MeasurementProblem: where two documents have one id.
    """
    places = {i: place for place, i in enumerate(ids)}
    if len(places) < len(ids):
        raise MeasurementProblem(
            f"index {index.name!r}: two documents of the suite have the same id, so no row can be told by it"
        )
    return places


def _same_documents(index: Index, expected: int, missing: Sequence[str], unknown: Sequence[str]) -> None:
    if missing:
        raise _problem(
            index,
            f"lacks {len(missing)} of the suite's {expected} documents, such as {_some(missing)}. Ids are read from the field "
            f"{index.id_field!r} and compared with the ids of the suite's documents, or their numbers from 0 where it has none",
        )
    if unknown:
        raise _problem(
            index,
            f"holds {len(unknown)} documents that the suite has not, such as {_some(unknown)}; the nearest neighbors among its "
            "rows are known only where both hold the same documents",
        )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(repr(i) for i in ids[:_NAMED])


def _problem(index: Index, words: str) -> MeasurementProblem:
    return MeasurementProblem(f"index {index.name!r}: its collection {words}")
