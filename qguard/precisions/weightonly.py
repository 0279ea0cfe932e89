"""Weight-only precisions in ONNX Runtime: the weights are stored in 8 or 4 bits by blocks, and no text calibrates them.

With 8 bits, ONNX Runtime also rounds activations to 8 bits, by blocks of one token's values as they come (accuracy level 4);
with 4 bits it multiplies floats. Either way a text's vector does not depend on its neighbors in the batch.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.models.model import Model
from qguard.onnx.edit import Graph
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
    """Each matrix by itself: the quantizer wants all that it is given in memory."""
    from onnx import helper
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers
    from onnxruntime.quantization.onnx_model import ONNXModel

    from qguard.precisions.embeddings import quantize_embeddings

    assert source.file is not None
    graph = Graph.read(source.file)
    separate_attention(graph)
    plain_products(graph)
    quantize_embeddings(graph)
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    config = (
        quantizers.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=INTEGERS, bits=8)
        if bits == 8
        else quantizers.HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4)  # loses a quarter less than rounding to nearest
    )

    def quantized(node: Any) -> list[Any] | None:
        if node.op_type != "MatMul" or node.input[1] not in graph.initializers:
            return None
        alone = Graph(helper.make_model(helper.make_graph([node], "one", [], [])))
        alone.put(node.input[1], graph.array(node.input[1]))
        quantizer = quantizers.MatMulNBitsQuantizer(alone.whole(), algo_config=config)
        quantizer.process()
        made = quantizer.model.model.graph
        for tensor in made.initializer:
            if tensor.name != node.input[1]:
                graph.store(tensor)
        return list(made.node)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # HQQ only reads it
        graph.rewrite(quantized)
    graph.import_domain("com.microsoft")
    graph.drop_tensors(list(graph.initializers))
    ONNXModel(graph.model).topological_sort()
    graph.save(onnx_file(model, folder))
