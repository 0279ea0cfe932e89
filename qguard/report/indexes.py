"""How reports tell of indexes of vector databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = ("Index", "Vectors", "recall@10", "overlap@10", "p50 ms", "p95 ms", "filled in s", "MB", "narrowest search misses")


def named(index: Mapping[str, Any]) -> str:
    """Name, store, type and parameters, as ``graph: milvus HNSW M=16 ef=64``."""
    given = " ".join(f"{k}={v}" for k, v in {**index["params"], **index["search"]}.items())
    return f"{index['name']}: {index['store']} {index['type']} {given}".rstrip()


def in_words(index: Mapping[str, Any]) -> str:
    """The loss of each part, and what a search costs, in one line."""
    size = "" if index["bytes"] is None else f", {index['bytes'] / 1e6:.1f} MB"
    filled = "" if index["build_seconds"] is None else f", filled in {_filled(index):.1f} s"
    times = f"p50 {index['p50_ms']:.2f}, p95 {index['p95_ms']:.2f} ms{filled}"
    return f"{index['words']}; {times}{size}"


def figures(index: Mapping[str, Any], recall: float | None) -> list[str]:
    """A row under :data:`HEADS`, without the first."""
    proof, size = index["proof"], index["bytes"]
    missed = "exact" if proof.get("missed") is None else f"{proof['missed']} of {proof['probes']}"
    return [
        index["vectors"], "" if recall is None else f"{recall:.3f}", f"{index['split']['index']:.3f}", f"{index['p50_ms']:.2f}",
        f"{index['p95_ms']:.2f}", "" if index["build_seconds"] is None else f"{_filled(index):.1f}",
        "" if size is None else f"{size / 1e6:.1f}", missed,
    ]  # fmt: skip


def _filled(index: Mapping[str, Any]) -> float:
    """Seconds for rows and index: some stores build while they insert."""
    return float(index["insert_seconds"] + index["build_seconds"])


def rows(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every index of a run, with the figures of its row."""
    recalls = {c["slice"]: c["value"] for c in run["checks"] if c["name"] == "index.recall@10"}
    return [{"name": named(i), "words": i["words"], "figures": figures(i, recalls.get(i["name"]))} for i in run.get("index", ())]
