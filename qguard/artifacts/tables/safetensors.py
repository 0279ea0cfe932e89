"""Embedding tables of safetensors files: of torch artifacts, and of the models that artifacts are compared with."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.artifact import Artifact
from qguard.artifacts.tables import Table
from qguard.models.model import safetensors_header
from qguard.models.table import FILE, is_table, read_table
from qguard.models.table import Table as Static
from qguard.models.tensors import FLOATS, Stored, stored_tensors


def read(artifact: Artifact) -> list[Table]:
    """The tables of a torch artifact, by what its network looks up."""
    if is_table(artifact.runs):
        table = read_table(artifact.runs)
        element = safetensors_header(artifact.runs / FILE)[0][table.name]["dtype"]
        return [replace(of_array(folded_name(table), table.folded(), by_token=True), element=element)]
    from qguard.encoders.network import lookup_tables

    names = lookup_tables(artifact.runs)
    stored = {name for file in artifact.weight_files for name in safetensors_header(file)[0]}
    # a checkpoint may have names with a prefix more or less, and one name for tables that are tied
    found = of_files(artifact.weight_files, {s for s in stored if any(s.endswith(n) or n.endswith(s) for n in names)})
    have = {t.name for t in found}
    parts = [n for n in sorted(names) if n not in have and any(s.startswith(n) for s in stored)]  # as quantizers store a tensor
    unknown = "it is stored in a form that qguard does not know"
    return [*found, *(Table(n, True, 1, 1, "", lambda _a, _b: (0, 0), unknown) for n in parts)]


def of_files(files: Iterable[Path], names: Collection[str] | None = None) -> list[Table]:
    """Every float matrix of safetensors files, or those of these names."""
    found = []
    for file in files:
        if file.suffix != ".safetensors":
            continue
        for tensor in sorted(stored_tensors(file), key=lambda t: t.name):
            if len(tensor.shape) == 2 and tensor.element in FLOATS and (names is None or tensor.name in names):
                found.append(_of_tensor(tensor))
    return found


def _of_tensor(tensor: Stored) -> Table:
    def rows(start: int, stop: int) -> tuple[Any, Any]:
        return tensor[start:stop].astype(np.float32, copy=False), 0.0

    count, width = tensor.shape
    return Table(tensor.name, True, count, width, tensor.element, rows)


def of_array(name: str, values: Any, *, by_token: bool) -> Table:
    """A table that is in memory."""
    rows, width = values.shape
    return Table(name, by_token, rows, width, "F32", lambda a, b: (np.asarray(values[a:b]).astype(np.float32), 0.0))


def folded_name(table: Static) -> str:
    """The name of a static model's table with one row a token, where tokens share its rows or have factors of their own."""
    return table.name if table.mapping is None and table.weights is None else f"{table.name} by token"
