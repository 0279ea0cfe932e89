"""Embedding tables row by row: what a file gives for each token or position, against the rows of the model.

No suite reads every row: ``core`` reads a quarter of MiniLM's. So the tables are compared as they are stored, all rows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qguard.artifacts.artifact import Artifact
from qguard.encoders.runtimes import GGUF

CHUNK = 2**21  # values that are dequantized at once


@dataclass(frozen=True)
class Table:
    """One table of an artifact.

    Attributes:
        name: Of the stored tensor.
        by_token: Tokens choose its rows; else positions, types or something else that is no text.
        rows, width: Its shape as rows are looked up.
        element: Element type as it is stored, by safetensors' names.
        read: First row and the one behind the last → float32 values (n, width), and the step of their integers, which broadcasts
            to them; 0 for floats.
        unread: Why its rows cannot be read; empty where they can.
    """

    name: str
    by_token: bool
    rows: int
    width: int
    element: str
    read: Callable[[int, int], tuple[Any, Any]]
    unread: str = ""


def chunks(rows: int, width: int) -> list[tuple[int, int]]:
    """First rows, and those behind the last, of parts of a table that fit in memory."""
    step = max(1, CHUNK // max(1, width))
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


def read_tables(artifact: Artifact) -> list[Table]:
    """The tables of an artifact whose rows are looked up.

    Raises:
        ArtifactProblem: when a file cannot be read.
    """
    if artifact.file is None:
        from qguard.artifacts.tables import safetensors

        return safetensors.read(artifact)
    if artifact.kind == GGUF:
        from qguard.artifacts.tables import gguf

        return gguf.read(artifact.file)
    from qguard.artifacts.tables import onnx

    return onnx.read(artifact.file)
