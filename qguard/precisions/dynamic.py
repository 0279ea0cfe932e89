"""int8 in ONNX Runtime: dynamic activations, signed per-channel weights, over the fused fp32 export."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.kinds import SPARSE
from qguard.models.model import Model
from qguard.onnx.edit import Graph, remove
from qguard.precisions.export import declare_exact_products, onnx_file
from qguard.precisions.products import plain_products

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact


def int8(model: Model, folder: Path, source: Artifact) -> None:
    """Quantize every weight MatMul, fused attention and the embedding tables to 8 bits, per channel."""
    assert source.file is not None
    target, file = onnx_file(model, folder), source.file
    if model.kind == SPARSE:  # a decoder behind a Transpose would stay in float
        file = target.with_suffix(".plain.onnx")
        graph = Graph.read(source.file)
        plain_products(graph)
        graph.save(file)
    quantize(file, target, per_channel=True)
    if file != source.file:
        remove(file)
    declare_exact_products(target)


def quantize(source: Path, target: Path, *, per_channel: bool) -> None:
    """ONNX Runtime's dynamic quantization of one fp32 file; per-tensor is for experiments and tests.

    It goes by an operator's name alone: ONNX's own Attention, whose inputs are query, key and value, would become ONNX
    Runtime's, whose second input is the weight (1.32), in a file that does not load.

    Raises:
        ArtifactProblem: where what it wrote does not load.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    from qguard.encoders.onnx import open_session
    from qguard.onnx.edit import STANDARD
    from qguard.onnx.read import external_files

    model = Graph.read(source).whole()
    # by name alone it takes ONNX's own Attention for ONNX Runtime's, and writes a file that does not load
    foreign = {n.op_type for n in model.graph.node if n.op_type == "Attention" and n.domain in STANDARD}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of a missing pre-processing that the fused graph does not need
    try:
        large = bool(external_files(source))
        work = target.with_suffix(".work.onnx")
        quantize_dynamic(
            # of a file it would write the inferred shapes beside it, where two processes at once overwrite each other's
            model, str(work), use_external_data_format=large, per_channel=per_channel, weight_type=QuantType.QInt8,
            op_types_to_quantize=[kind for kind in IntegerOpsRegistry if kind not in foreign],
            # fused operators carry no inferred types; MatMul of two activations stays in float
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": 1},
        )  # fmt: skip
        if large:
            Graph.read(work).save(target)
            remove(work)
        else:
            shutil.move(work, target)
    finally:
        logging.disable(before)
    open_session(target)
