"""Accepted ratios of time: compared only on an equal fingerprint of the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qguard.accepted.stored import read

MOVED = 0.10  # ratios of time repeat to a few per cent on an equal fingerprint; a tenth is a change


def moved(slowdown: float) -> bool:
    """Whether a ratio is no longer the accepted one; ``slowdown`` is 1 where it is."""
    return not 1 / (1 + MOVED) <= slowdown <= 1 + MOVED


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    fingerprint = tuple(sorted((k, str(v)) for k, v in entry["fingerprint"].items()))
    return entry["precision"], entry["metric"], entry["bucket"], fingerprint


def merged(
    stored: list[dict[str, Any]], run: Mapping[str, Any], precision: str, why: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The accepted ratios with those of a run put over them.

    Args:
        stored: What was accepted.
        run: Of a JSON report.
        precision: ``NAME@RUNTIME``.
        why: ``reason`` and ``date``.

    Returns:
        All entries, sorted, and one line for each that is new or replaced.
    """
    entries = {_key(e): e for e in stored}
    lines = []
    for fact in run["latency"]:
        entry = {"precision": precision, **{k: fact[k] for k in ("metric", "bucket", "ratio", "interval", "fingerprint")}, **why}
        old = entries.get(_key(entry))
        lines.append(
            f"{precision} {fact['metric']}[{fact['bucket']}] "
            + (f"{old['ratio']:.2f} → " if old else "") + f"{fact['ratio']:.2f}"
        )  # fmt: skip
        entries[_key(entry)] = entry
    return [entries[k] for k in sorted(entries)], lines


def trend(folder: Path, precision: str, fact: Mapping[str, Any]) -> tuple[float, dict[str, Any]] | None:
    """How far a ratio moved since it was accepted on an equal fingerprint.

    Args:
        folder: The golden folder of the model and suite.
        precision: ``NAME@RUNTIME``.
        fact: The facts of a latency trial.

    Returns:
        Slowdown as a ratio (1.2: the candidate takes a fifth longer relative to its baseline) and the accepted entry, or
        ``None`` where nothing was accepted for this precision, bucket and machine.
    """
    wanted = _key({**fact, "precision": precision})
    for entry in read(folder)["latency"]:
        if _key(entry) == wanted:
            change = math.log(fact["ratio"] / entry["ratio"])
            return math.exp(-change if fact["metric"] == "latency.speedup" else change), entry
    return None
