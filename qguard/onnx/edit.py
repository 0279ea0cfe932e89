"""An ONNX graph indexed by names, and its changes: one wrapper for recipes, faults, diagnosis and the reader of layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qguard.onnx.read import read_names, reads

_Number = TypeVar("_Number", int, float, list[int])
_STANDARD = ("", "ai.onnx")  # both name ONNX's own operators


@dataclass(frozen=True)
class Operands:
    """Which inputs of an integer operator hold what.

    Attributes:
        weight: The stored integers.
        scale: Their scale; ``None`` where it follows the operator.
        zero: Their zero point, which may be left out.
        activation: The scale of what they are multiplied with; ``None`` where the operator is not given one.
    """

    weight: int
    scale: int | None
    zero: int
    activation: int | None


# integer operators with a weight, by ONNX's and ONNX Runtime's definitions of them
INTEGER: dict[str, Operands] = {
    "MatMulInteger": Operands(1, None, 3, None),
    "DynamicQuantizeMatMul": Operands(1, 2, 3, None),
    "MatMulIntegerToFloat": Operands(1, 3, 5, 2),
    "QAttention": Operands(1, 4, 7, 3),
    "QLinearMatMul": Operands(3, 4, 5, 1),
    "QGemm": Operands(3, 4, 5, 1),
}


def attribute(node: Any, name: str, default: _Number) -> _Number:
    """An attribute of a node, of the type of ``default``, which stands for one that the node lacks."""
    found = next((a for a in node.attribute if a.name == name), None)
    if found is None:
        return default
    value: _Number = list(found.ints) if isinstance(default, list) else found.f if isinstance(default, float) else found.i
    return value


def attributes(node: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """The attributes of a node as ``onnx.helper.make_node`` takes them: all, or those of ``names``."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute if names is None or a.name in names}


def rename(names: Any, new: Mapping[str, str]) -> None:
    """Replace names in the inputs or outputs of a node that is not yet in a graph, in place."""
    for i, name in enumerate(names):
        if name in new:
            names[i] = new[name]


