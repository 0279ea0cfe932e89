"""fp32, fp16 and bf16 in torch: the weights cast and saved as safetensors."""

from __future__ import annotations

from pathlib import Path

from qguard.errors import UsageProblem
from qguard.kinds import SPARSE
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


def refuse_tied(model: Model, tool: str) -> None:
    """A sparse model's decoder is its table of words: torch's quantizers change the one and lose the other.

    Args:
        model: What is quantized.
        tool: What quantizes.

    Raises:
        UsageProblem: for a sparse model.
    """
    if model.kind == SPARSE:
        raise UsageProblem(
            f"model {model.name!r} is sparse, and its decoder shares its weights with the table of words, which {tool} cannot "
            "store; quantize it for ONNX Runtime or OpenVINO: --precision int8, int8@openvino"
        )
