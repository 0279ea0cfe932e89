"""fp32, fp16 and bf16 in torch: the weights cast and saved as safetensors."""

from __future__ import annotations

from pathlib import Path

from qguard.models.model import Model, weight_files


def _cast(model: Model, folder: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    kind = getattr(torch, dtype)
    for source in weight_files(model.root):
        tensors = {n: t.to(kind) if t.is_floating_point() else t for n, t in load_file(source).items()}
        save_file(tensors, folder / model.pipeline.transformer / source.name, metadata={"format": "pt"})


def fp32(model: Model, folder: Path) -> None:
    """The weights as they are, in float32."""
    _cast(model, folder, "float32")


def fp16(model: Model, folder: Path) -> None:
    """IEEE half precision."""
    _cast(model, folder, "float16")


def bf16(model: Model, folder: Path) -> None:
    """bfloat16: float32's range, 8 bits of precision."""
    _cast(model, folder, "bfloat16")
