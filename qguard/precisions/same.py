"""The artifact of another runtime that reads the same files, as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from qguard.artifacts.artifact import Artifact
from qguard.encoders.onnx import OPTIONS_FILE
from qguard.models.model import Model
from qguard.onnx import edit
from qguard.precisions.export import onnx_file


def same(model: Model, folder: Path, made: Artifact) -> None:
    """Copy an artifact's ONNX file, with its external data and what it says of itself."""
    assert made.file is not None
    target = onnx_file(model, folder)
    edit.copy(made.file, target)
    options = made.file.with_name(OPTIONS_FILE)
    if options.exists():
        shutil.copyfile(options, target.with_name(OPTIONS_FILE))
