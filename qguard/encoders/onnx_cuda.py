"""ONNX Runtime's CUDA provider: the same files as on the CPU. Imports neither torch nor transformers."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders.feeding import Feeding
from qguard.encoders.interface import Interface
from qguard.encoders.onnx import OnnxRuntime
from qguard.encoders.ports import of_graph, of_session
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import MeasurementProblem, first_line
from qguard.extras import INSTALL_GPU
from qguard.machine.cuda import require_card
from qguard.onnx.edit import Graph
from qguard.onnx.read import reads

NAME, PROVIDER, CPU = "onnx-cuda", "CUDAExecutionProvider", "CPUExecutionProvider"
# fp32 is float32, as in torch: ONNX Runtime's default rounds products to TF32
OPTIONS = {"use_tf32": "0"}
FIRST = "qguard/first_tokens"
ASSIGNED = "session.record_ep_graph_assignment_info"
_LISTED = 6


class OnnxCudaRuntime(OnnxRuntime):
    """An ONNX transformer on a CUDA device. Nothing of it is computed on the CPU but shapes.

    Args:
        file: The model file; external data must lie in its folder.
        precision: Not needed: the file says what it computes in.
        threads: Threads of what stays on the CPU, 1 by default.
        feeding: What the file's inputs and outputs do not say themselves.

    Attributes:
        session: ONNX Runtime's.
        interface: How it is fed and read.

    Raises:
        MeasurementProblem: without a CUDA device or a build of ONNX Runtime for it, or where ONNX Runtime puts a part of the
            model on the CPU.
        ArtifactProblem: when the file has no usable input or output.
    """

    def __init__(self, file: Path, precision: str = "fp32", threads: int | None = None, feeding: Feeding | None = None) -> None:
        require_provider()
        graph = Graph.read(file)
        inputs, outputs = of_graph(graph.model.graph.input), of_graph(graph.model.graph.output)
        stored = {t.name for t in graph.model.graph.initializer}  # old files list them as inputs too
        port = Interface([p for p in inputs if p.name not in stored], outputs, file, feeding).output.port
        self._first = FIRST if port.rank == 3 else port.name
        if self._first == FIRST:
            add_first_tokens(graph, port.name)
        shapes = name_shapes(graph)
        self.session = _open(graph, file, threads)
        refuse_fallback(self.session, shapes, file)
        given = [o for o in of_session(self.session.get_outputs()) if o.name != FIRST]
        self.interface = Interface(of_session(self.session.get_inputs()), given, file, feeding)
        self.batch_tokens, self.workers = RUNTIMES[NAME].batch, RUNTIMES[NAME].parallel
        self.room = self.interface.room

    def first_tokens(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """The embedding of each text's first token, float32 (batch, dim), in host memory; of finished vectors those.

        What is timed: see :meth:`qguard.encoders.torch.TorchRuntime.first_tokens`. The whole graph is computed, and all else
        stays on the device.
        """
        runs = self.interface.feeds.runs(input_ids, attention_mask, token_type_ids)
        found = np.concatenate([self._fetch(self._first, feeds) for feeds in runs])
        return found[: len(input_ids)].astype(np.float32, copy=False)

    def _run(self, feeds: dict[str, Any]) -> Any:
        return self._fetch(self.interface.output.port.name, feeds)

    def _fetch(self, output: str, feeds: dict[str, Any]) -> Any:
        try:
            return self.session.run([output], feeds)[0]
        except Exception as e:  # of the device too, such as too little memory
            shapes = ", ".join(f"{name} {value.shape}" for name, value in list(feeds.items())[:3])
            raise MeasurementProblem(f"ONNX Runtime failed on the CUDA device on a batch ({shapes}): {first_line(e)}") from e


def require_provider() -> None:
    """This build of ONNX Runtime has the CUDA provider, and a device is there.

    Raises:
        MeasurementProblem: where either is missing.
    """
    import onnxruntime as ort

    have = ort.get_available_providers()
    if PROVIDER not in have:
        raise MeasurementProblem(
            f"{NAME} computes in ONNX Runtime's {PROVIDER}, and onnxruntime {ort.__version__} as it is installed has "
            f"{', '.join(have)}; put onnxruntime-gpu in its place: {INSTALL_GPU}"
        )
    require_card(NAME)


def add_first_tokens(graph: Graph, output: str) -> None:
    """Give the graph an output more, the first row of each text's embeddings (batch, hidden) of (batch, length, hidden)."""
    from onnx import helper

    first = graph.put(f"{FIRST}/index", np.array(0, np.int64))
    graph.append([helper.make_node("Gather", [output, first], [FIRST], FIRST, axis=1)])
    graph.add_outputs([FIRST])


