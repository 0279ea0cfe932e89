"""GGUF files with something in them changed, written anew by the package ``gguf``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qguard.gguf.read import read_gguf
from qguard.gguf.types import import_gguf


def changed(
    source: Path, target: Path, keys: Mapping[str, Any] | None = None, tensors: Mapping[str, tuple[str, Any]] | None = None
) -> Path:
    """A copy of a file.

    Args:
        source: The file.
        target: The copy.
        keys: Key → another value of its type, or ``None`` to leave it out; a new key is a number.
        tensors: Name → another type, and its rows, uint8 (rows, bytes of a row).
    """
    gguf, file = import_gguf(), read_gguf(source)
    keys, tensors = dict(keys or {}), dict(tensors or {})
    old = file.architecture
    new = str(keys.pop("general.architecture", old))
    writer = gguf.GGUFWriter(target, new)
    for key, value in {**file.metadata, **keys}.items():
        kind, inner = file.order.get(key, (4, 0))
        if key == "general.architecture" or value is None:
            continue
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        kind = gguf.GGUFValueType(kind)
        sub = gguf.GGUFValueType(inner) if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key.replace(f"{old}.", f"{new}.", 1), plain, kind, sub)
    for name, tensor in file.tensors.items():
        kind, stored = tensors.get(name, (tensor.kind.name, tensor.stored))
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, np.array(stored).reshape(*tensor.shape[:-1], -1), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def head_of(file: Path) -> int:
    """Bytes before the first tensor."""
    return file.stat().st_size - sum(-(-t.bytes // 32) * 32 for t in read_gguf(file).tensors.values())
