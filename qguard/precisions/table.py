"""Precisions of a static model, which is one embedding table: a lookup and the mean of a text's rows.

Nothing is multiplied by weights, so nothing needs calibration and no activation is quantized: a precision is the type that the
table is stored in. ``StaticEmbedding`` of sentence-transformers opens the safetensors files as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qguard.models.model import Model
from qguard.models.table import FILE, MAPPING, WEIGHTS, read_table
from qguard.onnx.edit import Graph
from qguard.precisions.export import OPSET, check, onnx_file

# A table of the graph: its name and values → nodes that give the rows of ``INDEX`` as float32 under ``ROWS``
Store = Callable[[Graph, str, Any], list[Any]]
INDEX, ROWS, SENTENCE = "rows_of_tokens", "rows", "sentence_embedding"
FINE = 32  # values that share a scale where a precision promises blocks of 32


def fp32(model: Model, folder: Path) -> None:
    """The table in float32; checked against torch."""
    _write(model, folder, _cast("float32"))
    check(model, folder, "onnx")


def fp16(model: Model, folder: Path) -> None:
    """The table in IEEE half precision; the mean in float32."""
    _write(model, folder, _cast("float16"))


def int8(model: Model, folder: Path) -> None:
    """The table in 8 bits, a scale a block of its rows' values, as the word embeddings of other models."""
    from qguard.precisions.embeddings import BLOCK

    _write(model, folder, _blocks(BLOCK))


def int8_weight(model: Model, folder: Path) -> None:
    """The same with smaller blocks."""
    _write(model, folder, _blocks(FINE))


def openvino_fp32(model: Model, folder: Path) -> None:
    """The table in float32, for OpenVINO; checked against torch."""
    _openvino(model, folder, "fp32", _cast("float32"))
    check(model, folder, "openvino")


def openvino_bf16(model: Model, folder: Path) -> None:
    """The table in bfloat16."""
    _openvino(model, folder, "bf16", _cast("bfloat16"))


def openvino_int8(model: Model, folder: Path) -> None:
    """The table in 8 bits by blocks."""
    from qguard.precisions.openvino import quantized_table

    _openvino(model, folder, "int8", _moved(quantized_table))


def torch_fp32(model: Model, folder: Path) -> None:
    """The table in float32, as safetensors."""
    _cast_file(model, folder, "float32")


def torch_fp16(model: Model, folder: Path) -> None:
    """The table in IEEE half precision."""
    _cast_file(model, folder, "float16")


def torch_bf16(model: Model, folder: Path) -> None:
    """The table in bfloat16."""
    _cast_file(model, folder, "bfloat16")


def _cast_file(model: Model, folder: Path, dtype: str) -> None:
    """Tokens keep their mapping; their weights stay float32, a hundredth of a table."""
    import torch
    from safetensors.torch import save_file

    table = read_table(model.root)
    tensors = {table.name: torch.from_numpy(table.rows.astype("float32")).to(getattr(torch, dtype))}
    if table.mapping is not None:
        tensors[MAPPING] = torch.from_numpy(table.mapping.astype("int64"))
    if table.weights is not None:
        tensors[WEIGHTS] = torch.from_numpy(table.weights.astype("float32"))
    save_file(tensors, folder / model.pipeline.transformer / FILE, metadata={"format": "pt"})


def _openvino(model: Model, folder: Path, precision: str, store: Store) -> None:
    from qguard.encoders.openvino import import_openvino
    from qguard.precisions.openvino import declare

    import_openvino()
    _write(model, folder, store)
    declare(model, folder, precision)


