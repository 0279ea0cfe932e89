"""The machine that judges, as far as it decides a value or a time; never its name."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from qguard.machine.cpu import cpu, cpu_class


@cache
def _facts() -> dict[str, Any]:
    from qguard.encoders.runtimes import libraries
    from qguard.machine.versions import installed

    return {
        "cpu": cpu()[0],
        "class": cpu_class(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "versions": installed(*libraries(), "numpy", "tokenizers"),
    }


def host() -> dict[str, Any]:
    """``cpu`` (its model), ``class`` (of :mod:`qguard.machine.cpu`), ``cores``, ``system``, ``python`` and ``versions``."""
    facts = _facts()
    return {**facts, "versions": dict(facts["versions"])}


def label(facts: Mapping[str, Any]) -> str:
    """A host in a few words, for the head of a column: ``AMD EPYC 9R14, 2 cores, x86_64 avx2 avx512_vnni``."""
    fleet = facts.get("fleet")
    many = f", {fleet['nodes']} nodes of {fleet['engine']}" if fleet else ""
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['class']}{many}"
