"""ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders import cores
from qguard.encoders.ports import Feeds, embedding_output
from qguard.errors import ArtifactProblem

BATCH_TOKENS = 512  # per thread; larger batches fall out of the second-level cache


class OnnxRuntime:
    """An ONNX transformer, ours or another tool's: input and output names are found out, not assumed.

    Args:
        file: The model file; external data must lie in its folder (checked by :func:`qguard.graph.read_graph`).
        precision: Not needed: the file says what it computes in.
        threads: Intra-op threads of one call, 1 by default. One thread and several batches side by side use all cores
            better than one batch on several threads (benchmarks/throughput.py), and give the same vectors on every
            number of cores.
        optimise: Fuse operators when the file is loaded; without, the same sums come from other kernels, and slower.

    Raises:
        ArtifactProblem: when the file does not load or has no usable input or output.
    """

    def __init__(self, file: Path, precision: str = "fp32", threads: int | None = None, optimise: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 1
        options.log_severity_level = 3
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            self.session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's own exception types differ by build
            raise ArtifactProblem(f"ONNX Runtime {ort.__version__} cannot load {file.name}: {str(e).strip()[:300]}") from e
        self.feeds = Feeds({i.name: i.type for i in self.session.get_inputs()}, file)
        self.batch_tokens, self.workers = BATCH_TOKENS, cores()
        # exports of dictionaries may give the token ids back as outputs: only floats can be embeddings
        ranks = [(o.name, 0 if "int" in o.type else len(o.shape or ())) for o in self.session.get_outputs()]
        self._output = embedding_output(ranks, file)

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        try:
            (out,) = self.session.run([self._output], self.feeds(input_ids, attention_mask))
        except Exception as e:
            raise ArtifactProblem(f"ONNX Runtime failed on a batch {input_ids.shape}: {str(e).strip()[:300]}") from e
        return np.asarray(out, np.float32)
