"""What of a machine decides results: a run's machines must agree in all of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qguard.errors import MeasurementProblem
from qguard.files import sha256_json
from qguard.machine.cpu import cpu, cpu_class
from qguard.machine.versions import installed
from qguard.version import __version__

# environment variables that choose other kernels, and so other sums
_KERNELS = (
    "OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One machine of a fleet.

    Attributes:
        id: The engine's name for it.
        address: Where it is, for people.
        cores: CPUs that the engine may use there.
        facts: See :func:`facts`.
    """

    id: str
    address: str
    cores: int
    facts: Mapping[str, Any]


@cache
def facts() -> dict[str, Any]:
    """``cpu``, ``class`` of its instructions, ``system``, ``python``, ``qguard`` with a hash of its code, ``versions`` of the
    libraries that compute, ``parts`` that other packages register, and ``kernels`` that the environment chooses.
    """
    from qguard.encoders.runtimes import libraries

    points = importlib.metadata.entry_points()
    groups = [group for group in points.groups if group.startswith("qguard.")]
    own = {p.dist.name: p.dist.version for group in groups for p in points.select(group=group) if p.dist is not None}
    return {
        "cpu": cpu()[0],
        "class": cpu_class(),
        "system": platform.system(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "qguard": f"{__version__}, code {_code()[:12]}",
        "versions": installed(*libraries(), "numpy", "tokenizers", "sentence-transformers", "onnx"),
        "parts": own,
        "kernels": {name: os.environ[name] for name in _KERNELS if name in os.environ},
    }


def digest(found: Mapping[str, Any] | None = None) -> str:
    """SHA-256 of the facts of a machine, by default of this one."""
    return sha256_json(facts() if found is None else found)


def _code() -> str:
    """SHA-256 over the modules of qguard: two working copies of one version are told apart."""
    root, total = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def unlike(here: Mapping[str, Any], nodes: Sequence[Node]) -> list[Node]:
    """The nodes that differ from this machine."""
    return [n for n in nodes if digest(n.facts) != digest(here)]


def refusal(here: Mapping[str, Any], nodes: Sequence[Node]) -> MeasurementProblem:
    """What is said of nodes that differ: each with what differs, and what mends it."""
    lines = []
    for node in unlike(here, nodes):
        lines.append(f"  node {node.address} ({node.cores} CPUs): " + "; ".join(differences(here, node.facts)))
    return MeasurementProblem(
        f"{len(lines)} of {len(nodes)} nodes of the Ray cluster would compute other results than this machine:\n"
        + "\n".join(lines)
        + "\nInstall the same versions on each node; or leave such nodes out of this run: --ray-alike"
    )


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What differs between two machines, each in words."""
    a, b = _flat(here), _flat(there)
    return [
        f"{name} is {b.get(name, 'absent')}, here {a.get(name, 'absent')}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat |= {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat
