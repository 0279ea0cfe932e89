"""Goldens: stored fp32 outputs of one model on one suite, and proof that they still apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qguard.goldens.identity import check, compare_tokens, identity
from qguard.goldens.stored import Golden, describe, golden_folder, locked, read, seal, store, update_command, was_folder, words

if TYPE_CHECKING:
    from qguard.goldens.recording import record, refuse_in_ci

__all__ = [
    "Golden",
    "check",
    "compare_tokens",
    "describe",
    "golden_folder",
    "identity",
    "locked",
    "read",
    "record",
    "refuse_in_ci",
    "seal",
    "store",
    "update_command",
    "was_folder",
    "words",
]


def __getattr__(name: str) -> Any:
    """What records a golden is imported when it is asked for: a gate only reads."""
    if name not in ("record", "refuse_in_ci"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qguard.goldens import recording

    return getattr(recording, name)
