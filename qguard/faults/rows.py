"""Faults of the word embeddings, row by row: one row is one word, which no text of a suite may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qguard.faults.site import Candidate, FaultSite, NotApplicable


def swapped(site: FaultSite, kind: str) -> Candidate:
    """Swap rows, with the scales that belong to them.

    Args:
        site: Where.
        kind: Which two words (see :meth:`FaultSite.two_words`), ``all`` for each with its neighbor, or ``reversed``.
    """
    graph = site.graph
    table, rows = graph.table()
    order = np.arange(rows)
    if kind == "all":
        order[: rows // 2 * 2] = order[: rows // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    elif kind == "reversed":
        order = order[::-1]
    else:
        a, b = site.two_words(kind, rows)
        order[[a, b]] = b, a
    for name in [table, *_scales(site, table, rows)]:
        graph.put(name, graph.value(name)[order])
    return site.operated()


def zeroed(site: FaultSite, which: str | int) -> Candidate:
    """Rows that hold only zeros, as padding and unused tokens have them in some exports.

    Args:
        site: Where.
        which: See :func:`_words`.
    """

    def change(table: str, value: Any, at: Any) -> Any:
        value[at] = 0 if np.issubdtype(value.dtype, np.floating) else _stored_zero(site, table)
        return value

    return _changed(site, which, change)


def foreign(site: FaultSite, which: str | int) -> Candidate:
    """Rows of another model: their values are in another order.

    Args:
        site: Where.
        which: See :func:`_words`.
    """

    def change(_: str, value: Any, at: Any) -> Any:
        flat = value.reshape(len(value), -1)
        flat[at] = flat[at][:, np.random.default_rng(0).permutation(flat.shape[1])]
        return flat.reshape(value.shape)

    return _changed(site, which, change)


def not_finite(site: FaultSite, which: str) -> Candidate:
    """A scale, or of floats a weight, that is NaN.

    Args:
        site: Where.
        which: ``word``: of a word that no text has; ``channel``: of one output of a layer.
    """
    graph = site.graph
    if which == "word":
        table, rows = graph.table()
        (at,) = _words(site, "unused", rows)
        names = [table, *_scales(site, table, rows)]
    else:
        layer, at = graph.layers[len(graph.layers) // 2], 0
        names = [layer.weight, *([layer.scale] if layer.scale in graph.initializers else [])]
    value = graph.value(names[-1])
    if not np.issubdtype(value.dtype, np.floating):
        raise NotApplicable("the integers have no scale of their own in the file")
    value.reshape(len(value) if value.ndim else 1, -1)[at, 0] = np.nan
    graph.put(names[-1], value)
    return site.operated()


def _changed(site: FaultSite, which: str | int, change: Callable[[str, Any, Any], Any]) -> Candidate:
    """With other values of the table: ``change`` makes them from its name, its values and the numbers of the rows."""
    graph = site.graph
    table, rows = graph.table()
    graph.put(table, change(table, graph.value(table), _words(site, which, rows)))
    return site.operated()


def _words(site: FaultSite, which: str | int, rows: int) -> Any:
    """Row numbers: one of a kind that :meth:`FaultSite.two_words` knows, or each of so many."""
    return np.arange(0, rows, which) if isinstance(which, int) else np.array([site.two_words(which, rows)[0]])


def _scales(site: FaultSite, table: str, rows: int) -> list[str]:
    """What is stored beside a table, row by row."""
    graph = site.graph
    beside = {n for node in graph.consumers(table) for n in node.input if n in graph.initializers}
    for node in graph.operators("Gather"):  # scales that are looked up beside their rows
        beside |= {n for n in node.input[:1] if n in graph.initializers}
    return sorted(n for n in beside - {table} if graph.array(n).shape[:1] == (rows,))


def _stored_zero(site: FaultSite, table: str) -> Any:
    """The integers of a row (width,) that stand for zeros."""
    from qguard.artifacts.tables.onnx import read

    found = next((t for t in read(site.graph.file) if t.name == table and not t.unread), None)
    stored = site.graph.array(table)
    if found is None or stored.shape != (found.rows, found.width):
        raise NotApplicable("the table's integers are packed, or what dequantizes them is not known")
    values, step = found.read(0, 1)
    return np.rint(stored[0] - (values / step)[0]).astype(stored.dtype)
