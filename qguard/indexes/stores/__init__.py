"""The stores: one file each, behind :class:`qguard.indexes.collection.Collection`. A new one is a file here and a line below."""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

from qguard.boundary import step
from qguard.errors import UsageProblem, unknown
from qguard.indexes.collection import Collection, IndexType, Store
from qguard.indexes.settings import BINARY, HAMMING, STATED, Index
from qguard.registry import function_of


def _store(name: str, *packages: str, existing: bool = True, fields: bool = True) -> Store:
    module = f"{__name__}.{name}"
    return Store(name, f"{module}:open_collection", f"{module}:types", name, packages, existing, fields)


STORES = {
    s.name: s
    for s in (
        _store("milvus", "pymilvus"),
        _store("faiss", "faiss", fields=False),
        _store("usearch", "usearch", fields=False),
        _store("lancedb", "lancedb"),
        _store("pgvector", "psycopg"),
        _store("qdrant", "qdrant_client", existing=False),
    )
}


def store_of(index: Index) -> Store:
    """The store of an index, whose packages are there.

    Raises:
        UsageProblem: for an unknown store, or a package that is not installed.
    """
    if index.store not in STORES:
        raise unknown(f"store of index {index.name!r}:", index.store, STORES)
    store = STORES[index.store]
    if absent := [p for p in store.packages if find_spec(p) is None]:
        raise UsageProblem(
            f"index {index.name!r}: the store {store.name!r} needs {' and '.join(absent)}, not installed; run: "
            f"pip install 'qguard[{store.extra}]'"
        )
    return store


def type_of(index: Index) -> IndexType:
    """The type of an index, as its store builds it.

    Raises:
        UsageProblem: for a type that the store does not build.
    """
    store = store_of(index)
    types: dict[str, IndexType] = {t.name: t for t in function_of(store.types)(index)}
    if index.type not in types:
        raise unknown(f"type of index {index.name!r} in {store.name}:", index.type, types)
    return types[index.type]


def check(index: Index, vectors: str, metric: str) -> IndexType:
    """The store does what the index asks for; anything else is told before anything is built.

    Args:
        index: Its settings.
        vectors: The kind of vectors that are stored.
        metric: What they are ranked by.

    Raises:
        UsageProblem: for a type, parameter, kind of vectors or metric that the store does not have.
    """
    kind = type_of(index)
    _check_existing(index, vectors)
    what = f"index {index.name!r}: {index.type} in {index.store}"
    for table, known in (("params", kind.build), ("search", kind.search)):
        for name in getattr(index, table):
            if name not in known:
                named = ", ".join(known) or "none"
                raise UsageProblem(f"{what} has no {name} among its {table}; known: {named}")
    if vectors not in kind.vectors:
        raise UsageProblem(
            f"{what} stores {' and '.join(kind.vectors)} vectors; found {vectors}. Take another type or store, or a precision "
            f"with {kind.vectors[0]} vectors"
        )
    if (metric == HAMMING) != (vectors == BINARY) or metric not in kind.metrics:
        fit = HAMMING if vectors == BINARY else " or ".join(m for m in kind.metrics if m != HAMMING)
        raise UsageProblem(f"{what} ranks {vectors} vectors by {fit}; found metric {metric!r}")
    return kind


def _check_existing(index: Index, vectors: str) -> None:
    if not index.existing:
        return
    store = STORES[index.store]
    if not store.existing:
        able = ", ".join(s.name for s in STORES.values() if s.existing)
        raise UsageProblem(f"index {index.name!r}: existing collections are read of {able}, found store {store.name!r}")
    for given, wanted, what in ((index.uri, True, "uri"), (index.collection, store.fields, "collection")):
        if bool(given) != wanted:
            found = f"expected {what}, found none" if wanted else f"an index of {store.name} is one file and has no {what}"
            raise UsageProblem(f"index {index.name!r} exists already: {found}")
    if vectors not in STATED:
        raise UsageProblem(
            f"index {index.name!r}: an existing collection is searched with vectors like those that it holds, one of "
            f"{', '.join(STATED)}; found a precision with {vectors} vectors"
        )


def open_collection(index: Index, name: str, dim: int, vectors: str, metric: str) -> Collection:
    """Open the store, with a collection that is new or was filled in part.

    Args:
        index: Its settings; checked.
        name: Of the collection.
        dim: Values of a vector.
        vectors: The kind of vectors that are stored.
        metric: What they are ranked by.
    """
    with step(f"opening store {index.store!r} of index {index.name!r}"):
        return cast(Collection, function_of(store_of(index).opens)(index, name, dim, vectors, metric))
