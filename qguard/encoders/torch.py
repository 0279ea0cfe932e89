"""torch through plain Transformers, on the CPU or on CUDA: the transformer module only, heads are shared with every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.encoders.legacy import FILE, open_legacy
from qguard.encoders.network import open_network
from qguard.encoders.table import open_table
from qguard.errors import MeasurementProblem, ModelProblem, QguardError, first_line
from qguard.kinds import DENSE
from qguard.models.table import is_table

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


def _open_legacy(root: Path, kind: str) -> Any:
    try:
        return open_legacy(root, kind).eval()
    except QguardError:
        raise
    except Exception as e:  # torch raises many kinds for tensors that do not fit
        raise ModelProblem(f"{root.name} cannot be loaded: {first_line(e)}") from e


class TorchRuntime:
    """A Transformers model in one dtype, or with int8 layers, or a static model; torch itself spreads a batch over the cores.

    Raises:
        ModelProblem: when Transformers cannot load the folder.
        MeasurementProblem: when ``device`` is not there, or has no kernels for the model.
    """

    def __init__(self, root: Path, precision: str, threads: int | None = None, device: str = "cpu", kind: str = DENSE) -> None:
        import torch

        legacy = (root / FILE).exists()
        if device == "cuda":
            require_cuda()
        if device == "cuda" and legacy:
            raise MeasurementProblem("quantize_dynamic has no CUDA kernels; judge it on the CPU: --qguard-device cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        dtype = DTYPES.get(precision, "float32")
        if is_table(root):
            network = open_table(root, getattr(torch, dtype))
        else:
            network = _open_legacy(root, kind) if legacy else open_network(root, dtype, kind)[0]
        self.model = network.to(device)
        self.device = device

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`; returns when the device is done."""
        return self._tokens(input_ids, attention_mask, token_type_ids).float().cpu().numpy()  # the copy waits for the device

    def first_tokens(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """The embedding of each text's first token, float32 (batch, dim), when the device is done.

        What is timed on CUDA: there a service pools on the device and fetches one vector a text. To fetch those of all
        tokens can take twice as long as to compute them, and would draw every ratio toward 1.
        """
        found = self._tokens(input_ids, attention_mask, token_type_ids)
        return (found[:, 0] if found.ndim == 3 else found).float().cpu().numpy()

    def _tokens(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        import torch

        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        with torch.inference_mode():
            found = self.model(**{k: torch.from_numpy(a).to(self.device) for k, a in given.items() if a is not None})
        if isinstance(found, torch.Tensor):
            return found
        return found.logits if "logits" in found else found.last_hidden_state
