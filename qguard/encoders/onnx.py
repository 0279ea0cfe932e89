"""ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders.ports import Feeds, embedding_output
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import ArtifactProblem
from qguard.files import read_json
from qguard.machine.cpu import saturates
from qguard.onnx.edit import Graph
from qguard.onnx.unsigned import unsigned_weights

OPTIONS_FILE = "onnxruntime.json"
EXACT = "session.x64quantprecision"


def exact_products(file: Path) -> bool:
    """Whether an artifact declares, in ``onnxruntime.json`` beside its ONNX file, that it is to be run with the session option
    ``session.x64quantprecision=1`` on x86 without VNNI, whose products of unsigned and signed 8 bits saturate.

    ONNX Runtime then stores signed weights as unsigned ones, which gives the same sums without saturation, and slower. On
    a CPU with VNNI it would be slower for nothing, so the option is set only where :func:`qguard.machine.cpu.saturates`.

    Raises:
        ArtifactProblem: for any other content of that file.
    """
    path = file.with_name(OPTIONS_FILE)
    if not path.exists():
        return False
    found = read_json(path, ArtifactProblem)
    if found not in ({EXACT: "1"}, {EXACT: "0"}, {}):
        raise ArtifactProblem(f'{path.name}: expected {{"{EXACT}": "1"}}, or no such file; found {found}')
    return found.get(EXACT) == "1"


class OnnxRuntime:
    """An ONNX transformer, ours or another tool's: input and output names are found out, not assumed.

    Args:
        file: The model file; external data must lie in its folder (checked by :func:`qguard.onnx.read.read_graph`).
        precision: Not needed: the file says what it computes in.
        threads: Intra-op threads of one call, 1 by default. One thread and several batches side by side use all cores
            better than one batch on several threads (benchmarks/throughput.py), and give the same vectors on every
            number of cores. Left out, memory is not kept between calls either.
        optimise: Fuse operators when the file is loaded; without, the same sums come from other kernels, and slower.

    Raises:
        ArtifactProblem: when the file does not load or has no usable input or output.
    """

    def __init__(self, file: Path, precision: str = "fp32", threads: int | None = None, optimise: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 1
        # kept blocks pay from the second pass on, and an encoder makes one; what is timed keeps ONNX Runtime's own setting
        options.enable_cpu_mem_arena = threads is not None
        options.log_severity_level = 3
        graph: Graph | None = None
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        if saturates() and exact_products(file):
            if optimise:
                options.add_session_config_entry(EXACT, "1")
            else:
                graph = Graph.read(file)
                unsigned_weights(graph)
        try:
            self.session = (
                ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
                if graph is None
                else graph.session(options)
            )
        except Exception as e:  # ONNX Runtime's own exception types differ by build
            raise ArtifactProblem(f"ONNX Runtime {ort.__version__} cannot load {file.name}: {str(e).strip()[:300]}") from e
        self.feeds = Feeds({i.name: i.type for i in self.session.get_inputs()}, file)
        self.batch_tokens, self.workers = RUNTIMES["onnx"].batch, RUNTIMES["onnx"].parallel
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