def name_shapes(graph: Graph) -> set[str]:
    """The names of the nodes that compute shapes: no value of a text is in them.

    ONNX Runtime computes them on the CPU on purpose, since their results are needed there. Nodes without a name get one.
    """
    known, shapes, others = set(graph.constants), set[str](), set[str]()
    for k, node in enumerate(graph.nodes):
        node.name = node.name or f"qguard/{k}"
        of_shapes = node.op_type in ("Shape", "Size") or all(name in known for name in reads(node))
        if of_shapes:
            known.update(node.output)
        (shapes if of_shapes else others).add(node.name)
    return shapes - others


def _open(graph: Graph, file: Path, threads: int | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.log_severity_level = 3
    options.add_session_config_entry(ASSIGNED, "1")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints paths; what is missing is found out below
        ort.preload_dlls()
    try:
        return graph.session(options, [(PROVIDER, OPTIONS)], enable_fallback=0)
    except Exception as e:  # ONNX Runtime's own exception types differ by build
        raise MeasurementProblem(
            f"ONNX Runtime {ort.__version__} cannot open {file.name} on the CUDA device: {first_line(e)}"
        ) from e


def refuse_fallback(session: Any, shapes: set[str], file: Path) -> None:
    """The CUDA provider is the session's first one, and computes every node but those of shapes.

    ONNX Runtime goes on with the CPU where the provider cannot be loaded, also with ``enable_fallback=0``, and always where the
    provider has no kernel for a node.

    Args:
        session: With the option that records where its nodes are.
        shapes: Names of nodes that may be on the CPU.
        file: For messages.

    Raises:
        MeasurementProblem: otherwise.
    """
    import onnxruntime as ort

    found = session.get_providers()
    if found[:1] != [PROVIDER]:
        cuda = getattr(ort, "cuda_version", "")
        built = f", which was built for CUDA {cuda} and cuDNN 9" if cuda else ""
        raise MeasurementProblem(
            f"{NAME}: expected {PROVIDER} as the first provider, found {', '.join(found) or 'none'} of onnxruntime "
            f"{ort.__version__}{built}{_missing()}; run: {INSTALL_GPU}"
        )
    strays, nodes = on_cpu(session, shapes)
    if not nodes:
        raise MeasurementProblem(
            f"{NAME}: onnxruntime {ort.__version__} does not tell where the nodes of {file.name} are computed"
        )
    if strays:
        listed = ", ".join(f"{count} {operator}" for operator, count in strays.most_common(_LISTED))
        more = f" and {len(strays) - _LISTED} other operators" if len(strays) > _LISTED else ""
        raise MeasurementProblem(
            f"{NAME}: expected all of {file.name} on the CUDA device, found {strays.total()} of {nodes} nodes on the CPU, where "
            f"onnxruntime {ort.__version__} puts them ({listed}{more}); judge this file on the CPU (--precision NAME@onnx), or "
            "another precision on the device, such as fp16@onnx-cuda"
        )


def on_cpu(session: Any, shapes: set[str]) -> tuple[Counter[str], int]:
    """Operators that are not computed by the CUDA provider, each with its number of nodes, and the number of all nodes.

    Args:
        session: With the option that records where its nodes are.
        shapes: Names of nodes that may be on the CPU, and are not counted there.
    """
    nodes = [(part.ep_name, node) for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    return Counter(n.op_type for provider, n in nodes if provider != PROVIDER and n.name not in shapes), len(nodes)


def _missing() -> str:
    """The library that the provider needs and that is not there, as the system's loader says it; empty if it loads."""
    import onnxruntime as ort

    folder = Path(ort.__file__).parent / "capi"
    libraries = [folder / f"libonnxruntime_providers_{part}.so" for part in ("shared", "cuda")]
    try:
        for library in libraries if all(f.is_file() for f in libraries) else ():  # other systems name them otherwise
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as e:
        return f"; its library cannot be loaded: {first_line(e).replace(str(folder), '…')}"
    return ""
