"""A runtime that takes texts and has no files here, and what it is judged by.

The company's model service is asked for vectors; in this package the "service" is a session of ONNX Runtime on the files that
``ACME_MODEL`` names, which qguard never sees.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qguard import DEFAULT_BOUNDS, NOT_BUILT, Model, Recipe, RuntimeRecord


class Endpoint:
    def __init__(self, model: Model, precision: str, threads: int | None) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(os.environ["ACME_MODEL"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
        self.tokenizer.enable_padding()
        options, declared = onnxruntime.SessionOptions(), folder / "onnx" / "onnxruntime.json"
        for name, value in (json.loads(declared.read_text()) if declared.exists() else {}).items():
            options.add_session_config_entry(name, value)
        file = str(folder / "onnx" / "model.onnx")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.feeds = {i.name: np.int32 if "int32" in i.type else np.int64 for i in self.session.get_inputs()}

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None]) -> Any:
        read = self.tokenizer.encode_batch(list(texts))
        mask = np.array([e.attention_mask for e in read])
        given = {"input_ids": np.array([e.ids for e in read]), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
        tokens = self.session.run(None, {name: given[name].astype(kind) for name, kind in self.feeds.items()})[0]
        vectors = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


RUNTIME = RuntimeRecord(
    "acme-endpoint",
    open=Endpoint,
    takes="texts",
    files="none",
    devices=("acme",),
    libraries=("acme-qguard",),
    batch=16,
    timed=False,
)
RECIPE = Recipe(
    "int8",
    RUNTIME.name,
    make=NOT_BUILT,
    description="What the company's endpoint serves.",
    weights="I8",
    fp32="fp32@onnx",
    bounds=DEFAULT_BOUNDS["int8"],
)
