"""Layers left in fp32 one after another: what each costs in accuracy, and which of them to exclude until the gates hold.

A layer's part of the artifact's graph is replaced by the same part of the fp32 export, between tensors that both compute;
so it works for every form of quantization, and the file that comes out can be run, timed and weighed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.diagnosis.sites import ATTENTION, LINEAR, NORM, AlignedTensor, Net, align, segment
from qguard.encoders.onnx import OPTIONS_FILE
from qguard.encoders.ports import role_of
from qguard.errors import ArtifactProblem
from qguard.onnx.edit import rename

# operators that mean the same in every operator set
_ANY_OPSET = ("MatMul", "Gemm", "Attention", "EmbedLayerNormalization", "Cast", "Add", "Mul", "Gather", "Transpose")
# onnx.TensorProto's FLOAT and DOUBLE, and FLOAT16
_FLOAT, _HALF = (1, 11), 10


@dataclass(frozen=True)
class Unit:
    """What can be left in fp32 by itself: a multiplication, a whole attention with its projections, or the embeddings.

    Attributes:
        layer: Its name.
        site: The tensor that it ends in.
        nodes: Names of its operators in the fp32 export: what quantizers take as a list of nodes to exclude.
        parameters: How many weights its part of the fp32 export holds.
    """

    layer: str
    site: AlignedTensor
    nodes: tuple[str, ...]
    parameters: int


class LayerExchange:
    """An artifact and the fp32 export of the same model, whose parts are exchanged.

    Args:
        fp32: The fp32 export's file.
        candidate: The artifact's file.

    Raises:
        ArtifactProblem: when the two cannot be aligned, or nothing of the artifact is quantized.
    """

    def __init__(self, fp32: Path, candidate: Path) -> None:
        self.fp32, self.candidate, self.file = Net.read(fp32, whole=True), Net.read(candidate, whole=True), candidate
        self.sites = align(self.fp32, self.candidate)
        self._ends = {s.fp32: s.candidate for s in self.sites}
        # in a file of half precision fp32's part reads and gives float16
        self._half = any(t.data_type == _HALF and len(t.dims) == 2 for t in self.candidate.constants.values())
        self.units = [unit for s in self.sites if (unit := self._unit(s)) is not None]
        if not self.units:
            raise ArtifactProblem("no quantized layer of the artifact could be aligned with one of the fp32 export")

    def _unit(self, site: AlignedTensor) -> Unit | None:
        """The unit that ends in a site: its part of the artifact holds quantized weights, and fp32's part can replace it."""
        theirs = segment(self.candidate, site.candidate, set(self._ends.values()))
        if site.kind not in (LINEAR, ATTENTION, NORM) or not any(self._quantized(n) for n in theirs):
            return None
        mine = self._part(site)
        portable = self.fp32.opset == self.candidate.opset or all(n.op_type in _ANY_OPSET for n in mine)
        if not portable or any(i is None for i in self._inputs(mine).values()):
            return None
        matrices = {i: self.fp32.constants[i] for n in mine for i in n.input if i in self.fp32.constants}
        parameters = sum(math.prod(t.dims) for t in matrices.values() if len(t.dims) == 2)
        nodes = tuple(n.name for n in mine if n.name and any(i in matrices and len(matrices[i].dims) == 2 for i in n.input))
        layer = site.layer.removesuffix("/LayerNorm") if site.kind == NORM else site.layer
        return Unit(layer, site, nodes, parameters) if parameters else None

    def _quantized(self, node: Any) -> bool:
        """Whether an operator reads a stored matrix of another type than float32."""
        read = (self.candidate.constants.get(i) for i in node.input)
        return any(t is not None and len(t.dims) >= 2 and t.data_type not in _FLOAT for t in read)

    def _part(self, site: AlignedTensor) -> list[Any]:
        return segment(self.fp32, site.fp32, set(self._ends))

    def _inputs(self, part: Sequence[Any]) -> dict[str, str | None]:
        """The model's inputs that a part of the fp32 graph reads → the artifact's inputs of the same role."""
        roles = {role_of(i.name): i.name for i in self.candidate.model.graph.input}
        mine = {i.name for i in self.fp32.model.graph.input if i.name not in self.fp32.constants}
        return {name: roles.get(role_of(name)) for node in part for name in node.input if name in mine}

    def without(self, units: Sequence[Unit], target: Path) -> Path:
        """Write the artifact with these units in fp32.

        Raises:
            ArtifactProblem: when the file cannot be written.
        """
        graph = self.candidate.copy()
        graph.rename_outputs({unit.site.candidate: f"{unit.site.candidate}/quantized" for unit in units})
        added: dict[str, Any] = {}
        for unit in units:
            added |= self._transplant(unit)
        graph.append(added.values())
        graph.sort()
        graph.drop_tensors(list(graph.initializers))
        for name in sorted(self.fp32.constants):  # a Constant node of the part was moved as a node
            if graph.consumers(f"fp32/{name}") and f"fp32/{name}" not in graph.producers:
                graph.put(f"fp32/{name}", self.fp32.array(name))
        model = graph.model
        del model.graph.value_info[:]
        domains = {o.domain for o in model.opset_import}
        model.opset_import.extend(o for o in self.fp32.model.opset_import if o.domain not in domains and o.domain)
        try:
            graph.save(target)
        except Exception as e:  # protobuf's own error types, and a full disk
            raise ArtifactProblem(f"cannot write a copy of the artifact ({e})") from e
        if (beside := self.file.with_name(OPTIONS_FILE)).exists():
            shutil.copyfile(beside, target.with_name(OPTIONS_FILE))
        return target

    def _transplant(self, unit: Unit) -> dict[str, Any]:
        """fp32's nodes for a unit by their first output, reading and giving the artifact's tensors."""
        import onnx

        part, end = self._part(unit.site), unit.site
        inner = {o for node in part for o in node.output if o} | self.fp32.constants.keys()
        made: dict[str, Any] = {}
        for node in part:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            new.name = f"fp32/{node.name or node.output[0]}"
            own = {name: f"fp32/{name}" for name in (*node.input, *node.output) if name in inner}
            reads = {name: self._ends[name] for name in node.input if name in self._ends}
            if self._half:
                for name in reads.values():
                    made[f"{name}/float"] = onnx.helper.make_node("Cast", [name], [f"{name}/float"], f"{name}/float", to=1)
                reads = {name: f"{theirs}/float" for name, theirs in reads.items()}
            rename(new.input, own | reads | {k: v for k, v in self._inputs([node]).items() if v})
            rename(new.output, own if self._half else own | {end.fp32: end.candidate})
            made[new.output[0]] = new
        if self._half:
            last = f"fp32/{end.fp32}"
            made[end.candidate] = onnx.helper.make_node("Cast", [last], [end.candidate], f"{last}/half", to=10)
        return made


