"""What benchmarks read from data files. Imports nothing of qguard: a peer's environment has it not."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path


def texts_of(files: Iterable[str | Path]) -> list[str]:
    """Distinct texts of 3 words or more, in an order that depends on the texts alone."""
    found = set()
    if not (files := list(files)):
        sys.exit('expected FILE.jsonl …, with lines of "text", or "text_a" and "text_b"; found none')
    for file in files:
        for line in Path(file).read_text(encoding="utf-8").split("\n"):
            row = json.loads(line) if line else {}
            found.update(row[k].strip() for k in ("text", "text_a", "text_b") if len(row.get(k, "").split()) >= 3)
    return sorted(found, key=lambda t: hashlib.sha256(t.encode()).digest())
