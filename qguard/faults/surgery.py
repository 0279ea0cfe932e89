"""Surgery on an ONNX file: tensors and nodes changed in place, everything else left byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qguard.faults.site import NotApplicable
from qguard.graph import external_files
from qguard.layers import LOOKUP, Layer


class Surgery:
    """One ONNX file, open.

    Args:
        file: Is replaced by :meth:`save`.
    """

    def __init__(self, file: Path) -> None:
        import onnx

        self.file, self._external = file, external_files(file)
        self.model = onnx.load(str(file))
        self.graph = self.model.graph
        self._tensors = {t.name: t for t in self.graph.initializer}

    def save(self) -> None:
        """Write the graph back, its tensors inside the file."""
        import onnx

        onnx.save(self.model, str(self.file))
        for name in self._external:
            (self.file.parent / name).unlink(missing_ok=True)

    @cached_property
    def layers(self) -> list[Layer]:
        """The weight multiplications of the file as it was, in the order of the graph; those beside them in float left out."""
        from qguard.layers.onnx import Graph

        found = [x for x in Graph(self.file).contents().layers if x.computes != LOOKUP]
        return [x for x in found if x.quantized] or found

    @cached_property
    def quantized(self) -> list[Layer]:
        """Those of :attr:`layers` that multiply integers.

        Raises:
            NotApplicable: where there are none.
        """
        found = [x for x in self.layers if x.quantized]
        if not found:
            raise NotApplicable("the artifact holds no quantized weights")
        return found

    def table(self) -> tuple[str, int]:
        """The tensor of the word embeddings and its number of rows: the largest table that rows are read from."""
        from qguard.layers.onnx import Graph

        tables = [x.weight for x in Graph(self.file).contents().layers if x.computes == LOOKUP]
        found = max((t for t in tables if t in self._tensors), key=lambda t: self._tensors[t].dims[0], default="")
        if not found:
            raise NotApplicable("no table of word embeddings was found in the file")
        return found, int(self._tensors[found].dims[0])

    def holds(self, name: str) -> bool:
        """Whether a tensor of that name is stored."""
        return name in self._tensors

    def value(self, name: str) -> Any:
        """A copy of a stored tensor."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name]).copy()

    def put(self, name: str, value: Any) -> str:
        """Store a tensor, new or in place of the old one of that name; its name."""
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.asarray(value), name)
        if name in self._tensors:
            self._tensors[name].CopyFrom(tensor)
        else:
            self.graph.initializer.append(tensor)
            self._tensors[name] = self.graph.initializer[-1]
        return name

    def edit(self, layer: Layer, change: Callable[[Any], Any]) -> None:
        """Change a layer's stored weights.

        Args:
            layer: One of :attr:`layers`.
            change: Given the stored values (inputs, outputs), returns the new ones of the same shape and type.

        Raises:
            NotApplicable: where several weights are packed into a byte, or the values cannot be read.
        """
        if layer.read is None:
            raise NotApplicable(f"the weights of {layer.name} cannot be read")
        stored, now = layer.read()[0], self.value(layer.weight)
        if now.shape not in (stored.shape, stored.T.shape):
            raise NotApplicable(f"the weights of {layer.name} are packed")
        straight = now.shape == stored.shape and np.array_equal(now, stored)
        new = change(np.array(stored))
        self.put(layer.weight, (new if straight else new.T).astype(now.dtype))

    def vector(self, name: str, like: Layer) -> Any:
        """One number of each output channel: a scale or a zero point, spread over the channels where it is one number.

        Raises:
            NotApplicable: where it is not stored, or several inputs share one.
        """
        if not self.holds(name) or like.read is None:
            raise NotApplicable(f"{like.name} has no such parameter in the file")
        value, outputs = self.value(name), like.read()[0].shape[1]
        if value.size not in (1, outputs):
            raise NotApplicable(f"{like.name}: its parameters are those of blocks")
        return np.broadcast_to(value.reshape(-1), (outputs,)).copy()

    def nodes(self, *operators: str) -> list[Any]:
        """Nodes of these operators, in the order of the graph."""
        return [n for n in self.graph.node if n.op_type in operators]

    def users(self, name: str) -> list[Any]:
        """The nodes that read a tensor."""
        return [n for n in self.graph.node if name in n.input]

    def maker(self, name: str) -> Any:
        """The node that makes a tensor, or ``None``."""
        return next((n for n in self.graph.node if name in n.output), None)

    def replace(self, node: Any, by: Iterable[Any]) -> None:
        """Put nodes in the place of one."""
        rest = list(self.graph.node)
        at = next(i for i, n in enumerate(rest) if n is node or n == node)
        del self.graph.node[:]
        self.graph.node.extend([*rest[:at], *by, *rest[at + 1 :]])

    def append(self, nodes: Sequence[Any]) -> None:
        """Put nodes at the end."""
        self.graph.node.extend(nodes)

    def rename_output(self, name: str) -> str:
        """The graph's output that holds embeddings is made under another name, so that something may follow; that name."""
        inner = f"{name}/before"
        for node in self.graph.node:
            for names in (node.input, node.output):
                for i, old in enumerate(names):
                    if old == name:
                        names[i] = inner
        return inner

    def output(self) -> str:
        """The name of the output that holds embeddings, as the runtime chooses it."""
        from qguard.encoders.ports import embedding_output

        outputs = [(o.name, o.type.tensor_type) for o in self.graph.output]
        ranks = [(name, len(t.shape.dim) if t.elem_type in (1, 10, 11) else 0) for name, t in outputs]
        return str(embedding_output(ranks, self.file))

    def drop_unused(self) -> None:
        """Remove nodes and tensors that no output needs any more."""
        wanted = {o.name for o in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if wanted & set(node.output):
                wanted |= set(node.input)
                kept.append(node)
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))
        left = [t for t in self.graph.initializer if t.name in wanted]
        del self.graph.initializer[:]
        self.graph.initializer.extend(left)
        self._tensors = {t.name: t for t in self.graph.initializer}


def some(layers: Sequence[Layer], count: int) -> list[Layer]:
    """``count`` layers from the middle of the model on; all of them for 0."""
    return list(layers) if not count else list(layers)[len(layers) // 2 :][:count]
