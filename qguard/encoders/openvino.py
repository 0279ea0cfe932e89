"""OpenVINO on CPU, straight from ONNX files. Imports neither torch nor transformers."""

from __future__ import annotations

import re
from pathlib import Path
from queue import LifoQueue
from typing import Any

import numpy as np

from qguard.encoders.feeding import Feeding
from qguard.encoders.interface import Interface
from qguard.encoders.ports import of_compiled
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import ArtifactProblem, UsageProblem
from qguard.files import read_json
from qguard.onnx.read import external_files, read_graph

PROPERTIES_FILE = "openvino.json"
PRECISION, GROUP = "INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE"
STATIC = "int8-static"
PROPERTIES: dict[str, dict[str, str | int]] = {
    "fp32": {PRECISION: "f32", GROUP: 0},
    "bf16": {PRECISION: "bf16", GROUP: 0},
    "int8": {PRECISION: "f32", GROUP: 64},  # 32 loses a little less, 128 is a little faster; bf16 for the rest gains little
    STATIC: {PRECISION: "bf16", GROUP: 0},  # the rest in f32 where the CPU has no bf16
}


def properties_of(file: Path, precision: str) -> dict[str, str | int]:
    """The properties of OpenVINO that an artifact declares in ``openvino.json`` beside its ONNX file.

    Only two may be set, so that an artifact names no path and no device: ``INFERENCE_PRECISION_HINT``, ``f32`` or ``bf16``,
    and ``DYNAMIC_QUANTIZATION_GROUP_SIZE``, values that share a scale: 0 (activations stay float) or a multiple of 16.
    Without that file it is computed as our own artifact of ``precision`` would be, not by defaults that differ by CPU.

    Raises:
        ArtifactProblem: for any other key or value.
    """
    path = file.with_name(PROPERTIES_FILE)
    if not path.exists():
        return PROPERTIES.get(precision, PROPERTIES["fp32"])
    found = read_json(path, ArtifactProblem)
    group = found.get(GROUP, 0)
    whole = type(group) is int and group >= 0 and group % 16 == 0
    if not whole or found.get(PRECISION) not in ("f32", "bf16") or not set(found) <= {PRECISION, GROUP}:
        raise ArtifactProblem(
            f"{path.name}: expected {PRECISION} f32 or bf16 and {GROUP} 0 or a multiple of 16, found {found}; build it again"
        )
    return found


def import_openvino() -> Any:
    """The module.

    Raises:
        UsageProblem: where it is not installed.
    """
    try:
        import openvino
    except ImportError as e:
        raise UsageProblem("OpenVINO is not installed; run: pip install 'qguard[openvino]'") from e
    return openvino


class OpenvinoRuntime:
    """An ONNX transformer compiled by OpenVINO.

    Args:
        file: The model file; external data must lie in its folder (checked by :func:`qguard.artifacts.artifact.read_graph`).
        precision: See :func:`properties_of`.
        threads: Threads of one call; ``None`` for one thread and as many requests side by side as there are cores, as in
            ONNX Runtime, and the same vectors on every number of cores.
        feeding: What the file's inputs and outputs do not say themselves.

    Attributes:
        interface: How it is fed and read.

    Raises:
        UsageProblem: where OpenVINO is not installed.
        ArtifactProblem: when the file does not load, has no usable input or output, or needs an instruction set that this
            CPU lacks.
    """

    def __init__(self, file: Path, precision: str = "fp32", threads: int | None = None, feeding: Feeding | None = None) -> None:
        ov = import_openvino()
        properties = properties_of(file, precision)
        self.batch_tokens, self.workers = RUNTIMES["openvino"].batch, 1 if threads else RUNTIMES["openvino"].parallel
        layout = {"INFERENCE_NUM_THREADS": threads or self.workers, "NUM_STREAMS": self.workers, "ENABLE_CPU_PINNING": False}
        try:
            core = ov.Core()
            self.compiled = core.compile_model(core.read_model(str(file)), "CPU", {**properties, **layout})
        except RuntimeError as e:
            version = ov.__version__.split("-")[0]
            if any((file.parent / name).is_symlink() for name in external_files(file)):
                raise ArtifactProblem(
                    f"OpenVINO {version} refuses the external data of {file.name}, which is a link as in every hub cache; give a "
                    "copy with the files themselves: cp -rL FOLDER COPY"
                ) from e
            raise ArtifactProblem(f"OpenVINO {version} cannot load {file.name}: {_words(e)}") from e
        hint = self.compiled.get_property(PRECISION).get_type_name()
        # OpenVINO falls back without a word; beside integer products that changes the vectors by a tenth of what these do
        if hint != properties[PRECISION] and precision != STATIC:
            raise ArtifactProblem(
                f"{file.name} is to be computed in {properties[PRECISION]}, which this CPU has not; found {hint}"
            )
        graph = read_graph(file).graph
        inputs = of_compiled(self.compiled.inputs, {i.name for i in graph.input})
        outputs = of_compiled(self.compiled.outputs, {o.name for o in graph.output})
        self.interface = Interface(inputs, outputs, file, feeding)
        self.room = self.interface.room
        self._requests: LifoQueue[Any] = LifoQueue()
        for _ in range(self.workers):
            self._requests.put(self.compiled.create_infer_request())

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """See :class:`qguard.encoders.Runtime`."""
        return self.interface(self._run, input_ids, attention_mask, token_type_ids)

    def _run(self, feeds: dict[str, Any]) -> Any:
        request = self._requests.get()
        try:
            request.infer(feeds, share_inputs=True)
            return np.array(request.get_tensor(self.interface.output.port.name).data)  # a copy: the request is used again
        except RuntimeError as e:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in list(feeds.items())[:3])
            raise ArtifactProblem(f"OpenVINO failed on a batch ({shapes}): {_words(e)}") from e
        finally:
            self._requests.put(request)


def _words(error: Exception) -> str:
    """OpenVINO's message as one line, without the places in its own source."""
    text = re.sub(r"(Exception from|Check '.*?' failed at) \S+:", "", str(error))
    return " ".join(text.split())[:300]
