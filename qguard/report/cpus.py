"""How reports tell of CPUs that were emulated. No time that was taken there is ever told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = (
    "Emulated CPU", "Instruction sets", "texts", "cosine to fp32, mean", "lowest", "overlap@10 with fp32",
    "cosine to this CPU, lowest", "overlap@10 with this CPU",
)  # fmt: skip
_VALUES = ("cpu.cosine_mean", "cpu.cosine_min", "cpu.overlap@10", "cpu.native_cosine_min", "cpu.native_overlap@10")


def in_words(found: Mapping[str, Any]) -> str:
    """What one CPU computed, beside what this one did, in one line."""
    host = found["host"]
    mean, least, overlap, near, same = (_pair(found, name) for name in _VALUES)
    option = ", with the option for exact products" if found["exact_products"] else ""
    return (
        f"{found['name']}, emulated by {host['emulated']}{option}: {found['texts']} of {found['of']} texts; "
        f"cosine to fp32 mean {mean}, lowest {least}; "
        f"overlap@10 {overlap}; to this CPU's vectors lowest cosine {near}, overlap@10 {same}"
    )


def _pair(found: Mapping[str, Any], name: str) -> str:
    """A value, and in brackets that of this CPU on the same texts."""
    entry = found["values"].get(name)
    if entry is None:
        return "not measured"
    native = entry.get("native")
    return number(entry["value"]) + ("" if native is None else f" (this CPU {number(native)})")


def number(value: float) -> str:
    """Six digits near 1, where four would hide the difference."""
    return f"{value:.6f}" if value > 0.9995 and value != 1 else f"{value:.5f}" if value > 0.99 and value != 1 else f"{value:.4f}"


def rows(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every CPU of a run: ``name``, ``figures`` of its row under :data:`HEADS` without the first, and ``words``."""
    return [
        {
            "name": f"{c['name']} ({c['host']['emulated']})",
            "figures": [c["host"]["class"], f"{c['texts']} of {c['of']}", *(_pair(c, name) for name in _VALUES)],
            "words": in_words(c),
        }
        for c in run.get("cpus", ())
    ]
