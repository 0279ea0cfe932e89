"""fp16 in ONNX Runtime: half the bytes; on a CPU without fp16 kernels it is computed in float."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.models.model import Model
from qguard.onnx.edit import Graph
from qguard.precisions.export import onnx_file

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact


def fp16(model: Model, folder: Path, source: Artifact) -> None:
    """All tensors in IEEE half precision, inputs and outputs as in fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    assert source.file is not None
    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)  # it lists every small weight that it rounds
    half = convert_float_to_float16(Graph.read(source.file).whole(), keep_io_types=True, disable_shape_infer=True)
    Graph(half).save(onnx_file(model, folder))
