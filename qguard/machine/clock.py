"""Moments as reports and statements have them."""

from __future__ import annotations

import datetime


def stamp(moment: datetime.datetime) -> str:
    """A moment in UTC, to the second, such as ``2026-05-17T09:30:00Z``."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
