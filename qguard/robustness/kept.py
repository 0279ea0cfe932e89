"""The worst texts of earlier runs: kept in the cache, and tried first in the next run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from qguard.files import cache_folder, sha256_json, write_kept

MOST = 16  # texts: they cost a tenth of a second


def kept_file(weights: str, tokenizer: str, precision: str) -> Path:
    """Where those of a model and a precision lie: in the cache, so that no gate writes beside committed goldens.

    Args:
        weights: Hash of the model's weights.
        tokenizer: Of its tokenizer.
        precision: ``NAME@RUNTIME``.
    """
    name = re.sub(r"[^A-Za-z0-9._@-]", "_", precision)
    return cache_folder() / "robustness" / f"{sha256_json([weights, tokenizer])[:16]}-{name}.jsonl"


def read_kept(file: Path) -> list[str]:
    """The texts, worst first; none where there is no such file or it is damaged: it can be found again."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        texts = [row["text"] for row in rows]
        "".join(texts).encode()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    return texts[:MOST]


def keep(file: Path, texts: Sequence[str]) -> None:
    """Store texts, worst first; a cache that cannot be written is none."""
    lines = [json.dumps({"text": t}) + "\n" for t in dict.fromkeys(texts)]
    write_kept(file, "".join(lines[:MOST]).encode())
