"""Work on several machines. The engine that schedules and retries is Ray; qguard only says what a task is.

A task is a function of JSON and bytes that gives JSON and bytes. It is named as ``module:function`` and computes the same
wherever and however often it runs, so that an engine may run it again when a worker or a machine is gone.
"""

from __future__ import annotations

from qguard.fleet.fleet import Fleet, Here, Item
from qguard.fleet.kept import Kept
from qguard.fleet.parts import Part
from qguard.fleet.work import NeedsData, Place, Shared

__all__ = ["Fleet", "Here", "Item", "Kept", "NeedsData", "Part", "Place", "Shared", "connect"]


def connect(address: str, alike: bool = False) -> Fleet:
    """The fleet of a Ray cluster; see :func:`qguard.fleet.cluster.connect`."""
    from qguard.fleet.cluster import connect as to_ray

    return to_ray(address, alike)
