"""Loads of a server in words and in cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN = "qguard"  # the source of what qguard measured itself


def stated(load: Mapping[str, Any]) -> bool:
    """Whether another tool states these figures."""
    return bool(load["source"] != OWN)


def sent(load: Mapping[str, Any]) -> str:
    """What load it was: ``8 clients``, ``20/s, poisson``."""
    if load["mode"] == "closed":
        n = load.get("clients")
        return "closed loop" if n is None else f"{n} client{'s' if n != 1 else ''}"
    rate = "open loop" if load.get("rate") is None else f"{load['rate']:g}/s"
    return f"{rate}, {load['arrivals']}" if load.get("arrivals") else rate


def number(value: float | None, digits: int = 1) -> str:
    """A figure that may not be known."""
    return "…" if value is None else f"{value:,.{digits}f}"


def named(load: Mapping[str, Any]) -> str:
    """What it is called in a table."""
    return f"stated by {load['source']}, not measured by qguard" if stated(load) else str(load["bucket"])


def figures(load: Mapping[str, Any]) -> list[str]:
    """p50, p95, p99, answers per second, requests, failed requests and the first latency, as cells of a table."""
    shown = (("p50_ms", 1), ("p95_ms", 1), ("p99_ms", 1), ("throughput", 1), ("requests", 0), ("failed", 0), ("cold_ms", 1))
    return [number(load.get(key), digits) for key, digits in shown]


def words(load: Mapping[str, Any]) -> str:
    """One line on a load."""
    head = named(load) if stated(load) else f"load {named(load)}"
    p50, p95, p99 = (number(load.get(f"{p}_ms")) for p in ("p50", "p95", "p99"))
    more = "" if load.get("cold_ms") is None else f"; first {number(load['cold_ms'])} ms"
    failed = "" if load.get("failed") is None else f", {load['failed']:,} failed"
    return (
        f"{head}, {sent(load)}: p50 {p50}, p95 {p95}, p99 {p99} ms, {number(load.get('throughput'))}/s, "
        f"{load['requests']:,} requests{failed}{more}{'; ' if load.get('note') else ''}{load.get('note', '')}"
    )
