"""CPUs by the names that QEMU has for them, and the instruction sets that real ones have, by NumPy's names.

Only those sets are named that decide which kernels a runtime chooses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

X86, ARM = "x86_64", "aarch64"


@dataclass(frozen=True)
class Known:
    """A CPU whose instruction sets are known.

    Attributes:
        model: As QEMU names it.
        has: Of :data:`DECIDES` what a real one has.
        short: Other names for it.
        what: Whose it is, and from when, for people.
        machine: Its architecture, as Linux names it.
    """

    model: str
    has: frozenset[str]
    short: tuple[str, ...]
    what: str
    machine: str = X86


_SSE, _AVX = frozenset({"SSE42"}), frozenset({"SSE42", "AVX"})
_AVX2 = _AVX | {"F16C", "AVX2", "FMA3"}
_SKYLAKE = _AVX2 | {"AVX512F", "AVX512CD", "AVX512BW", "AVX512DQ", "AVX512VL"}
_VNNI = _SKYLAKE | {"AVX512VNNI"}
_DOT, _SVE = frozenset({"ASIMDDP"}), frozenset({"ASIMDDP", "SVE"})
DECIDES = {X86: _VNNI, ARM: _SVE}
VNNI = frozenset({"AVX512VNNI"})  # NumPy has no name for AVX-VNNI, which QEMU does not emulate either
KNOWN = (
    Known("Nehalem", _SSE, (), "Intel Xeon 5500, 2009"),
    Known("SandyBridge", _AVX, ("sandy-bridge",), "Intel Xeon E5, 2012"),
    Known("IvyBridge", _AVX | {"F16C"}, ("ivy-bridge",), "Intel Xeon E5 v2, 2013"),
    Known("Haswell", _AVX2, (), "Intel Xeon E5 v3, 2014"),
    Known("Broadwell", _AVX2, (), "Intel Xeon E5 v4, 2016"),
    Known("Skylake-Server", _SKYLAKE, ("skylake",), "Intel Xeon Scalable, 2017"),
    Known("Cascadelake-Server", _VNNI, ("cascadelake", "cascade-lake"), "Intel Xeon Scalable, 2019"),
    Known("Icelake-Server", _VNNI, ("icelake", "ice-lake"), "Intel Xeon Scalable, 2021"),
    Known("SapphireRapids", _VNNI, ("sapphire-rapids",), "Intel Xeon Scalable, 2023"),
    Known("EPYC", _AVX2, ("naples",), "AMD EPYC 7001, 2017"),
    Known("EPYC-Rome", _AVX2, ("rome",), "AMD EPYC 7002, 2019"),
    Known("EPYC-Milan", _AVX2, ("milan",), "AMD EPYC 7003, 2021"),
    Known("EPYC-Genoa", _VNNI, ("genoa",), "AMD EPYC 9004, 2022"),
    Known("cortex-a72", frozenset(), ("graviton1",), "AWS Graviton, 2018", ARM),
    Known("neoverse-n1", _DOT, ("graviton2", "altra"), "AWS Graviton2, Ampere Altra, 2020", ARM),
    Known("neoverse-v1", _SVE, ("graviton3",), "AWS Graviton3, 2022", ARM),
    Known("neoverse-n2", _SVE, ("cobalt",), "Azure Cobalt 100, 2023", ARM),
)
_OF_ARM = re.compile(r"^(neoverse|cortex|graviton|altra|cobalt|ampere|axion|a64fx|apple|aarch64|arm)", re.IGNORECASE)


def machine_of(name: str) -> str:
    """The architecture of a CPU, by its name."""
    return ARM if _OF_ARM.match(name) else X86


def known(model: str) -> Known | None:
    """What is known of a CPU, by QEMU's name."""
    return next((k for k in KNOWN if k.model == model), None)


def of_short(name: str) -> str:
    """QEMU's name where a short one is given; else the same, in lower case."""
    short = {s: k.model.lower() for k in KNOWN for s in k.short}
    return short.get(name.lower(), name.lower())


def words(machine: str, features: Sequence[str]) -> str:
    """Architecture and instruction sets as Linux names those that decide: ``x86_64 sse4_2 avx avx2 fma``."""
    names = {
        "SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "FMA3": "fma", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni",
        "ASIMD": "asimd", "ASIMDDP": "asimddp", "SVE": "sve",
    }  # fmt: skip
    return " ".join([machine, *(name for feature, name in names.items() if feature in features)])


def saturates(machine: str, features: Sequence[str]) -> bool:
    """As :func:`qguard.machine.cpu.saturates`, of a CPU with these features, by NumPy's names."""
    return machine == X86 and not VNNI & set(features)
