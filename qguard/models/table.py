"""The weights of a static model: an embedding table and no transformer.

sentence-transformers saves one row a token (``embedding.weight``). Folders of model2vec hold ``embeddings``, which tokens may
share by a ``mapping``, and may weight by ``weights``; ``StaticEmbedding`` of sentence-transformers 6.2 reads them as
``embeddings[mapping[token]] * weights[token]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem

FILE = "model.safetensors"
OURS, THEIRS = "embedding.weight", "embeddings"
MAPPING, WEIGHTS = "mapping", "weights"
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_TYPES = {**_FLOATS, "I8": "<i1", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U32": "<u4", "U16": "<u2", "U8": "<u1"}


@dataclass(frozen=True)
class Table:
    """The tensors as they are stored, read when they are used.

    Attributes:
        name: Of the table: :data:`OURS` or :data:`THEIRS`.
        rows: Float, or int8 with weights: (rows, dim).
        mapping: The row of each token, integers (tokens,); ``None`` where rows are tokens.
        weights: The factor of each token, float (tokens,); ``None`` for 1.
    """

    name: str
    rows: Any
    mapping: Any = None
    weights: Any = None

    @property
    def tokens(self) -> int:
        """Token ids that it knows: 0 to this, exclusive."""
        return len(self.rows if self.mapping is None else self.mapping)

    def folded(self) -> Any:
        """One row a token, float32 (tokens, dim): what sentence-transformers computes with."""
        import numpy as np

        found = self.rows.astype(np.float32)
        if self.mapping is not None:
            found = found[self.mapping]
        return found if self.weights is None else found * self.weights.astype(np.float32)[:, None]


def is_table(root: Path, *names: str) -> bool:
    """Whether a folder's weights are a table, under one of these names, by default :data:`OURS` or :data:`THEIRS`."""
    file = root / FILE
    return file.is_file() and any(name in _header(file) for name in names or (OURS, THEIRS))


def read_table(root: Path) -> Table:
    """The table of a static model's folder.

    Raises:
        ModelProblem: for a file that is missing or damaged, or tensors that sentence-transformers does not read.
    """
    file = root / FILE
    if not file.exists() and (root / "pytorch_model.bin").exists():
        raise ModelProblem(
            f"{root} has only pytorch_model.bin; pickled weights are never read. Convert it once with "
            f"SentenceTransformer(folder).save(folder, safe_serialization=True)"
        )
    header = _header(file)
    name = next((n for n in (OURS, THEIRS) if n in header), None)
    if name is None:
        raise ModelProblem(f"{file} holds no embedding table: expected {OURS} or {THEIRS}, found {', '.join(sorted(header))}")
    beside = [] if name == OURS else [n for n in (MAPPING, WEIGHTS) if n in header]
    _check(file, name, {n: header[n] for n in (name, *beside)})
    table = Table(name, *(_array(file, n) if n == name or n in beside else None for n in (name, MAPPING, WEIGHTS)))
    if table.mapping is not None and not 0 <= int(table.mapping.min()) <= int(table.mapping.max()) < len(table.rows):
        raise ModelProblem(f"{file}: {MAPPING} names rows that the table of {len(table.rows)} does not have; copy the file again")
    return table


def _check(file: Path, name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    kind, shape = found[name]["dtype"], found[name]["shape"]
    mapping, weights = found.get(MAPPING), found.get(WEIGHTS)
    if len(shape) != 2 or not all(shape) or kind not in (*_FLOATS, "I8"):
        raise ModelProblem(f"{file}: expected a table of floats or int8 with two dimensions in {name}, found {kind} {shape}")
    if kind == "I8" and weights is None:
        raise ModelProblem(
            f"{file}: {name} is int8 without {WEIGHTS}, which sentence-transformers does not open; give the model in float32"
        )
    tokens = mapping["shape"] if mapping else shape[:1]
    if mapping and (len(tokens) != 1 or not mapping["dtype"].startswith(("I", "U"))):
        raise ModelProblem(f"{file}: expected one row number a token in {MAPPING}, found {mapping['dtype']} {tokens}")
    if weights and (weights["shape"] != tokens or weights["dtype"] not in _FLOATS):
        raise ModelProblem(
            f"{file}: expected one float for each of {tokens[0]} tokens in {WEIGHTS}, found {weights['dtype']} {weights['shape']}"
        )


def _header(file: Path) -> dict[str, Any]:
    from qguard.models.model import safetensors_header

    return safetensors_header(file)[0]


def _array(file: Path, name: str) -> Any:
    import numpy as np

    from qguard.models.model import safetensors_header

    header, start = safetensors_header(file)
    info = header[name]
    if not info["shape"][0]:
        return np.zeros(info["shape"], _TYPES[info["dtype"]])
    raw = np.memmap(file, _TYPES[info["dtype"]], "r", start + info["data_offsets"][0], tuple(info["shape"]))
    return (raw.astype(np.uint32) << 16).view(np.float32) if info["dtype"] == "BF16" else raw
