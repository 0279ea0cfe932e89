"""Accepted results: what a team agreed to live with, per precision and machine, beside the golden and reviewable like it."""

from qguard.accepted.latency import MOVED, moved, trend
from qguard.accepted.stored import read

__all__ = ["MOVED", "moved", "read", "trend"]
