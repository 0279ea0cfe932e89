"""Weight-only precisions in ONNX Runtime: the weights are stored in 8 or 4 bits by blocks, and no text calibrates them.

With 8 bits, ONNX Runtime also rounds activations to 8 bits, by blocks of one token's values as they come (accuracy level 4);
with 4 bits it multiplies floats. Either way a text's vector does not depend on its neighbors in the batch.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qguard.models.model import Model
from qguard.onnx.edit import Graph
from qguard.onnx.read import read_model
from qguard.precisions.attention import separate_attention
from qguard.precisions.export import onnx_file
from qguard.precisions.products import plain_products

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact

BLOCK = 32  # weights that share a scale; ONNX Runtime's kernels know 16 to 256
INTEGERS = 4  # accuracy level at which activations are rounded too; level 0 keeps them float, and is far slower


def int8(model: Model, folder: Path, source: Artifact) -> None:
    """Weights and word embeddings in 8 bits."""
    _quantize(model, folder, source, 8)


def int4(model: Model, folder: Path, source: Artifact) -> None:
    """Weights in 4 bits, word embeddings in 8."""
    _quantize(model, folder, source, 4)


def _quantize(model: Model, folder: Path, source: Artifact, bits: int) -> None:
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers

    from qguard.precisions.embeddings import quantize_embeddings

    assert source.file is not None
    graph = Graph(read_model(source.file))
    separate_attention(graph)
    plain_products(graph)
    quantize_embeddings(graph)
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    config = (
        quantizers.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=INTEGERS, bits=8)
        if bits == 8
        else quantizers.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4)  # loses a quarter less than rounding to nearest
    )
    quantizer = quantizers.MatMulNBitsQuantizer(graph.model, algo_config=config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # HQQ only reads it
        quantizer.process()
    target = onnx_file(model, folder)
    quantizer.model.save_model_to_file(str(target), False)
