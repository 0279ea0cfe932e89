"""Memory that was used and no longer is."""

from __future__ import annotations

import ctypes
import gc


def release() -> None:
    """Give it back to the system: objects that only read each other, and what the C library keeps for what comes next."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc's alone
    except (AttributeError, OSError, TypeError):
        return
