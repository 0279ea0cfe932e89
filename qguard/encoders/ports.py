"""Inputs and outputs of an ONNX transformer, ours or another tool's: found out by their names, the same in every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard.errors import ArtifactProblem

_ROLES = (
    ("mask", "attention_mask"), ("type", "token_type_ids"), ("segment", "token_type_ids"),
    ("position", "position_ids"), ("id", "input_ids"), ("token", "input_ids"),
)  # fmt: skip
_OUTPUTS = ("last_hidden_state", "token_embeddings", "sentence_embedding")


class Feeds:
    """Fills the inputs of one file.

    Args:
        inputs: Name and element type of each input; what has ``int32`` in its type is fed int32, everything else int64.
        file: For messages.

    Raises:
        ArtifactProblem: for an input whose role its name does not tell, or when none takes token ids.
    """

    def __init__(self, inputs: Mapping[str, str], file: Path) -> None:
        self._roles = {name: (_role(name, file), "int32" in kind) for name, kind in inputs.items()}
        if "input_ids" not in {role for role, _ in self._roles.values()}:
            raise ArtifactProblem(f"{file.name} has no token id input; found {sorted(self._roles)}")

    def __call__(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """The inputs by name, each (batch, length), in the dtypes that the file wants."""
        values = {"input_ids": input_ids, "attention_mask": attention_mask}
        feeds = {}
        for name, (role, narrow) in self._roles.items():
            if role == "token_type_ids":
                value = np.zeros_like(input_ids)
            elif role == "position_ids":
                value = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
            else:
                value = values[role]
            feeds[name] = value.astype(np.int32) if narrow else np.ascontiguousarray(value)
        return feeds


def role_of(name: str) -> str | None:
    """What an input takes: ``input_ids attention_mask token_type_ids position_ids``; ``None`` where its name does not say."""
    low = name.lower()
    return next((role for key, role in _ROLES if key in low), None)


def _role(name: str, file: Path) -> str:
    if role := role_of(name):
        return role
    raise ArtifactProblem(f"{file.name} has an input {name!r} that is none of token ids, attention mask, token types, positions")


def embedding_output(outputs: Sequence[tuple[str, int]], file: Path) -> str:
    """The name of the output to read: one of a known name, else the first of token embeddings' rank, else the first usable.

    Args:
        outputs: Name and rank of each output, in the file's order.
        file: For messages.

    Raises:
        ArtifactProblem: when no output has 2 or 3 dimensions.
    """
    usable = [(name, rank) for name, rank in outputs if rank in (2, 3)]
    if not usable:
        raise ArtifactProblem(f"{file.name} has no output with 2 or 3 dimensions; found {[name for name, _ in outputs]}")
    named = [name for want in _OUTPUTS for name, _ in usable if name == want]
    deep = [name for name, rank in usable if rank == 3]
    return (named or deep or [usable[0][0]])[0]
