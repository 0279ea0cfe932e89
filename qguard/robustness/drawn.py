"""Generated batches: drawn by Hypothesis once, and kept in the cache, since equal seeds give equal texts."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qguard.files import cache_folder, sha256_file, sha256_json, write_kept
from qguard.machine.versions import installed

BATCH, SIZE = 8, 6  # texts of a batch, and pieces of an ordinary text: short ones are a second's work
_SOURCES = ("qguard.texts.strategies", "qguard.texts.mutations", __name__)


def drawn(examples: int, seed: int) -> list[tuple[str, ...]]:
    """Batches of texts, each different; at most ``examples``.

    Args:
        examples: Batches to draw.
        seed: Of Hypothesis: equal seeds draw equal texts, with the same version of it.
    """
    file = cache_folder() / "robustness" / "drawn.json"
    key = _key(examples, seed)
    if (found := _read(file, key)) is not None:
        return found
    made = _draw(examples, seed)
    write_kept(file, json.dumps({"key": key, "batches": made}).encode())
    return made


def _key(examples: int, seed: int) -> str:
    files = [Path(spec.origin) for name in _SOURCES if (spec := find_spec(name)) is not None and spec.origin]
    return sha256_json([examples, seed, installed("hypothesis"), [sha256_file(f) for f in files]])


def _read(file: Path, key: str) -> list[tuple[str, ...]] | None:
    """The batches of a file; ``None`` where it holds others, or is damaged."""
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        batches = [tuple(batch) for batch in found["batches"]]
        "".join(text for batch in batches for text in batch).encode()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return batches if found.get("key") == key and batches else None


def _draw(examples: int, seed: int) -> list[tuple[str, ...]]:
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity

    from qguard.texts.strategies import batches

    found: dict[tuple[str, ...], None] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(batches(max_size=BATCH, size=SIZE))
    def collect(batch: list[str]) -> None:
        found[tuple(batch)] = None

    collect()
    return list(found)
