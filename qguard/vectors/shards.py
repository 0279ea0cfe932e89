"""Exact search by several machines: each searches a part of the documents, and the best of all parts are the best of the whole.

Scores are float64 products of one query and one document, which do not depend on the part that a document is in, and ties go to
the first document; so the merged result is that of one search, bit by bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.fleet import Fleet, Item, NeedsData, Place, Shared
from qguard.vectors.search import VectorFile, top_k
from qguard.vectors.similarity import Similarity

SMALLEST = 16_384  # rows of a shard: fewer are screened worse, since the best of them are found late
EACH = 3  # shards for each task that runs at the same time: the last ones end together
_TASK = "qguard.vectors.shards:search_shard"


def sharded(
    fleet: Fleet,
    queries: Floats,
    documents: VectorFile,
    k: int,
    advance: Callable[[int], None] | None = None,
    similarity: Similarity | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As :func:`qguard.vectors.search.top_k`, by a fleet.

    Args:
        fleet: Who searches.
        queries: float32 (q, dim).
        documents: A file whose blocks are known by hash: a machine that sees it reads it, and is sent it otherwise.
        k: At most the number of documents.
        advance: Called with the documents of each finished shard.
        similarity: What ranks.

    Raises:
        MeasurementProblem: as :func:`qguard.vectors.search.top_k`.
    """
    similarity = similarity or Similarity()
    given = {
        "k": k,
        "dim": documents.dim,
        "similarity": similarity.name,
        "rows": documents.rows,
        "path": str(documents.path.absolute()),
    }
    shared = Shared(given, data=np.ascontiguousarray(queries, np.float32).tobytes())
    shards = list(_shards(documents, fleet.lanes))
    items = [Item({"start": start, "blocks": blocks}, later=_Bytes(documents, start, blocks)) for start, blocks in shards]
    indices, scores = list[NDArray[np.int64]](), list[NDArray[np.float64]]()
    for item, (found, data) in zip(items, fleet.map(_TASK, shared, items), strict=True):
        shape, size = (len(queries), found["k"]), len(queries) * found["k"] * 8
        indices.append(np.frombuffer(data[:size], np.int64).reshape(shape))
        scores.append(np.frombuffer(data[size:], np.float64).reshape(shape))
        if advance is not None:
            advance(sum(rows for rows, _ in item.given["blocks"]))
    return merged(np.concatenate(indices, axis=1), np.concatenate(scores, axis=1), k)


def merged(indices: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best ``k`` of each row of candidates (q, n), best first, equal ones in the order of the documents."""
    order = np.lexsort((indices, -scores), axis=1)[:, :k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)


def search_shard(place: Place, given: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The best rows of one shard, by their number in the whole; a task of :mod:`qguard.fleet`."""
    from qguard.vectors.similarity import similarity_for

    dim, start, blocks = int(place.given["dim"]), int(given["start"]), given["blocks"]
    rows = sum(count for count, _ in blocks)
    if not data:
        data = _read(Path(place.given["path"]), start, blocks, dim)
    documents = np.frombuffer(data, np.float32).reshape(rows, dim)
    queries = np.frombuffer(place.data, np.float32).reshape(-1, dim)
    k = min(int(place.given["k"]), rows)
    name = str(place.given["similarity"])
    indices, scores = top_k(queries, documents, k, similarity=similarity_for("dense", name))
    return {"k": k}, (indices + start).tobytes() + scores.tobytes()


def _read(path: Path, start: int, blocks: list[tuple[int, str]], dim: int) -> bytes:
    """Rows of the file as this machine sees it, each block proved by its hash."""
    found = bytearray()
    try:
        with path.open("rb") as file:
            file.seek(start * dim * 4)
            for rows, digest in blocks:
                block = file.read(rows * dim * 4)
                if hashlib.sha256(block).hexdigest() != digest:
                    raise NeedsData
                found += block
    except OSError:
        raise NeedsData from None
    return bytes(found)


class _Bytes:
    """Reads a shard when a machine asks for it."""

    def __init__(self, documents: VectorFile, start: int, blocks: list[tuple[int, str]]) -> None:
        self._documents, self._start, self._rows = documents, start, sum(rows for rows, _ in blocks)

    def __call__(self) -> bytes:
        out = np.empty((self._rows, self._documents.dim), np.float32)
        return self._documents.read(self._start, out).tobytes()


def _shards(documents: VectorFile, lanes: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """First row and blocks of each shard."""
    size = max(SMALLEST, -(-documents.rows // (EACH * lanes)))
    start, rows, some = 0, 0, list[tuple[int, str]]()
    for count, digest in documents.blocks:
        some.append((count, digest))
        rows += count
        if rows >= size:
            yield start, some
            start, rows, some = start + rows, 0, []
    if some:
        yield start, some