@dataclass(frozen=True)
class Cost:
    """What one unit costs: the sample's scores with it in fp32, less those of the artifact.

    Attributes:
        cosine: Gained mean cosine to the golden.
        overlap: Gained overlap@10 among the texts of the sample.
    """

    unit: Unit
    cosine: float
    overlap: float


@dataclass(frozen=True)
class Exclusion:
    """The outcome of leaving layers in fp32.

    Attributes:
        costs: Every unit, the dearest first.
        chosen: The units to exclude, enough for the gates of accuracy; empty where no exclusion helps.
        holds: Whether all gates of accuracy hold then, on the whole suite.
        left: What still fails of all gates with ``chosen`` in fp32, in words.
        bytes: Of the artifact: before, after, and of the fp32 export.
        speed: Times of the fp32 export over the artifact's: before, after; ``None`` where it was not timed.
    """

    costs: tuple[Cost, ...]
    chosen: tuple[Unit, ...] = ()
    holds: bool = False
    left: tuple[str, ...] = ()
    bytes: tuple[int, int, int] = (0, 0, 0)
    speed: tuple[float, float] | None = None


def costs(
    exchange: LayerExchange,
    score: Callable[[Path], tuple[float, float]],
    folder: Path,
    advance: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """Every unit left in fp32 alone.

    Args:
        exchange: Of the artifact.
        score: Mean cosine and overlap@10 of a file on a sample.
        folder: For the files.
        advance: Called after each unit.
    """
    before = score(exchange.without([], folder / "model.onnx"))
    found = []
    for unit in exchange.units:
        cosine, overlap = score(exchange.without([unit], folder / "model.onnx"))
        found.append(Cost(unit, cosine - before[0], overlap - before[1]))
        advance()
    return sorted(found, key=lambda c: -c.cosine)


def fewest(ordered: Sequence[Unit], holds: Callable[[Sequence[Unit]], bool]) -> tuple[Unit, ...]:
    """The shortest beginning of ``ordered`` with which ``holds``, found by halving; all of it where none does.

    The gates are asked once more for the one before: more in fp32 is nearly always more accurate, not always.
    """
    low, high = 0, len(ordered)  # not with low; with high, or with none
    if not holds(ordered):
        return ()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(ordered[:middle]) else (middle, high)
    return tuple(ordered[:high])
