"""What was hunted, as a suite: a folder of ``texts.jsonl`` and ``pairs.jsonl`` that ``[tool.qguard.suite.*]`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from qguard.errors import MeasurementProblem
from qguard.files import write_atomic
from qguard.hunting.hunt import Hunted

SLICE = "hard"


def write_suite(folder: Path, hunted: Hunted) -> None:
    """Write texts and pairs, each with slice ``hard`` and what was measured of it.

    Raises:
        MeasurementProblem: where the folder cannot be written.
    """
    texts = [{"text": t.text, "slice": SLICE, "cosine": round(t.cosine, 6)} for t in hunted.texts]
    pairs = [
        {"text_a": p.text_a, "text_b": p.text_b, "slice": SLICE, "fp32": round(p.fp32, 6), "candidate": round(p.candidate, 6)}
        for p in hunted.pairs
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "texts.jsonl", _lines(texts))
        write_atomic(folder / "pairs.jsonl", _lines(pairs))
    except OSError as e:
        raise MeasurementProblem(f"--out {folder}: cannot be written ({e.strerror or e})") from e


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
