"""The artifacts of ONNX Runtime in the layout of Transformers.js, whose name for a precision is its dtype.

The ONNX file is the same, but for lookups in 8-bit tables, which WebAssembly computes in ONNX's own operators alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from qguard.artifacts.artifact import Artifact
from qguard.encoders.onnx import OPTIONS_FILE
from qguard.files import dump_json
from qguard.javascript import layout
from qguard.models.model import Model
from qguard.models.pipeline import read_optional
from qguard.onnx.edit import Graph
from qguard.onnx.read import external_files
from qguard.precisions.embeddings import standard_lookups

_LENGTH = "model_max_length"


def fp32(model: Model, folder: Path, made: Artifact) -> None:
    """``onnx/model.onnx``, dtype ``fp32``."""
    _put(model, folder, made, "fp32")


def fp16(model: Model, folder: Path, made: Artifact) -> None:
    """``onnx/model_fp16.onnx``, dtype ``fp16``."""
    _put(model, folder, made, "fp16")


def int8(model: Model, folder: Path, made: Artifact) -> None:
    """``onnx/model_int8.onnx``, dtype ``int8``."""
    _put(model, folder, made, "int8")


def dynamic(model: Model, folder: Path, made: Artifact) -> None:
    """``onnx/model_quantized.onnx``, dtype ``q8``: what Transformers.js' own scripts make, by ONNX Runtime."""
    _put(model, folder, made, "q8")


def int4(model: Model, folder: Path, made: Artifact) -> None:
    """``onnx/model_q4.onnx``, dtype ``q4``."""
    _put(model, folder, made, "q4")


def _put(model: Model, folder: Path, made: Artifact, dtype: str) -> None:
    """Copy an artifact's ONNX file to where a dtype is looked for, and state the length that Transformers.js cuts texts to.

    It takes that from ``tokenizer_config.json`` alone, where sentence-transformers takes the length of its own configuration.
    """
    root = folder / model.pipeline.transformer
    place = root / layout.SUBFOLDER
    place.mkdir(exist_ok=True)
    assert made.file is not None
    graph, target = Graph.read(made.file), place / layout.file_name(dtype)
    if standard_lookups(graph) or external_files(made.file):  # whose file has another name here
        graph.save(target)
    else:
        shutil.copyfile(made.file, target)
    options = made.file.with_name(OPTIONS_FILE)
    if options.exists():
        shutil.copyfile(options, place / options.name)
    config = root / layout.TOKENIZER[1]
    stated = read_optional(config)
    if stated.get(_LENGTH) != model.pipeline.max_seq_length:
        config.write_bytes(dump_json({**stated, _LENGTH: model.pipeline.max_seq_length}))
