"""Versions of the libraries whose results depend on them."""

from __future__ import annotations

import importlib.metadata


def installed(*packages: str) -> dict[str, str]:
    """Versions of installed distributions, read from their metadata without importing them."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
