"""The CPU that judges: its name and its instruction sets, as Linux reports them."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
_VNNI = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


@cache
def cpu() -> tuple[str, frozenset[str]]:
    """Model name and flags from ``/proc/cpuinfo``; ``("unknown", frozenset())`` where there is none."""
    model, flags = "unknown", frozenset[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Processor"):
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = frozenset(value.split())
                break
    return model, flags


def cpu_class() -> str:
    """The architecture and those of its instruction sets that decide how a model's sums are rounded: ``x86_64 avx2 avx512f``."""
    flags = cpu()[1]
    return " ".join([platform.machine().lower(), *(f for f in ISA if f in flags)])


def saturates() -> bool:
    """Whether products of unsigned and signed 8-bit integers are summed in pairs that saturate at 16 bits.

    True on x86 without VNNI, whose ``vpmaddubsw`` does that; false elsewhere, and where the flags are unknown.
    """
    flags = cpu()[1]
    return platform.machine().lower() in ("x86_64", "amd64") and bool(flags) and not flags & _VNNI


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
