"""torch through plain Transformers, on the CPU or on CUDA: the transformer module only, heads are shared with every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.encoders.legacy import FILE, open_legacy
from qguard.errors import MeasurementProblem, ModelProblem, QguardError
from qguard.machine.quiet import quiet_transformers

# int8 layers say so in their files; what surrounds them is computed in float32
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


def require_cuda() -> None:
    """A CUDA device is there.

    Raises:
        MeasurementProblem: when torch finds none.
    """
    import torch

    if not torch.cuda.is_available():
        raise MeasurementProblem(
            f"device 'cuda' was asked for, but torch {torch.__version__} finds no CUDA device here; "
            f"install a CUDA build of torch and its driver, or judge on the CPU: --qguard-device cpu"
        )


class TorchRuntime:
    """A Transformers model in one dtype, or with int8 layers; torch itself spreads a batch over the cores.

    Raises:
        ModelProblem: when Transformers cannot load the folder.
        MeasurementProblem: when ``device`` is not there, or has no kernels for the model.
    """

    def __init__(self, root: Path, precision: str, threads: int | None = None, device: str = "cpu") -> None:
        import torch

        quiet_transformers()
        from transformers import AutoModel

        legacy = (root / FILE).exists()
        if device == "cuda":
            require_cuda()
        if device == "cuda" and legacy:
            raise MeasurementProblem("quantize_dynamic has no CUDA kernels; judge it on the CPU: --qguard-device cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        dtype = getattr(torch, DTYPES.get(precision, "float32"))
        try:
            network = (
                open_legacy(root)
                if legacy
                else AutoModel.from_pretrained(str(root), dtype=dtype, trust_remote_code=False, local_files_only=True)
            )
            self.model = network.eval().to(device)
        except QguardError:
            raise
        except Exception as e:  # Transformers raises many kinds for a damaged folder
            raise ModelProblem(f"Transformers cannot load {root.name}: {str(e).strip()[:300]}") from e
        self.device = device

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """See :class:`qguard.encoders.Runtime`; returns when the device is done."""
        return self._tokens(input_ids, attention_mask).float().cpu().numpy()  # the copy waits for the device

    def first_tokens(self, input_ids: Any, attention_mask: Any) -> Any:
        """The embedding of each text's first token, float32 (batch, dim), when the device is done.

        What is timed on CUDA: there a service pools on the device and fetches one vector a text. To fetch those of all
        tokens can take twice as long as to compute them, and would draw every ratio toward 1.
        """
        return self._tokens(input_ids, attention_mask)[:, 0].float().cpu().numpy()

    def _tokens(self, input_ids: Any, attention_mask: Any) -> Any:
        import torch

        ids, mask = (torch.from_numpy(a).to(self.device) for a in (input_ids, attention_mask))
        with torch.inference_mode():
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state
