"""The CPU that judges: its name and its instruction sets, by the names that Linux has for them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
_VNNI = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


@cache
def cpu() -> tuple[str, frozenset[str]]:
    """Model name, and flags as Linux calls them; ``"unknown"`` and none where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return linux(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    if sys.platform == "darwin":
        return mac(_told("/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional.arm"))
    return os.environ.get("PROCESSOR_IDENTIFIER") or platform.processor() or "unknown", frozenset()


def linux(text: str) -> tuple[str, frozenset[str]]:
    """Of ``/proc/cpuinfo``, whose first processor counts. Of ARM it holds numbers instead of a name."""
    values = dict[str, str]()
    for line in text.split("\n\n", maxsplit=1)[0].splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    flags = values.get("flags") or values.get("Features") or ""
    name = values.get("model name") or values.get("Processor")
    if not name and (part := values.get("CPU part")):
        maker = values.get("CPU implementer", "")
        name = _ARM.get(part, "") if maker == "0x41" else ""
        name = name or f"ARM implementer {maker} part {part}"
    return name or "unknown", frozenset(flags.split())


def mac(text: str) -> tuple[str, frozenset[str]]:
    """Of what ``sysctl`` prints of macOS."""
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = {flag for feature, flag in _APPLE.items() if values.get(f"hw.optional.arm.{feature}") == "1"}
    return values.get("machdep.cpu.brand_string") or "unknown", frozenset(flags)


def _told(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


# parts of Arm's own, by number
_ARM = {
    "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2", "0xd84": "Neoverse-V3", "0xd8e": "Neoverse-N3",
}  # fmt: skip
_APPLE = {"FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}  # sysctl's name → Linux'


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
    """CPU cores that this process may use; at most those of :func:`limit`."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([found, *_limit])


def limit(count: int) -> None:
    """This process uses at most so many cores: others have the rest."""
    _limit[:] = [count]


_limit: list[int] = []
