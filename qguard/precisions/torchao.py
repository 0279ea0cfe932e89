"""int8 in torch by torchao, in the files that Transformers and sentence-transformers open by themselves.

Linear layers hold int8 weights with one scale per output channel. Embedding tables are looked up, not multiplied: they are
stored in float16 and computed in float32, because torchao would convert a whole int8 table to float at every call.
"""

from __future__ import annotations

import json
from pathlib import Path

from qguard.encoders.network import open_network
from qguard.errors import ModelProblem, UsageProblem
from qguard.files import dump_json, read_json
from qguard.machine.quiet import quiet_transformers
from qguard.models.model import Model


def int8(model: Model, folder: Path) -> None:
    """W8A8: weights symmetric per output channel, activations symmetric per token, found at run time."""
    _quantize(model, folder, "Int8DynamicActivationInt8WeightConfig")


def int8_weight(model: Model, folder: Path) -> None:
    """Weights symmetric per output channel; multiplications stay in float32."""
    _quantize(model, folder, "Int8WeightOnlyConfig")


def _quantize(model: Model, folder: Path, scheme: str) -> None:
    """Quantize with torchao's configuration ``scheme`` and write its flattened tensors and their description.

    Raises:
        UsageProblem: where torchao is not installed.
    """
    import torch
    from safetensors.torch import save_file

    quiet_transformers()
    from transformers import TorchAoConfig

    try:
        from torchao import quantization
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    except ImportError as e:
        raise UsageProblem("torchao is not installed; run: pip install 'qguard[torchao]'") from e
    # opened without a configuration: with one, Transformers (5.24) loads the first part of packed weights, and noise for the rest
    network, made_up = open_network(model.root, kind=model.kind)  # made up: poolers that nothing reads
    # the setter would change torch.compile for the whole process
    how = getattr(quantization, scheme)(set_inductor_config=False)
    left = {name.rpartition(".")[0] for name in made_up}
    config = TorchAoConfig(how, modules_to_not_convert=sorted(left))
    quantization.quantize_(network, how, lambda module, name: isinstance(module, torch.nn.Linear) and name not in left)
    tables = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, torch.nn.Embedding)}
    state = {name: t.half() if name in tables else t for name, t in network.state_dict().items() if name not in made_up}
    tensors, description = flatten_tensor_state_dict(state)
    target = folder / model.pipeline.transformer
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt", **description})
    _sort_header(target / "model.safetensors")
    (target / "model.safetensors.index.json").unlink(missing_ok=True)  # of the shards that this file replaces
    file = target / "config.json"
    old = read_json(file, ModelProblem)
    file.write_bytes(dump_json({**old, "dtype": "float32", "quantization_config": config.to_dict()}))


def _sort_header(file: Path) -> None:
    """Sort the header's keys: safetensors writes metadata in random order, and equal builds must be equal bytes."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
