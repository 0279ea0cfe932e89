"""torch on CPU, through plain Transformers: the transformer module only, heads are shared with every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchRuntime:
    """A Transformers model in one dtype; torch itself spreads a batch over the cores.

    Raises:
        ModelProblem: when Transformers cannot load the folder.
    """

    batch_tokens = 2048
    workers = 1

    def __init__(self, root: Path, precision: str, threads: int | None = None) -> None:
        import torch
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self.model = AutoModel.from_pretrained(
                str(root), dtype=getattr(torch, DTYPES[precision]), trust_remote_code=False, local_files_only=True
            ).eval()
        except Exception as e:  # Transformers raises many kinds for a damaged folder
            raise ModelProblem(f"Transformers cannot load {root.name}: {str(e).strip()[:300]}") from e

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        import torch

        with torch.inference_mode():
            out = self.model(input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask))
        return out.last_hidden_state.float().numpy()
