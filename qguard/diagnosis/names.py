"""Names of tensors: one key for the same tensor in files of different exporters, optimizers and quantizers."""

from __future__ import annotations

import re
from typing import Any

# what exporters put before the encoder's own names
_WRAPPER = re.compile(r"^/?(?:(?:network|model|bert|roberta|electra|transformer|auto_model|0)[/.])*")
_OUTPUT = re.compile(r"_output_\d+$")
_EMBEDDINGS = re.compile(r"^EmbedLayerNormalization_\d+_output(?:/(?P<part>words|positions|types|sum))?$")
_PARTS = {
    None: "embeddings/LayerNorm/LayerNormalization",
    "words": "embeddings/word_embeddings/Gather",
    "positions": "embeddings/position_embeddings/Gather",
    "types": "embeddings/token_type_embeddings/Gather",
    "sum": "embeddings/Add_1",
}


def plain(name: str) -> str:
    """A name without its exporter's wrapper: ``encoder/layer.0/…`` from ``/network/encoder/layer.0/…_output_0``."""
    return _OUTPUT.sub("", _WRAPPER.sub("", name))


def key(name: str, node: Any) -> str:
    """The key of a tensor; equal for tensors that hold the same in two files.

    Args:
        name: The tensor's name.
        node: What makes it.
    """
    if embedding := _EMBEDDINGS.match(name):
        return _PARTS[embedding["part"]]
    if name.endswith("/sum") and node.op_type == "Add":  # qguard's own LayerNorm: its input is dense + skip
        return re.sub(r"/dense/(MatMul|Add)$", "", plain(node.input[0])) + "/Add"
    found = plain(name)
    # exporters below opset 17 spell LayerNorm out; its last operator adds beta
    return found.removesuffix("Add_1") + "LayerNormalization" if found.endswith("LayerNorm/Add_1") else found


def layer(parameter: str) -> str:
    """A layer's name from that of its parameter: ``encoder/layer.5/output/LayerNorm`` of ``network.encoder.layer.5.….weight``."""
    found = re.sub(r"\.(weight|bias)(_quantized|_scale)?$", "", _WRAPPER.sub("", parameter))
    return re.sub(r"[./](?!\d)", "/", found)


def home(name: str) -> str:
    """The name without its operator: ``encoder/layer.0/output/dense`` of ``encoder/layer.0/output/dense/MatMul``."""
    return name.rsplit("/", 1)[0] if "/" in name else name