def _write(model: Model, folder: Path, store: Store) -> None:
    """``onnx/model.onnx``: token ids and mask, int64 (batch, length), to sentence embeddings, float32 (batch, dim).

    Of a text without a token, sentence-transformers gives zeros, and so does this.
    """
    from onnx import TensorProto, helper

    table = read_table(model.root)
    dim = table.rows.shape[1]
    feeds = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask")]
    out = [helper.make_tensor_value_info(SENTENCE, TensorProto.FLOAT, ["batch", dim])]
    made = helper.make_model(
        helper.make_graph([], "static", feeds, out), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
    )
    graph = Graph(made)
    graph.append([*_index(graph, table), *store(graph, table.name, table.rows.astype("float32")), *_mean(graph, table)])
    if any(node.domain == "com.microsoft" for node in graph.nodes):
        graph.import_domain("com.microsoft")
    graph.save(onnx_file(model, folder))


def _index(graph: Graph, table: Any) -> list[Any]:
    """The rows that token ids stand for."""
    import numpy as np
    from onnx import helper

    if table.mapping is None:
        return [helper.make_node("Identity", ["input_ids"], [INDEX], "tokens")]
    return [helper.make_node("Gather", [graph.put(MAPPING, table.mapping.astype(np.int32)), "input_ids"], [INDEX], MAPPING)]


def _mean(graph: Graph, table: Any) -> list[Any]:
    """The mean of the rows, each times the weight of its token, over the tokens of the text."""
    import numpy as np
    from onnx import TensorProto, helper

    one, none = graph.put("axis", np.array([1], np.int64)), graph.put("one", np.array(1, np.float32))
    nodes, factor = [helper.make_node("Cast", ["attention_mask"], ["kept"], "kept", to=TensorProto.FLOAT)], "kept"
    if table.weights is not None:
        stored = graph.put(WEIGHTS, table.weights.astype(np.float32))
        nodes += [
            helper.make_node("Gather", [stored, "input_ids"], ["weighted"], WEIGHTS),
            helper.make_node("Mul", ["weighted", "kept"], ["factor"], "factor"),
        ]
        factor = "factor"
    return [
        *nodes,
        helper.make_node("Unsqueeze", [factor, one], ["factors"], "factors"),
        helper.make_node("MatMul", ["factors", ROWS], ["sums"], "sums"),
        helper.make_node("Squeeze", ["sums", one], ["sum"], "sum"),
        helper.make_node("ReduceSum", ["kept", one], ["count"], "count", keepdims=1),
        helper.make_node("Max", ["count", none], ["tokens_or_one"], "tokens_or_one"),
        helper.make_node("Div", ["sum", "tokens_or_one"], [SENTENCE], "mean"),
    ]


def _cast(dtype: str) -> Store:
    def store(graph: Graph, name: str, rows: Any) -> list[Any]:
        import ml_dtypes
        import numpy as np
        from onnx import TensorProto, helper

        if dtype == "float32":
            return [helper.make_node("Gather", [graph.put(name, rows), INDEX], [ROWS], f"{name}/Gather")]
        stored = graph.put(name, rows.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16))
        return [
            helper.make_node("Gather", [stored, INDEX], [f"{ROWS}/{dtype}"], f"{name}/Gather"),
            helper.make_node("Cast", [f"{ROWS}/{dtype}"], [ROWS], f"{name}/Cast", to=TensorProto.FLOAT),
        ]

    return store


def _blocks(block: int) -> Store:
    def store(graph: Graph, name: str, rows: Any) -> list[Any]:
        from onnx import helper

        from qguard.precisions.embeddings import lookup_in_8_bits

        graph.put(name, rows)
        nodes = lookup_in_8_bits(graph, helper.make_node("Gather", [name, INDEX], [ROWS], f"{name}/Gather"), block)
        graph.drop_tensors([name])
        return nodes

    return store


def _moved(quantized: Callable[[Graph, str, Any], list[Any]]) -> Store:
    """As :func:`qguard.precisions.openvino.quantized_table` makes float32 of stored integers, and rows of it."""

    def store(graph: Graph, name: str, rows: Any) -> list[Any]:
        from onnx import helper

        return [*quantized(graph, name, rows), helper.make_node("Gather", [name, INDEX], [ROWS], f"{name}/Gather")]

    return store
