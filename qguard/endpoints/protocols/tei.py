"""Text Embeddings Inference: ``/embed``, ``/rerank`` and ``/embed_sparse``.

Its answers name no model and no token counts, and ``/embed`` answers in the order of the texts without an index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qguard.endpoints.answer import Said
from qguard.endpoints.protocols import Ask, Wire
from qguard.endpoints.protocols.reading import indexed, listed, matrix, member, number, placed
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.outputs import SparseRows


def _payload(ask: Ask) -> dict[str, Any]:
    cut = {"truncate": True}  # as sentence-transformers does; without it TEI may refuse long texts
    if ask.kind == CROSS_ENCODER:
        raw = {"raw_scores": not ask.normalized}
        return {"query": ask.query, "texts": list(ask.texts), **raw, **cut, **ask.more}
    prompt = {"prompt_name": ask.prompt} if ask.prompt else {}
    normalize = {} if ask.normalized is None or ask.kind == SPARSE else {"normalize": ask.normalized}
    return {"inputs": list(ask.texts), **prompt, **normalize, **cut, **ask.more}


def _read(value: Any, ask: Ask) -> Said:
    if ask.kind == CROSS_ENCODER:
        return ranked(listed(value, None, "scores"), "score", ask)
    rows = listed(value, len(ask.texts), "vectors")
    return Said(_sparse(rows, ask) if ask.kind == SPARSE else matrix(rows))


def ranked(items: list[Any], name: str, ask: Ask) -> Said:
    """Scores that come with an index, the best first.

    Args:
        items: JSON objects with ``index`` and the score.
        name: The member that holds the score.
        ask: The request.

    Raises:
        ValueError: for items that are not one score for each text.
    """
    indices = indexed(items, len(ask.texts), "scores")
    found = [number(member(item, name, int, float, where=f"item {k} of scores"), name) for k, item in enumerate(items)]
    return Said(np.asarray(placed(found, indices), np.float64)[:, None], indices)


def _sparse(rows: list[Any], ask: Ask) -> SparseRows:
    from scipy.sparse import csr_array

    columns: list[int] = []
    weights: list[float] = []
    ends = [0]
    for k, row in enumerate(rows):
        if not isinstance(row, list):
            raise ValueError(f"row {k}: expected a list of objects with 'index' and 'value', found {type(row).__name__}")
        own = [member(entry, "index", int, where=f"an entry of row {k}") for entry in row]
        if own and not 0 <= min(own) <= max(own) < ask.width:
            raise ValueError(f"row {k}: expected indices of 0 to {ask.width - 1}, the words of the vocabulary, found {max(own)}")
        if len(set(own)) != len(own):
            raise ValueError(f"row {k}: an index stands there twice")
        columns += own
        weights += [number(member(e, "value", int, float, where=f"an entry of row {k}"), f"value of row {k}") for e in row]
        ends.append(len(columns))
    return SparseRows.of(csr_array((np.asarray(weights, np.float32), columns, ends), shape=(len(rows), ask.width)))


WIRE = Wire({DENSE: "/embed", CROSS_ENCODER: "/rerank", SPARSE: "/embed_sparse"}, _payload, _read)
