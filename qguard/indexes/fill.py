"""Rows into a collection: in blocks, with progress, and from where an interrupted run stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass

from qguard.console.progress import progress
from qguard.errors import MeasurementProblem
from qguard.indexes.collection import Collection
from qguard.indexes.settings import Index
from qguard.indexes.stored import BLOCK, Rows


@dataclass(frozen=True)
class Filled:
    """How long it took.

    Attributes:
        insert_seconds: For the rows.
        build_seconds: For the index.
        resumed: Rows that an earlier run had inserted.
    """

    insert_seconds: float
    build_seconds: float
    resumed: int


def name_of(index: Index, rows: Rows, metric: str) -> str:
    """The name of the collection: of other rows, another type or other parameters it is another one."""
    import hashlib

    key = f"{index.name} {index.type} {metric} {sorted(index.params.items())} {rows.sha256}"
    return f"qguard_{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def fill(collection: Collection, index: Index, rows: Rows) -> Filled:
    """Insert all rows that are not there yet, in their order, and build the index.

    What an interrupted run left behind is counted, and proved by :func:`qguard.indexes.proof.prove` like what this one inserts.

    Raises:
        MeasurementProblem: for a collection with more rows than there are.
    """
    there = collection.rows()
    if there > len(rows):
        raise MeasurementProblem(
            f"index {index.name!r}: its collection holds {there} rows; expected {len(rows)}. Remove what lies at its uri"
        )
    start = time.perf_counter()
    with progress(f"inserting {len(rows)} rows into {index.name}", len(rows), after=2.0) as advance:
        advance(there)
        for first in range(there, len(rows), BLOCK):
            block = rows.block(first, first + BLOCK)
            collection.insert(first, block, rows.buckets[first : first + len(block)])
            advance(len(block))
    inserted = time.perf_counter()
    with progress(f"building index {index.name}", None, after=2.0):
        collection.build()
    return Filled(inserted - start, time.perf_counter() - inserted, there)
