"""ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders import cores
from qguard.errors import ArtifactProblem

BATCH_TOKENS = 512  # per thread; larger batches fall out of the second-level cache
_OUTPUTS = ("last_hidden_state", "token_embeddings", "sentence_embedding")


class OnnxRuntime:
    """An ONNX transformer, ours or another tool's: input and output names are found out, not assumed.

    Args:
        file: The model file; external data must lie in its folder (checked by :func:`qguard.graph.read_graph`).
        precision: Not needed: the file says what it computes in.
        threads: Intra-op threads of one call, 1 by default. One thread and several batches side by side use all cores
            better than one batch on several threads (benchmarks/throughput.py), and give the same vectors on every
            number of cores.

    Raises:
        ArtifactProblem: when the file does not load or has no usable input or output.
    """

    def __init__(self, file: Path, precision: str = "fp32", threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's own exception types differ by build
            raise ArtifactProblem(f"ONNX Runtime {ort.__version__} cannot load {file.name}: {str(e).strip()[:300]}") from e
        self._feeds = {i.name: (self._role(i.name, file), i.type) for i in self.session.get_inputs()}
        if "input_ids" not in {role for role, _ in self._feeds.values()}:
            raise ArtifactProblem(f"{file.name} has no token id input; found {sorted(self._feeds)}")
        outputs = self.session.get_outputs()
        # exports of dictionaries may give the token ids back as outputs: only floats can be embeddings
        usable = [o for o in outputs if len(o.shape or ()) in (2, 3) and "int" not in o.type]
        named = [o.name for want in _OUTPUTS for o in usable if o.name == want]
        deep = [o.name for o in usable if len(o.shape) == 3]
        if not usable:
            raise ArtifactProblem(f"{file.name} has no float output with 2 or 3 dimensions; found {[o.name for o in outputs]}")
        self.batch_tokens, self.workers = BATCH_TOKENS, cores()
        self._output = (named or deep or [usable[0].name])[0]

    @staticmethod
    def _role(name: str, file: Path) -> str:
        low = name.lower()
        for key, role in (
            ("mask", "attention_mask"), ("type", "token_type_ids"), ("segment", "token_type_ids"),
            ("position", "position_ids"), ("id", "input_ids"), ("token", "input_ids"),
        ):  # fmt: skip
            if key in low:
                return role
        raise ArtifactProblem(
            f"{file.name} has an input {name!r} that is none of token ids, attention mask, token types, positions"
        )

    def feeds(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """The session's inputs by name, in the dtypes that it wants."""
        values = {"input_ids": input_ids, "attention_mask": attention_mask}
        feeds = {}
        for name, (role, kind) in self._feeds.items():
            if role == "token_type_ids":
                value = np.zeros_like(input_ids)
            elif role == "position_ids":
                value = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
            else:
                value = values[role]
            feeds[name] = value.astype(np.int32) if "int32" in kind else np.ascontiguousarray(value)
        return feeds

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        try:
            (out,) = self.session.run([self._output], self.feeds(input_ids, attention_mask))
        except Exception as e:
            raise ArtifactProblem(f"ONNX Runtime failed on a batch {input_ids.shape}: {str(e).strip()[:300]}") from e
        return np.asarray(out, np.float32)
