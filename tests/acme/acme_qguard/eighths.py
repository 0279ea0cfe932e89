"""A recipe of a width that qguard does not know: weights of multiplications in 8-bit floats (OCP E4M3)."""

from __future__ import annotations

from pathlib import Path

from qguard import Model, Recipe


def make(model: Model, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    for source in model.weight_files:
        tensors = load_file(source)
        multiplied = [name for name, t in tensors.items() if t.ndim == 2 and "embeddings" not in name]
        tensors |= {name: tensors[name].to(torch.float8_e4m3fn) for name in multiplied}
        save_file(tensors, folder / model.pipeline.transformer / source.name, metadata={"format": "pt"})


RECIPE = Recipe(
    "f8",
    "torch",
    make=f"{__name__}:make",
    description="Weights of multiplications in 8-bit floats.",
    weights="F8_E4M3",
    bits=8,
    least_cosine=0.95,
    weight_error=0.05,
    fp32="fp32@torch",
    excluded=("*embeddings*",),
    bounds={"embedding.cosine_mean": ">= 0.99", "similarity.max_error": "<= 0.1", "ranking.overlap@10": ">= 0.8"},
)
