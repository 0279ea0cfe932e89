"""Accepted results: what a team agreed to live with, per precision and machine, beside the golden and reviewable like it."""

from qguard.accepted.acceptance import accept
from qguard.accepted.latency import MOVED, moved, trend
from qguard.accepted.stored import FILE, read

__all__ = ["FILE", "MOVED", "accept", "moved", "read", "trend"]
