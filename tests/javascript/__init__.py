"""What tests in JavaScript need, and why they are skipped where it is absent."""

from __future__ import annotations

from functools import cache

from qguard.errors import MeasurementProblem
from qguard.javascript.packages import node


@cache
def without_node() -> str:
    """Why no worker can be started here; empty where one can."""
    try:
        node()
    except MeasurementProblem as e:
        return str(e)
    return ""
