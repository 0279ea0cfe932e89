"""Activations against the range of half precision: what other hardware makes infinite, and this CPU does not.

A float16 ends at 65,504. ONNX Runtime computes half precision in float32 on the CPU, so a file that overflows on a GPU passes
here. Therefore the file's own graph is run in float32, and the largest value of every 16-bit tensor is compared with the end of
the range. For weights that torch runs, these are the inputs and outputs of the layers of its float32 network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from math import floor, log2
from typing import Any, NamedTuple

import numpy as np

from qguard.artifacts.artifact import Artifact
from qguard.encoders import Ints, length_batches, padded
from qguard.encoders.network import open_network
from qguard.encoders.onnx import OnnxRuntime
from qguard.encoders.runtimes import GGUF
from qguard.errors import ArtifactProblem, MeasurementProblem, first_line
from qguard.files import inside
from qguard.judging.once import once
from qguard.judging.session import Session, Target
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.onnx.edit import Graph
from qguard.onnx.read import read_graph, tensors
from qguard.onnx.widened import add_maxima, give_sums, typed, widen
from qguard.precisions import Recipe

METRIC = "artifact.overflow"
BOUND = Bound("<=", 1)
TEXTS = 500  # of the suite at most, spread over its lengths
TOKENS = 2048  # of a batch
NEAR = 0.1  # share of the range from which on a layer is worth naming
_SHOWN = 5


class Half(NamedTuple):
    """A 16-bit type of floats.

    Attributes:
        name: As in precisions.
        largest: The largest finite number.
        bits: Of its fraction.
        onnx, runtime, safetensors: What ONNX, ONNX Runtime and safetensors call it.
        texts: How many of a suite's are run: nothing overflows a bf16, so a few tell its step.
    """

    name: str
    largest: float
    bits: int
    onnx: str
    runtime: str
    safetensors: str
    texts: int

    def step(self, value: float) -> float:
        """Distance of two neighbors at a value above 0."""
        return float(2.0 ** (floor(log2(value)) - self.bits))


FP16 = Half("fp16", 65504.0, 10, "FLOAT16", "tensor(float16)", "F16", TEXTS)
BF16 = Half("bf16", float(np.finfo(np.float32).max), 7, "BFLOAT16", "tensor(bfloat16)", "BF16", 64)


def of_target(session: Session, target: Target) -> list[Measured]:
    """``artifact.overflow`` of a target that computes in half precision; nothing for any other.

    The value is the largest activation of float32 over the largest number of the type. Each text is run without padding.

    Raises:
        MeasurementProblem: when the graph does not run in float32, or is not finite there.
    """
    return values(session, target.plain)


@once
def values(session: Session, target: Target) -> list[Measured]:
    """As :func:`of_target`, of a precision with float32 vectors."""
    artifact, recipe = session.artifact(target.precision, target.model), target.precision.recipe
    if not artifact.has_files or session.model(target.model).static:
        return []
    found = []
    for half, layers in _halves(artifact, recipe):
        ids = _spread(session.golden(target.model, target.suite).token_ids, half.texts)
        found.append(_measured(half, measure(layers, ids), len(ids)))
    return [max(found, key=lambda m: m.value)] if found else []


def _halves(artifact: Artifact, recipe: Recipe) -> Iterator[tuple[Half, Layers]]:
    """The 16-bit types that activations have, and what runs them."""
    if artifact.kind == GGUF:  # what overflows in llama.cpp overflows here too: nothing is widened on a CPU
        return
    declared = next((half for half in (FP16, BF16) if half.safetensors == recipe.weights), None)
    if artifact.onnx is None:
        if declared is not None:
            yield declared, Layers.of_network(artifact)
        return
    found = [(half, layers) for half in (FP16, BF16) if _has(artifact, half) and (layers := Layers.of_file(artifact, half)).most]
    if not found and declared is BF16:  # OpenVINO is told to round what the file computes in float32
        found = [(BF16, Layers.of_file(artifact, BF16, "tensor(float)"))]
    yield from found


class Layers:
    """Runs a network in float32 and keeps the largest absolute value of each of its tensors.

    Attributes:
        most: Tensor → that value, 0 before the first run.
    """

    def __init__(self, run: Callable[[Ints, Ints], Any], most: dict[str, float]) -> None:
        self.run, self.most = run, most

    @classmethod
    def of_file(cls, artifact: Artifact, half: Half, kind: str = "") -> Layers:
        """The tensors of an ONNX file that are of a type, or of another ``kind`` that is computed in it."""
        import onnx
        import onnxruntime as ort

        assert artifact.onnx is not None
        graph = Graph.read(artifact.onnx)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            give_sums(graph)
            names = typed(graph, kind or half.runtime)
            widen(graph, getattr(onnx.TensorProto, half.onnx))
            outputs = add_maxima(graph, names)
            opened = graph.session(options)
        except (ArtifactProblem, MeasurementProblem):
            raise
        except Exception as e:  # ONNX Runtime's own exception types differ by build
            raise MeasurementProblem(
                f"{artifact.onnx.name} cannot be run in float32 to look for overflow: {first_line(e)}"
            ) from e
        nodes = {name: node.name or name for node in graph.nodes for name in node.output}
        recorder = _Recorder(opened, {out: nodes[name] for name, out in outputs.items()})
        runtime: Any = copy.copy(OnnxRuntime(artifact.onnx, feeding=artifact.feeding))  # it knows how the file is fed
        runtime.session = recorder
        return cls(runtime, recorder.most)

    @classmethod
    def of_network(cls, artifact: Artifact) -> Layers:
        """What goes into and comes out of the layers of a torch network: of norms also the sum that they are given."""
        import torch

        network = open_network(inside(artifact.folder, artifact.pipeline.transformer), kind=artifact.pipeline.kind)[0]
        most: dict[str, float] = {}

        def keep(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(_: Any, given: Any, out: Any) -> None:
                for what, value in (("input", given), ("output", out)):
                    for tensor in _floats(value):
                        size = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
                        most[f"{name} ({what})"] = _larger(most.get(f"{name} ({what})", 0.0), size)

            return hook

        for name, module in network.named_modules():
            if name and not any(True for _ in module.children()):
                module.register_forward_hook(keep(name))

        def run(*batch: Ints) -> None:
            names = ("input_ids", "attention_mask", "token_type_ids")
            with torch.inference_mode():
                network(**{name: torch.from_numpy(value) for name, value in zip(names, batch, strict=False)})

        return cls(run, most)


class _Recorder:
    """Stands in for a session of ONNX Runtime, and keeps the maxima that its graph gives besides the embeddings."""

    def __init__(self, session: Any, names: dict[str, str]) -> None:
        self._session, self._names = session, names
        self._floats = {i.name for i in session.get_inputs() if i.type == "tensor(float)"}
        self.most = dict.fromkeys(names.values(), 0.0)

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        given = {n: v.astype(np.float32) if n in self._floats else v for n, v in feeds.items()}
        found = self._session.run([*outputs, *self._names], given)
        for name, value in zip(self._names.values(), found[len(outputs) :], strict=True):
            self.most[name] = _larger(self.most[name], float(value))
        return list(found[: len(outputs)])


def measure(layers: Layers, ids: Sequence[Sequence[int]]) -> list[tuple[str, float]]:
    """Every tensor and its largest absolute value over n texts, the largest first.

    Raises:
        MeasurementProblem: where there is none, or a value is not finite in float32 either.
    """
    try:
        for batch in _batches(ids):
            layers.run(*padded([ids[i] for i in batch]))
    except Exception as e:  # of torch and ONNX Runtime
        raise MeasurementProblem(f"the layers could not be run in float32 to look for overflow: {first_line(e)}") from e
    if not layers.most:
        raise MeasurementProblem("no tensor of half precision depends on the texts, so nothing was compared with its range")
    if wild := [name for name, value in layers.most.items() if not np.isfinite(value)]:
        raise MeasurementProblem(f"{wild[0]} is not finite in float32 either")
    return sorted(layers.most.items(), key=lambda item: -item[1])


def _batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Texts of one length, so that none is padded."""
    lengths: dict[int, list[int]] = {}
    for i, row in enumerate(ids):
        lengths.setdefault(len(row), []).append(i)
    for length, rows in sorted(lengths.items()):
        for batch in length_batches([length] * len(rows), TOKENS):
            yield [rows[i] for i in batch]


