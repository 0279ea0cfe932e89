"""The mark of a golden that a server recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "endpoint"  # of the manifest: what recorded it


def said(manifest: Mapping[str, Any]) -> str:
    """Of a golden that a server recorded, which one and how that was confirmed; empty for all others."""
    found = manifest.get(KEY)
    if not isinstance(found, dict):
        return ""
    model = found.get("says") or found.get("model")
    return (
        f"fp32 from the server {found.get('url')} (protocol {found.get('protocol')}, model {model}, fingerprint "
        f"{str(found.get('fingerprint'))[:16]}, {found.get('date')}); {_how(manifest.get('paths'))}"
    )


def _how(paths: Any) -> str:
    confirmed = str(paths.get("confirmed")) if isinstance(paths, dict) else ""
    return confirmed if confirmed.startswith("not ") else f"confirmed by {confirmed}"