class Graph:
    """The main graph of a model. Its changes go through the methods, which keep the indexes true.

    What the nodes of branches and loops read counts as read by the node that holds them; they are never changed.

    Args:
        model: ``onnx.ModelProto``, changed in place.
        folder: Of its external data, where the model was read without it.
    """

    def __init__(self, model: Any, folder: Path | None = None) -> None:
        self.model, self.folder = model, folder

    def copy(self) -> Graph:
        """A graph of its own, with all that is stored in the model."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return Graph(model, self.folder)

    def save(self, file: Path) -> None:
        """Write the model to one file."""
        import onnx

        onnx.save(self.model, str(file))

    # what it holds, by name

    @cached_property
    def nodes(self) -> list[Any]:
        """The nodes as they stand, in the order of the graph."""
        return list(self.model.graph.node)

    @cached_property
    def producers(self) -> dict[str, Any]:
        """Tensor → the node that makes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def _consumers(self) -> dict[str, list[Any]]:
        found = defaultdict(list)
        for node in self.nodes:
            for name in reads(node):
                found[name].append(node)
        return dict(found)

    def consumers(self, name: str) -> list[Any]:
        """The nodes that read a tensor, in the order of the graph."""
        return list(self._consumers.get(name, ()))

    @cached_property
    def initializers(self) -> dict[str, Any]:
        """Stored tensors; those in ``Constant`` nodes are left out."""
        return {t.name: t for t in self.model.graph.initializer}

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Stored tensors, those in ``Constant`` nodes among them."""
        return {**self.initializers, **dict(self._in_nodes())}

    def _in_nodes(self) -> Iterator[tuple[str, Any]]:
        for node in self.nodes:
            for a in node.attribute if node.op_type == "Constant" else ():
                if a.name == "value" and a.HasField("t"):
                    yield node.output[0], a.t

    def array(self, name: str) -> Any:
        """The values of a stored tensor; NumPy may refuse to change them."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name], base_dir=str(self.folder or ""))

    def behind(self, name: str, operators: Collection[str]) -> str:
        """Where a tensor comes from: back through the first inputs of these operators."""
        for _ in self.nodes:  # a damaged file may hold a circle
            node = self.producers.get(name)
            if node is None or node.op_type not in operators or not node.input:
                break
            name = node.input[0]
        return name

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; 0 where none is declared."""
        return max((o.version for o in self.model.opset_import if o.domain in _STANDARD), default=0)

    # stored tensors

    def put(self, name: str, value: Any) -> str:
        """Store an array: new ones behind the others, or in place of the one of that name. Gives the name."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value), name)
        if name in self.initializers:
            self.initializers[name].CopyFrom(tensor)
        else:
            self.model.graph.initializer.append(tensor)
            self.initializers[name] = self.model.graph.initializer[-1]
        self._forget("constants")
        return name

    def store_constants(self, which: Callable[[Any], bool]) -> None:
        """Move tensors out of their ``Constant`` nodes, behind the other stored ones: those of which ``which`` says yes."""
        moved = {name: tensor for name, tensor in self._in_nodes() if which(tensor)}
        for name, tensor in moved.items():
            self.model.graph.initializer.add().CopyFrom(tensor)
            self.model.graph.initializer[-1].name = name
        self._forget("initializers")
        self.set_nodes(n for n in self.nodes if n.output[0] not in moved)

    def drop_tensors(self, names: Iterable[str]) -> None:
        """Remove those of these stored tensors that nothing reads."""
        unread = set(names) - read_names(self.model.graph)
        self._keep_tensors(lambda name: name not in unread)

    def _keep_tensors(self, wanted: Callable[[str], bool]) -> None:
        kept = [t for t in self.model.graph.initializer if wanted(t.name)]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        self._forget("initializers", "constants")

    # nodes

    def set_nodes(self, nodes: Iterable[Any]) -> None:
        """Hold these nodes and no others; what was read from :attr:`nodes` before is no longer part of the graph."""
        nodes = list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        self._forget("nodes", "producers", "_consumers", "constants")

    def rewrite(self, change: Callable[[Any], Iterable[Any] | None]) -> None:
        """Put what ``change`` gives for a node in its place, for all nodes; ``None`` leaves it."""
        made = [(node, change(node)) for node in self.nodes]
        self.set_nodes(new for node, by in made for new in ([node] if by is None else by))

    def replace(self, node: Any, by: Iterable[Any]) -> None:
        """Put nodes in the place of one, which is known by its outputs."""
        self.rewrite(lambda other: by if list(other.output) == list(node.output) else None)

    def prepend(self, nodes: Iterable[Any]) -> None:
        """Put nodes before all others."""
        self.set_nodes([*nodes, *self.nodes])

    def append(self, nodes: Iterable[Any]) -> None:
        """Put nodes behind all others."""
        self.set_nodes([*self.nodes, *nodes])

    def set_input(self, node: Any, i: int, name: str) -> None:
        """Let a node read another tensor as its input ``i``; inputs left out before it become empty names."""
        node.input.extend([""] * (i + 1 - len(node.input)))
        node.input[i] = name
        self._forget("_consumers")

    def redirect(self, nodes: Iterable[Any], new: Mapping[str, str]) -> None:
        """Let nodes read other tensors, by the names that they read now."""
        for node in nodes:
            rename(node.input, new)
        self._forget("_consumers")

    def rename_outputs(self, new: Mapping[str, str]) -> None:
        """Let the nodes that make these tensors make them under other names; readers still read the old ones."""
        for node in self.nodes:
            rename(node.output, new)
        self._forget("producers", "constants")

    def drop_unread(self, operators: Collection[str] | None = None) -> None:
        """Remove nodes whose outputs nothing reads, and then the stored tensors that nothing reads.

        Args:
            operators: The kinds of nodes that may go; all by default.
        """

        def stays(node: Any) -> bool:
            return operators is not None and node.op_type not in operators

        todo = [o.name for o in self.model.graph.output]
        todo += [name for node in self.nodes if stays(node) for name in reads(node)]
        read: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in read:
                read.add(name)
                node = self.producers.get(name)
                todo += reads(node) if node is not None and not stays(node) else ()
        self.set_nodes([n for n in self.nodes if stays(n) or read & set(n.output)])
        self._keep_tensors(read.__contains__)

    def sort(self) -> None:
        """Put every node behind what it reads, as ONNX asks; nodes that no output needs go."""
        done: set[int] = set()
        out: list[Any] = []
        made = self.producers
        stack = [(made[o.name], False) for o in reversed(self.model.graph.output) if o.name in made]
        while stack:
            node, ready = stack.pop()
            if ready:
                out.append(node)
            elif id(node) not in done:
                done.add(id(node))
                stack.append((node, True))
                stack += [(made[name], False) for name in reads(node) if name in made]
        self.set_nodes(out)

    # the model around it

    def add_outputs(self, names: Iterable[str]) -> None:
        """Give inner tensors as outputs, behind the others."""
        from onnx import helper

        self.model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)

    def import_domain(self, domain: str) -> None:
        """Declare the operators of a domain in version 1, where the model does not declare them."""
        if not any(o.domain == domain for o in self.model.opset_import):
            self.model.opset_import.add(domain=domain, version=1)

    def set_opset(self, version: int) -> None:
        """Declare another version of ONNX's own operators."""
        for entry in self.model.opset_import:
            if entry.domain in _STANDARD:
                entry.version = version

    def _forget(self, *indexes: str) -> None:
        for name in indexes:
            self.__dict__.pop(name, None)