def _spread(ids: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    return [ids[order[i]] for i in np.linspace(0, len(order) - 1, min(len(order), most)).astype(int)]


def _measured(half: Half, found: Sequence[tuple[str, float]], texts: int) -> Measured:
    (first, most), value = found[0], found[0][1] / half.largest
    shown = [
        f"{name}: {size:,.0f} in fp32, and {half.name} ends at {half.largest:,.0f}"
        for name, size in found[:_SHOWN]
        if half is FP16 and size > NEAR * half.largest
    ]
    if value > BOUND.number:
        over = sum(size > half.largest for _, size in found)
        shown.append(
            f"{over} of {len(found)} tensors overflow on hardware that computes in {half.name}; ONNX Runtime on a CPU does not "
            f"show it. Keep these layers in fp32, or use bf16 (its step there is {BF16.step(most):g})"
        )
    elif half is BF16 and most > 0:
        shown.append(f"{first}: {most:,.4g} in fp32, the largest activation; bf16's step there is {half.step(most):g}")
    return Measured(METRIC, None, value, texts, False, tuple(shown), BOUND)


def _has(artifact: Artifact, half: Half) -> bool:
    """Whether a file stores or computes anything in a type; shapes and indices are integers."""
    from onnx import TensorProto

    assert artifact.onnx is not None
    model, kind = read_graph(artifact.onnx), getattr(TensorProto, half.onnx)
    if any(t.data_type == kind for t in tensors(model)):
        return True
    return any(a.name == "to" and a.i == kind for n in model.graph.node if n.op_type == "Cast" for a in n.attribute)


def _floats(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _floats(part)
    elif hasattr(value, "is_floating_point") and value.is_floating_point():
        yield value


def _larger(a: float, b: float) -> float:
    return b if not np.isfinite(b) or b > a else a
