"""ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qguard.encoders.feeding import Feeding
from qguard.encoders.interface import Interface
from qguard.encoders.ports import of_session
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import ArtifactProblem, first_line
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
        feeding: What the file's inputs and outputs do not say themselves.

    Attributes:
        session: ONNX Runtime's.
        interface: How it is fed and read.

    Raises:
        ArtifactProblem: when the file does not load or has no usable input or output.
    """

    def __init__(
        self,
        file: Path,
        precision: str = "fp32",
        threads: int | None = None,
        optimise: bool = True,
        feeding: Feeding | None = None,
    ) -> None:
        self.session = open_session(file, threads, optimise)
        inputs, outputs = of_session(self.session.get_inputs()), of_session(self.session.get_outputs())
        self.interface = Interface(inputs, outputs, file, feeding)
        self.batch_tokens, self.workers = RUNTIMES["onnx"].batch, RUNTIMES["onnx"].parallel
        self.room = self.interface.room

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        return self.interface(self._run, input_ids, attention_mask, token_type_ids)

    def _run(self, feeds: dict[str, Any]) -> Any:
        try:
            return self.session.run([self.interface.output.port.name], feeds)[0]
        except Exception as e:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in list(feeds.items())[:3])
            raise ArtifactProblem(f"ONNX Runtime failed on a batch ({shapes}): {first_line(e)}") from e


def open_session(file: Path, threads: int | None = None, optimise: bool = True) -> Any:
    """A session on a file; see :class:`OnnxRuntime`.

    Raises:
        ArtifactProblem: when the file does not load.
    """
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
        if graph is not None:
            return graph.session(options)
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's own exception types differ by build
        raise ArtifactProblem(
            f"ONNX Runtime {ort.__version__} cannot load {file.name}: {first_line(e)}; copy or export it again"
        ) from e
