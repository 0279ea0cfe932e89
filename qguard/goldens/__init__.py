"""Goldens: stored fp32 outputs of one model on one suite, and proof that they still apply."""

from qguard.goldens.identity import check, compare_tokens, identity
from qguard.goldens.recording import record, refuse_in_ci
from qguard.goldens.stored import Golden, describe, golden_folder, locked, read, seal, store, update_command, words

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
    "words",
]
