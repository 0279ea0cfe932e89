"""Models of torch.ao's ``quantize_dynamic``, rebuilt from plain tensors: int8 weights, one scale each, zero point 0."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from qguard.encoders.network import without_weights
from qguard.errors import ArtifactProblem
from qguard.kinds import DENSE

# Not model.safetensors: Transformers would load int8 weights of that name as floats, without their scales and without an error.
FILE = "quantize_dynamic.safetensors"
SCALE = ".weight_scale"


def open_legacy(root: Path, kind: str = DENSE) -> Any:
    """The Transformers model of :data:`FILE` with its Linear layers in int8.

    Raises:
        ArtifactProblem: when the tensors are not those of the configuration beside them.
    """
    import torch
    from safetensors.torch import load_file

    tensors = load_file(root / FILE)
    network = without_weights(root, kind)
    layers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated these tensors
        for name in [n.removesuffix(SCALE) for n in tensors if n.endswith(SCALE)]:
            scale, weight = tensors.pop(name + SCALE).item(), tensors.pop(f"{name}.weight")
            layer = torch.ao.nn.quantized.dynamic.Linear(weight.shape[1], weight.shape[0], dtype=torch.qint8)
            layer.set_weight_bias(torch._make_per_tensor_quantized_tensor(weight, scale, 0), tensors.pop(f"{name}.bias", None))
            layers[name] = layer
    missing, surplus = network.load_state_dict(tensors, strict=False)
    missing = [key for key in missing if key.rpartition(".")[0] not in layers]
    if missing or surplus:
        raise ArtifactProblem(f"{FILE} does not fit config.json: {len(missing)} tensors missing, {len(surplus)} unknown")
    for name, layer in layers.items():
        network.set_submodule(name, layer)
    return network
