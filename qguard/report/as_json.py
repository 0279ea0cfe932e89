"""The report for machines."""

from __future__ import annotations

from typing import Any

from qguard.files import dump_json


def render(report: dict[str, Any]) -> bytes:
    """The report as stable, readable JSON."""
    return dump_json(report)
