"""Further stores: each passes the proof, an idle or another index does not, and what a store does not do is said."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from qguard.errors import UsageProblem
from qguard.indexes import stores
from qguard.indexes.collection import Hits
from qguard.indexes.measures import measure
from qguard.indexes.settings import Index
from tests.test_indexes import DIM, ROWS, Faulty, filled, proved, recall_of, refused, searches, vectors

GRAPH = {"params": {"M": 8, "efConstruction": 40}, "search": {"ef": 32}}


def _needs(package):
    """Looked for, and not imported: the store itself imports it, and what has to come before it."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def turned():
    """Another model's vectors of the same documents."""
    documents, _ = vectors()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0].astype(np.float32)
    return np.ascontiguousarray(documents @ turn)


def exactly(s, collection):
    """The collection, searched exactly whatever is asked, as an idle index is."""

    def search(queries, k, params, below=None):
        exact = type(s.plain)(queries, s.plain.documents, s.metric, np.full(len(queries), -1)).neighbours(k)
        return Hits(exact.rows, exact.scores)

    return Faulty(collection, search=search)


# ---- usearch ----


@pytest.mark.parametrize(
    ("kind", "stored", "metric"),
    [
        ("HNSW", "float32", "cosine"),
        ("HNSW", "bfloat16", "euclidean"),
        ("HNSW", "binary", "hamming"),
        ("HNSW_E4M3", "float32", "dot"),
    ],
)
def test_usearch_is_proved_and_measured(kind, stored, metric):
    _needs("usearch")
    index = Index("graph", "usearch", kind, filters=(), **GRAPH)
    found = measure(index, searches(stored, metric))
    assert found.proof.missed > 0
    assert found.proof.params == index.params
    assert found.proof.read_back == 64
    assert (found.items.rows[:, 2] == 1).all()
    assert recall_of(found) > (0.9 if kind == "HNSW" else 0.8)
    assert found.bytes > ROWS * DIM / 8
    assert not found.filtered  # its Python package has none


def test_usearch_that_is_idle_or_holds_other_rows_is_found_out():
    _needs("usearch")
    index = Index("graph", "usearch", "HNSW", **GRAPH)
    s, collection = filled(index)
    refused(index, s, exactly(s, collection), "as an exact search does: the index is idle")
    _, other = filled(index, documents=turned())
    refused(index, s, other, "holds other vectors than this model's")
    rounded = replace(index, type="HNSW_I8")
    s, collection = filled(rounded)
    refused(rounded, s, exactly(s, collection), "scores of vectors that are not rounded")
    refused(index, s, collection, "expected an index of type HNSW, found one of type HNSW_I8")


def test_usearch_reads_a_file_which_does_not_keep_how_it_was_built(tmp_path):
    _needs("usearch")
    index = Index("graph", "usearch", "HNSW", params={"M": 8}, search={"ef": 32})
    s, collection = filled(index)
    path = tmp_path / "some.usearch"
    collection._made.save(str(path))
    there = replace(index, uri=str(path), existing=True)
    opened = stores.open_collection(there, "", DIM, "float32", "cosine")
    assert proved(there, s, opened).missed > 0
    built = replace(there, params={"efConstruction": 40})
    refused(built, s, opened, "has no efConstruction: expected 40, and the store tells none")
    with pytest.raises(UsageProblem, match=r"expected a file of usearch at uri, found none at 'none.usearch'"):
        stores.open_collection(replace(there, uri=str(tmp_path / "none.usearch")), "", DIM, "float32", "cosine")


def test_usearch_cuts_lengths_from_bytes_so_that_only_cosine_ranks_them():
    _needs("usearch")
    with pytest.raises(UsageProblem, match="HNSW_I8 in usearch ranks float32 vectors by cosine; found metric 'dot'"):
        stores.check(Index("graph", "usearch", "HNSW_I8"), "float32", "dot")


def test_faiss_searches_after_usearch():
    """In one process, whichever is asked first. A crash would end the gate without a word."""
    _needs("usearch")
    _needs("faiss")
    found = [stores.open_collection(Index("one", store, "HNSW"), "rows", 8, "float32", "dot") for store in ("usearch", "faiss")]
    assert [c.rows() for c in found] == [0, 0]
    for collection in found:
        collection.close()
