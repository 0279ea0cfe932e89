"""The graph of an artifact's ONNX file, open for a fault: what the fault leaves alone stays byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.layers import LOOKUP, Layer
from qguard.faults.site import NotApplicable
from qguard.onnx.edit import Graph
from qguard.onnx.read import external_files, read_graph


class ArtifactGraph(Graph):
    """The graph of an artifact's ONNX file, and the layers that the file held when it was opened.

    Args:
        file: Is replaced by :meth:`write`.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(read_graph(file), file.parent)
        self.file, self._external = file, external_files(file)
        self._straight: dict[str, bool] = {}  # weight → whether it is stored as (inputs, outputs)

    def write(self) -> None:
        """Write the graph back."""
        self.save(self.file)
        for name in set(self._external) - set(external_files(self.file)):
            (self.file.parent / name).unlink(missing_ok=True)

    @cached_property
    def _contents(self) -> tuple[Layer, ...]:
        from qguard.artifacts.layers import onnx

        return onnx.read(self.file).layers

    @cached_property
    def layers(self) -> list[Layer]:
        """The weight multiplications of the file as it was, in the order of the graph; those beside them in float left out.

        Of a static model, its table.
        """
        found = [x for x in self._contents if x.computes != LOOKUP] or list(self._contents)
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
        tables = [x.weight for x in self._contents if x.computes == LOOKUP and x.weight in self.initializers]
        found = max(tables, key=lambda t: self.initializers[t].dims[0], default="")
        if not found:
            raise NotApplicable("no table of word embeddings was found in the file")
        return found, int(self.initializers[found].dims[0])

    def value(self, name: str) -> Any:
        """A copy of a stored tensor, to be changed."""
        return self.array(name).copy()

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
        stored, now = layer.read()[0], self.array(layer.weight)
        if now.shape not in (stored.shape, stored.T.shape):
            raise NotApplicable(f"the weights of {layer.name} are packed")
        # once for each tensor: layers may share one, which after the first edit is not what was read
        straight = self._straight.setdefault(layer.weight, now.shape == stored.shape and np.array_equal(now, stored))
        new = change(np.array(stored))
        self.put(layer.weight, (new if straight else new.T).astype(now.dtype))

    def in_float(self, layer: Layer) -> bool:
        """Multiply in float, with a layer's own weights as they were rounded; whether that could be done.

        It can of an integer product whose input is quantized right before it.
        """
        from onnx import helper

        node = next((n for n in self.nodes if layer.weight in n.input), None)
        source = self.producers.get(node.input[0]) if node is not None else None
        if node is None or source is None or node.op_type != "MatMulIntegerToFloat" or source.op_type != "QuantizeLinear":
            return False
        if layer.read is None:
            return False
        weight = self.put(f"{node.name}/float_weight", layer.read()[1].astype(np.float32))
        product = f"{node.output[0]}/float" if len(node.input) > 6 and node.input[6] else node.output[0]
        made = [helper.make_node("MatMul", [source.input[0], weight], [product], f"{node.name}/Float")]
        if product != node.output[0]:
            made.append(helper.make_node("Add", [product, node.input[6]], [node.output[0]], f"{node.name}/FloatBias"))
        self.replace(node, made)
        self.drop_unread()
        return True

    def vector(self, name: str, like: Layer) -> Any:
        """One number of each output channel: a scale or a zero point, spread over the channels where it is one number.

        Raises:
            NotApplicable: where it is not stored, or several inputs share one.
        """
        if name not in self.initializers or like.read is None:
            raise NotApplicable(f"{like.name} has no such parameter in the file")
        value, outputs = self.array(name), like.read()[0].shape[1]
        if value.size not in (1, outputs):
            raise NotApplicable(f"{like.name}: its parameters are those of blocks")
        return np.broadcast_to(value.reshape(-1), (outputs,)).copy()

    def operators(self, *names: str) -> list[Any]:
        """Nodes of these operators, in the order of the graph."""
        return [n for n in self.nodes if n.op_type in names]

    def output(self) -> str:
        """The name of the output that holds embeddings, as the runtime chooses it."""
        from qguard.encoders.outputs import choose
        from qguard.encoders.ports import of_graph

        return choose(of_graph(self.model.graph.output), self.file).port.name

    def before_output(self, name: str) -> str:
        """The graph's output is made under another name, so that something may follow; that name."""
        new = {name: f"{name}/before"}
        self.redirect(self.nodes, new)
        self.rename_outputs(new)
        return new[name]


def some(layers: Sequence[Layer], count: int) -> list[Layer]:
    """``count`` layers from the middle of the model on; all of them for 0."""
    return list(layers) if not count else list(layers)[len(layers) // 2 :][:count]
