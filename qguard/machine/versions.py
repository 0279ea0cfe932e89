"""Versions of the libraries whose results depend on them."""

from __future__ import annotations

import importlib.metadata

ABSENT = "absent"
# Distributions of the same package: only one of them can be imported
_BUILDS = {"onnxruntime": {"onnxruntime-gpu": "gpu"}}


def installed(*packages: str) -> dict[str, str]:
    """Versions of installed distributions, read from their metadata without importing them.

    Where another build takes the place of one, its version with the build behind it, such as ``1.31.1+gpu``.
    """
    found = {}
    for package in packages:
        found[package] = _version(package)
        for other, build in _BUILDS.get(package, {}).items():
            if found[package] == ABSENT and (version := _version(other)) != ABSENT:
                found[package] = f"{version}+{build}"
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
