"""Embedding tables of a GGUF file: of words, positions and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.artifacts.tables import Table
from qguard.gguf.mixture import PLACES, TOKENS
from qguard.gguf.read import Tensor, read_gguf
from qguard.gguf.types import is_described


def read(file: Path) -> list[Table]:
    """Every table of a file.

    Raises:
        ArtifactProblem: see :func:`qguard.gguf.read.read_gguf`.
    """
    tensors = read_gguf(file).tensors
    return [_table(tensors[name]) for name in (TOKENS, *PLACES) if name in tensors and len(tensors[name].shape) > 1]


def _table(tensor: Tensor) -> Table:
    kind = tensor.kind.name

    def rows(start: int, stop: int) -> tuple[Any, Any]:
        return tensor.values(start, stop), tensor.steps(start, stop)

    unread = "" if is_described(kind) else f"what the values of type {kind} are rounded to is not known"
    return Table(tensor.name, tensor.name == TOKENS, tensor.rows, tensor.width, kind, rows, unread)
