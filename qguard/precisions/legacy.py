"""int8 by torch.ao's ``quantize_dynamic``, as many still ship it: a scale per weight matrix, a scale per batch of activations."""

from __future__ import annotations

import warnings
from pathlib import Path

from qguard.encoders.legacy import FILE, SCALE
from qguard.encoders.network import open_network
from qguard.models.model import Model


def int8(model: Model, folder: Path) -> None:
    """Every Linear layer by ``torch.ao.quantization.quantize_dynamic``; embedding tables stay float32, as it leaves them.

    Its own files are pickles; here the int8 weights and their scales are plain tensors of :data:`FILE`.
    """
    import torch
    from safetensors.torch import save_file

    network, _ = open_network(model.root, kind=model.kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated: that is why this recipe has this name
        quantized = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    tensors = dict(network.state_dict())
    for name, layer in quantized.named_modules():
        if isinstance(layer, torch.ao.nn.quantized.dynamic.Linear):
            weight = layer.weight()
            tensors[f"{name}.weight"] = weight.int_repr()
            tensors[name + SCALE] = torch.tensor(weight.q_scale(), dtype=torch.float64)
    target = folder / model.pipeline.transformer
    save_file(tensors, target / FILE, metadata={"format": "pt"})
    (target / "model.safetensors.index.json").unlink(missing_ok=True)  # of the shards that this file replaces
