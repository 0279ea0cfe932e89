"""An ONNX graph indexed by names, and its changes: one wrapper for recipes, faults, diagnosis and the reader of layers."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qguard.files import inside
from qguard.onnx.read import VALUES, external_files, fill, is_external, read_graph, read_names, reads, stored_array, stored_bytes

_Number = TypeVar("_Number", int, float, list[int])
STANDARD = ("", "ai.onnx")  # both name ONNX's own operators
KEPT = 2**20  # bytes of an array from which on a graph keeps it beside the model, as it is, instead of a copy in it
# Bytes of tensors up to which a model is saved in one file. protobuf counts up to 2 GB, but copies what it reads and writes:
# int8 of 0.94 GB of weights took 7.2 GB of memory with them in the file, and 1.8 GB with them beside it.
WHOLE = 2**29
SMALL = 1024  # bytes of a tensor that stays in the file where the others lie beside it; the size that onnx takes
PAGE = 4096  # tensors beside a file begin at multiples of it, so that runtimes can map them
CHUNK = 2**26  # bytes of a tensor that are written at once


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


def copy(source: Path, target: Path) -> None:
    """Copy an ONNX file to another folder, with what lies beside it of its data."""
    shutil.copyfile(source, target)
    for name in external_files(source):
        (target.parent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside(source.parent, name), target.parent / name)


def remove(file: Path) -> None:
    """Delete an ONNX file and what lies beside it of its data."""
    for name in external_files(file):
        inside(file.parent, name).unlink()
    file.unlink()


def point_to(tensor: Any, location: str, offset: int, length: int) -> None:
    """Say in a tensor that its values are bytes of a file beside the model's, in place."""
    from onnx import TensorProto

    for field in (*VALUES, "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


class Graph:
    """The main graph of a model. Its changes go through the methods, which keep the indexes true.

    What the nodes of branches and loops read counts as read by the node that holds them; they are never changed.

    Large tensors need not be in memory: those beside the file are read when :meth:`array` is asked for them, and what
    :meth:`put` is given is kept as it is, which for a part or the transpose of such a tensor is a view of the file.

    Args:
        model: ``onnx.ModelProto``, changed in place.
        folder: Of its external data, where the model was read without it.
    """

    def __init__(self, model: Any, folder: Path | None = None) -> None:
        self.model, self.folder = model, folder
        self._kept = dict[str, Any]()  # stored tensors that are in the model by type and shape alone
        self._twins = dict[str, str]()  # second name of one of them → its first

    @classmethod
    def read(cls, file: Path) -> Graph:
        """The graph of a file, its external data left where it is.

        Raises:
            ArtifactProblem: see :func:`qguard.onnx.read.read_graph`.
        """
        return cls(read_graph(file), file.parent)

    def copy(self) -> Graph:
        """A graph of its own, with all that is stored in the model."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        made = Graph(model, self.folder)
        made._kept, made._twins = dict(self._kept), dict(self._twins)
        return made

    def save(self, file: Path) -> None:
        """Write the model to one file, or its tensors to a second one beside it, ``NAME_data``.

        To the second one above :data:`WHOLE` bytes, and where :meth:`again` stored one under two names.
        """
        import onnx

        stored = self.model.graph.initializer
        if sum(map(stored_bytes, stored)) <= WHOLE and not any(map(self._twin, stored)):
            self.whole()
        else:
            self._save_beside(file.with_name(f"{file.name}_data"))
        onnx.save(self.model, str(file))

    def whole(self, largest: int | None = None) -> Any:
        """The model with its tensors in it, for other tools: all, or those of at most so many bytes."""
        for tensor in self.model.graph.initializer:
            if is_external(tensor) and (largest is None or stored_bytes(tensor) <= largest):
                fill(tensor, self.array(tensor.name))
                self._kept.pop(tensor.name, None)
        return self.model

    def _save_beside(self, data: Path) -> None:
        """Write the tensors to a file, one after the other, and say in the model where each of them is."""
        places = dict[str, int]()
        work = data.with_name(f"{data.name}.tmp")  # the old file may be what is read
        with work.open("wb") as f:
            for tensor in self.model.graph.initializer:
                if stored_bytes(tensor) < SMALL:
                    if is_external(tensor):
                        fill(tensor, self.array(tensor.name))
                    continue
                if twin := self._twin(tensor):
                    places[tensor.name] = places[twin]
                    continue
                array = self.array(tensor.name)
                f.seek(-f.tell() % PAGE, 1)
                places[tensor.name] = f.tell()
                rows = array.reshape(-1) if array.ndim < 2 else array
                step = max(1, CHUNK * len(rows) // array.nbytes)
                for start in range(0, len(rows), step):
                    f.write(np.ascontiguousarray(rows[start : start + step]).reshape(-1).view(np.uint8).data)
        work.replace(data)
        for tensor in self.model.graph.initializer:
            if tensor.name in places:
                point_to(tensor, data.name, places[tensor.name], stored_bytes(tensor))
        self._kept.clear()
        self.folder = data.parent

    def _twin(self, tensor: Any) -> str:
        """The first name of a tensor that is stored under two and still is the same; empty for any other."""
        first = self._twins.get(tensor.name, "")
        return first if first in self._kept and self._kept[first] is self._kept.get(tensor.name) else ""

    def session(self, options: Any, providers: Sequence[Any] = ("CPUExecutionProvider",), **how: Any) -> Any:
        """The graph as a session of ONNX Runtime, which maps the tensors beside a file that was read.

        Args:
            options: ``onnxruntime.SessionOptions``; is changed.
            providers: Where it is computed: on the CPU.
            how: Further arguments of ``onnxruntime.InferenceSession``.
        """
        import onnxruntime as ort

        if sum(value.nbytes for value in self._kept.values()) > WHOLE:
            with tempfile.TemporaryDirectory() as folder:  # what is mapped outlives it
                graph, file = self.copy(), Path(folder) / "model.onnx"
                graph.save(file)
                return ort.InferenceSession(str(file), options, providers=list(providers), **how)
        for name, value in self._kept.items():
            fill(self.initializers[name], value)
        self._kept.clear()
        if self.folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.folder))
        return ort.InferenceSession(self.model.SerializeToString(), options, providers=list(providers), **how)

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
        """The values of a stored tensor; NumPy may refuse to change them.

        Raises:
            ArtifactProblem: where external data is damaged.
        """
        if name in self._kept:
            return self._kept[name]
        return stored_array(self.constants[name], self.folder)

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
        return max((o.version for o in self.model.opset_import if o.domain in STANDARD), default=0)

    # stored tensors

    def put(self, name: str, value: Any) -> str:
        """Store an array: new ones behind the others, or in place of the one of that name. Gives the name."""
        from onnx import numpy_helper

        value = np.asarray(value)
        self._kept.pop(name, None)
        return self._keep(name, value) if value.nbytes >= KEPT else self._store(numpy_helper.from_array(value, name))

    def _keep(self, name: str, value: Any) -> str:
        from onnx import TensorProto, helper

        self._kept[name] = value
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        point_to(tensor, name, 0, value.nbytes)
        return self._store(tensor)

    def again(self, stored: str, name: str) -> str:
        """Store a tensor under a second name, whose bytes a file beside the model holds once. Gives the name."""
        array = self.array(stored)
        for each in (stored, name):
            self._keep(each, array)
        self._twins[name] = stored
        return name

    def store(self, tensor: Any) -> str:
        """Store a copy of an ``onnx.TensorProto``, as :meth:`put` does an array."""
        self._kept.pop(tensor.name, None)
        return self._store(tensor)

    def _store(self, tensor: Any) -> str:
        name = str(tensor.name)
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
        self._kept = {name: value for name, value in self._kept.items() if wanted(name)}
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

    def rewrite_by_output(self, by: Mapping[str, Iterable[Any]]) -> None:
        """Put nodes in the place of others, which are known by their first output."""
        self.rewrite(lambda node: by.get(node.output[0]) if node.output else None)

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

    def drop_input(self, name: str) -> None:
        """Take a tensor out of the model's inputs, which is stored by now."""
        inputs = self.model.graph.input
        for given in [i for i in inputs if i.name == name]:
            inputs.remove(given)

    def import_domain(self, domain: str) -> None:
        """Declare the operators of a domain in version 1, where the model does not declare them."""
        if not any(o.domain == domain for o in self.model.opset_import):
            self.model.opset_import.add(domain=domain, version=1)

    def set_opset(self, version: int) -> None:
        """Declare another version of ONNX's own operators."""
        for entry in self.model.opset_import:
            if entry.domain in STANDARD:
                entry.version = version

    def _forget(self, *indexes: str) -> None:
        for name in indexes:
            self.__dict__.pop(name, None)
