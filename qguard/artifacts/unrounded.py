"""An artifact's own graph without its rounding: every integer operator as the float operator that it stands for, and the
model's weights where the stored ones are these, rounded.

What is wrong with the vectors of this graph is wrong with what the file computes, and not with how it rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from qguard.artifacts.artifact import Artifact
from qguard.artifacts.layers.dequantize import dequantized, unpacked
from qguard.artifacts.layers.weights import References, matrices, scaled_like, vectors
from qguard.artifacts.tables import Table, chunks
from qguard.artifacts.tables.compare import of_model, own_rows
from qguard.artifacts.tables.onnx import Tables
from qguard.errors import ArtifactProblem
from qguard.files import inside
from qguard.models.model import Model
from qguard.onnx.edit import KEPT, Graph, attribute, attributes
from qguard.onnx.read import read_graph

# operators whose result is float where an operand is
_CARRIES = (
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Neg", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split",
    "Concat", "Identity", "Gather", "Expand", "Where", "Sum", "Relu",
)  # fmt: skip
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Sum")
_ROUNDS = ("Round", "Floor")
_INTEGERS = (2, 3, 4, 5, 6, 7, 21, 22, 25, 26)  # of onnx.TensorProto; int64 counts only where a float meets it
_HALVES = (10, 16)
_FLOAT = 1
_CLOSE = 0.01  # of the largest value of a vector: how far 16 bits move any of them, and 8 bits with a step of their own


@dataclass
class Unrounded:
    """The graph, and what of it could not be had from the model.

    Attributes:
        graph: With float weights and float activations.
        kept: Stored integers without a counterpart in the model: they are what they round to.
    """

    graph: Graph
    kept: list[str] = field(default_factory=list)


def unrounded(artifact: Artifact, model: Model, scratch: Path) -> Unrounded:
    """The graph of an ONNX artifact without rounding.

    Args:
        artifact: Whose file is read.
        model: The fp32 model.
        scratch: An empty folder, where the float weights lie for as long as the graph is used: none stays in memory.

    Raises:
        ArtifactProblem: when the file holds an operator that is not known here, or cannot be read.
    """
    assert artifact.onnx is not None
    heads = [inside(model.folder, m.path) / "model.safetensors" for m in model.pipeline.weighted]
    files = [*model.weight_files, *(h for h in heads if h.is_file())]
    return _Builder(artifact.onnx, References(matrices(files)), vectors(files), of_model(model), scratch).build()


class _OnDisk(Graph):
    """A graph whose large arrays lie in files, each mapped for as long as it is read."""

    def array(self, name: str) -> Any:
        file: Any = getattr(self._kept.get(name), "base", None)
        if not isinstance(file, np.memmap):
            return super().array(name)
        return np.memmap(file.filename, file.dtype, "r", shape=file.shape)  # type: ignore[call-overload]


class _Builder:
    def __init__(self, file: Path, references: References, known: Iterable[Any], tables: Sequence[Table], scratch: Path) -> None:
        self.vectors = dict[int, list[Any]]()
        for vector in known:
            self.vectors.setdefault(vector.size, []).append(np.asarray(vector, np.float32))
        self.graph = _OnDisk.read(file)
        self.reader = Tables(read_graph(file), file.parent)
        self.tables = {t.name: t for t in self.reader.tables() if not t.unread}
        self.references, self.of_model, self.made = references, tables, Unrounded(self.graph)
        self.scratch, self.files = scratch, count()
        self.floated = set[str]()  # tensors that were integers, or 16 bits wide

    def build(self) -> Unrounded:
        graph = self.graph
        self._halves()
        graph.rewrite(self._rewritten)
        graph.drop_unread()
        del graph.model.graph.value_info[:]
        return self.made

    # what stands for what

    def _rewritten(self, node: Any) -> Iterable[Any] | None:
        made = _OPERATORS.get(node.op_type)
        if made is not None:
            self.floated.update(o for o in node.output if o)
            return made(self, node)
        if node.op_type in _ROUNDS or node.op_type == "Cast":
            return self._cast(node)
        if node.op_type.startswith(("QLinear", "Q", "DynamicQuantize")) and node.domain == "com.microsoft":
            raise ArtifactProblem(f"operator {node.op_type} has no float form here")
        if any(i in self.floated for i in node.input):
            if node.op_type not in _CARRIES:
                raise ArtifactProblem(f"operator {node.op_type} takes integers, and has no float form here")
            self.floated.update(o for o in node.output if o)
            if node.op_type in _ARITHMETIC:
                for i, name in enumerate(node.input):
                    if name in self.graph.constants and self.graph.constants[name].data_type in (*_INTEGERS, 7):
                        node.input[i] = self._put(f"{name}/float", self.graph.array(name).astype(np.float32))
            return [node]
        return None

    def _cast(self, node: Any) -> Iterable[Any] | None:
        to = attribute(node, "to", 0)
        if node.input[0] in self.floated:  # what is float by now stays so
            if to not in (_FLOAT, 11):
                self.floated.add(node.output[0])
            return [_node("Identity", [node.input[0]], node.output[0])]
        return None

    def _quantize(self, node: Any) -> list[Any]:
        x, scale, zero = [*node.input, ""][:3]
        self._one_number(node, scale)
        return self._affine(x, scale, zero, node.output[0], back=False)

    def _dequantize(self, node: Any) -> list[Any]:
        x, scale, zero = [*node.input, ""][:3]
        if x in self.graph.constants:
            if x in self.tables:  # whose rows may be cut into blocks
                name = self._put_rows(f"{node.output[0]}/float", self.tables[x], self._rows(x), self.graph.constants[x].dims)
                return self._stands(node, name)
            stored = self.graph.array(x)
            along, block = attribute(node, "axis", 1) % max(1, stored.ndim), attribute(node, "block_size", 0)
            arrays = (self._constant(scale), self._constant(zero) if zero else None)
            values = self._own(x, dequantized(stored, *arrays, along, block))
            return self._stands(node, self._put(f"{node.output[0]}/float", values))
        self._one_number(node, scale)
        return self._affine(x, scale, zero, node.output[0], back=True)

    def _one_number(self, node: Any, scale: str) -> None:
        known = self.graph.constants.get(scale)
        if known is not None and int(np.prod(known.dims)) != 1 and attribute(node, "axis", 1) not in (-1, 1):
            raise ArtifactProblem(f"{node.op_type} of an activation has a scale for each of its channels")

    def _dynamic(self, node: Any) -> list[Any]:
        y, scale, zero = node.output
        self.floated.discard(scale)
        ones = self._put(f"{y}/one", np.float32(1)), self._put(f"{y}/none", np.float32(0))
        made = [_node("Identity", [node.input[0]], y)]
        return [*made, *(_node("Identity", [v], o) for v, o in zip(ones, (scale, zero), strict=True) if o)]

    def _integer_product(self, node: Any) -> list[Any]:
        a, b, a_zero, b_zero = [*node.input, "", ""][:4]
        layer = next((x for x in self.reader.of_node(node) if x.read is not None), None)
        made, left = self._less(a, a_zero, f"{node.output[0]}/a")
        if layer is None or b not in self.graph.constants:
            more, right = self._less(b, b_zero, f"{node.output[0]}/b")
            return [*made, *more, _node("MatMul", [left, right], node.output[0])]
        stored = self.graph.array(b).astype(np.float32)
        zero = self._constant(b_zero).astype(np.float32) if b_zero else np.float32(0)
        units = stored - zero
        if layer.scale:
            scale = self._constant(layer.scale).astype(np.float32).reshape(-1)
            own = self._own(b, units * scale)
            units = own / np.where(scale == 0, 1, scale)
        else:
            self.made.kept.append(b)
        return [*made, _node("MatMul", [left, self._put(f"{node.output[0]}/weight", units)], node.output[0])]

    def _to_float(self, node: Any) -> list[Any]:
        """``MatMulIntegerToFloat``: quantized activations and weights, float result."""
        a, _, a_scale, _, a_zero, _, bias = [*node.input, "", "", ""][:7]
        out = node.output[0]
        made = self._affine(a, a_scale, a_zero, f"{out}/a", back=True)
        return [*made, *self._biased([f"{out}/a", self._weight(node, out)], bias, out)]

    def _dynamic_product(self, node: Any) -> list[Any]:
        bias = [*node.input, "", ""][4]
        return self._biased([node.input[0], self._weight(node, node.output[0])], bias, node.output[0])

    def _linear_product(self, node: Any) -> list[Any]:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = node.input
        out = node.output[0]
        made = self._affine(a, a_scale, a_zero, f"{out}/a", back=True)
        if b in self.graph.constants:
            right = self._weight(node, out)
        else:
            made += self._affine(b, b_scale, b_zero, f"{out}/b", back=True)
            right = f"{out}/b"
        made.append(_node("MatMul", [f"{out}/a", right], f"{out}/product"))
        return [*made, *self._affine(f"{out}/product", scale, zero, out, back=False)]

    def _linear_sum(self, node: Any) -> list[Any]:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = [*node.input, ""][:8]
        out = node.output[0]
        made = [
            *self._affine(a, a_scale, a_zero, f"{out}/a", back=True),
            *self._affine(b, b_scale, b_zero, f"{out}/b", back=True),
        ]
        made.append(_node(node.op_type.removeprefix("QLinear"), [f"{out}/a", f"{out}/b"], f"{out}/sum"))
        return [*made, *self._affine(f"{out}/sum", scale, zero, out, back=False)]

    def _attention(self, node: Any) -> list[Any]:
        names = [str(n) for n in node.input] + [""] * 8
        x, bias, x_scale, mask, x_zero = (names[i] for i in (0, 2, 3, 5, 6))
        if any(names[8:]):
            raise ArtifactProblem("QAttention with a past has no float form here")
        out = node.output[0]
        made = self._affine(x, x_scale, x_zero, f"{out}/x", back=True)
        kept = attributes(node, ("num_heads", "unidirectional", "mask_filter_value", "scale"))
        inputs = [f"{out}/x", self._weight(node, out), bias, mask]
        self.floated.discard(out)
        return [*made, _node("Attention", inputs, out, "com.microsoft", **kept)]

    def _blocks(self, node: Any) -> list[Any]:
        """``MatMulNBits``."""
        names = [*node.input, "", "", ""][:6]
        if names[1] not in self.graph.constants or names[4]:
            raise ArtifactProblem("MatMulNBits with reordered or computed weights has no float form here")
        arrays = [self._constant(n) if n else None for n in names[1:4]]
        bits = attribute(node, "bits", 4)
        if bits not in (4, 8):
            raise ArtifactProblem(f"MatMulNBits with {bits} bits has no float form here")
        shape = {"inputs": attribute(node, "K", 0), "outputs": attribute(node, "N", 0)}
        values = unpacked(*arrays, bits=bits, block=attribute(node, "block_size", 32), **shape)[1]
        self.floated.discard(node.output[0])
        weight = self._put(f"{node.output[0]}/weight", self._own(names[1], values))
        return self._biased([node.input[0], weight], names[5], node.output[0])

    def _gather(self, node: Any) -> Iterable[Any]:
        """Rows of integers, which are dequantized behind: the model's rows in their steps."""
        self.floated.discard(node.output[0])
        name = node.input[0]
        known = self.graph.constants.get(name)
        if known is None or known.data_type not in (2, 3, 21, 22) or len(known.dims) != 2:
            if name in self.floated:
                self.floated.add(node.output[0])
            return [node]
        stored, table = self.graph.array(name), self.tables.get(name)
        if table is not None:
            own = self._rows(name)

            def steps(start: int, stop: int) -> Any:
                values, step = table.read(start, stop)
                return stored[start:stop].astype(np.float32) + (own(start, stop) - values) / np.where(step == 0, 1, step)

            node.input[0] = self._put_rows(f"{name}/float", table, steps, stored.shape)
        else:
            self.made.kept.append(name)
            node.input[0] = self._put(f"{name}/float", stored.astype(np.float32))
        self.floated.add(node.output[0])
        return [node]

    def _lookup(self, node: Any) -> list[Any]:
        """``GatherBlockQuantized``."""
        self.floated.discard(node.output[0])
        table = self.tables.get(node.input[0])
        if table is None or attribute(node, "gather_axis", 0):
            raise ArtifactProblem("GatherBlockQuantized in a form that is not known")
        name = self._put_rows(f"{table.name}/float", table, self._rows(table.name), (table.rows, table.width))
        return [_node("Gather", [name, node.input[1]], node.output[0])]

    def _embedding(self, node: Any) -> list[Any]:
        """``QEmbedLayerNormalization``."""
        names = [*node.input, *[""] * 18][:18]
        floats = []
        for i in range(2, 7):
            if not names[i]:
                floats.append("")
                continue
            name, table = f"{names[i]}/float", self.tables.get(names[i])
            if table is not None:
                floats.append(self._put_rows(name, table, self._rows(table.name), (table.rows, table.width)))
                continue
            values = dequantized(self._constant(names[i]), self._constant(names[6 + i]), self._constant(names[11 + i]), 0)
            floats.append(self._put(name, self._own(names[i], values)))
        self.floated.difference_update(node.output)
        made = _node(
            "EmbedLayerNormalization", [*names[:2], *floats, names[7]], node.output[0], "com.microsoft", **attributes(node)
        )
        del made.output[1:]
        made.output.extend(node.output[1:])
        return [made]

    # helpers

    def _stands(self, node: Any, name: str) -> list[Any]:
        self.floated.discard(node.output[0])
        return [_node("Identity", [name], node.output[0])]

    def _weight(self, node: Any, out: str) -> str:
        layer = next((x for x in self.reader.of_node(node) if x.read is not None), None)
        if layer is None or layer.read is None:
            raise ArtifactProblem(f"the weights of {node.op_type} cannot be read")
        self.floated.discard(out)
        return self._put(f"{out}/weight", self._own(layer.weight, layer.read()[1]))

    def _rows(self, name: str) -> Callable[[int, int], Any]:
        """The rows of a table: the model's where these are the same, rounded; else its own."""
        table = self.tables[name]
        found = own_rows(table, self.of_model)
        if found is not None:
            return found
        if name not in self.made.kept:
            self.made.kept.append(name)
        return lambda start, stop: table.read(start, stop)[0]

    def _own(self, name: str, values: Any) -> Any:
        """The model's weights where these are the same, rounded; else these."""
        if values.ndim == 1:
            return self._own_vector(values.astype(np.float32))
        if values.ndim != 2:
            return values.astype(np.float32)
        for turned in (False, True):
            given = values.T if turned else values
            parts = self.references.parts(given)
            if parts and all(p.same for p in parts):
                made = np.concatenate([scaled_like(given[:, p.outputs], p.reference[:, :]) for p in parts], 1)
                return np.ascontiguousarray(made.T if turned else made)
        if name not in self.made.kept:
            self.made.kept.append(name)
        return values.astype(np.float32)

    def _own_vector(self, values: Any) -> Any:
        near = self.vectors.get(values.size, ())
        distance = [float(np.abs(v - values).max()) for v in near]
        best = int(np.argmin(distance)) if near else -1
        return near[best] if near and distance[best] <= _CLOSE * float(np.abs(values).max()) else values

    def _biased(self, inputs: list[str], bias: str, out: str) -> list[Any]:
        self.floated.discard(out)
        if not bias:
            return [_node("MatMul", inputs, out)]
        return [_node("MatMul", inputs, f"{out}/product"), _node("Add", [f"{out}/product", bias], out)]

    def _affine(self, x: str, scale: str, zero: str, out: str, *, back: bool) -> list[Any]:
        """``(x - zero) * scale`` on the way back, ``x / scale + zero`` on the way there, in float."""
        zero = self._number(zero) if zero else ""
        scale = self._number(scale)
        if x in self.graph.constants:
            x = self._number(x)
        if back:
            self.floated.discard(out)
            made, x = self._less(x, zero, f"{out}/moved")
            return [*made, _node("Mul", [x, scale], out)]
        if not zero:
            return [_node("Div", [x, scale], out)]
        return [_node("Div", [x, scale], f"{out}/steps"), _node("Add", [f"{out}/steps", zero], out)]

    def _less(self, x: str, zero: str, out: str) -> tuple[list[Any], str]:
        if not zero:
            return [], x
        return [_node("Sub", [x, self._number(zero)], out)], out

    def _number(self, name: str) -> str:
        """A stored number as float; one that is computed is float already."""
        if name not in self.graph.constants:
            return name
        return self._put(f"{name}/as_float", self.graph.array(name).astype(np.float32))

    def _constant(self, name: str) -> Any:
        if name not in self.graph.constants:
            raise ArtifactProblem(f"{name!r} is computed, and expected as stored")
        return self.graph.array(name)

    def _put(self, name: str, value: Any) -> str:
        value = np.asarray(value)
        return self.graph.put(name, value) if value.nbytes < KEPT else self._put_parts(name, [value], value.dtype, value.shape)

    def _put_rows(self, name: str, table: Table, rows: Callable[[int, int], Any], shape: Sequence[int]) -> str:
        """Store float rows, a part of them after the other."""
        return self._put_parts(name, (rows(*part) for part in chunks(table.rows, table.width)), np.dtype(np.float32), shape)

    def _put_parts(self, name: str, parts: Iterable[Any], dtype: Any, shape: Sequence[int]) -> str:
        """Store an array that lies in a file of its own."""
        file = self.scratch / str(next(self.files))
        with file.open("wb") as f:
            for part in parts:
                f.write(np.ascontiguousarray(part, dtype).data)
        return self.graph.put(name, np.memmap(file, dtype, "r", shape=tuple(shape)))

    def _halves(self) -> None:
        """16-bit floats as 32-bit ones."""
        graph = self.graph
        graph.store_constants(lambda t: t.data_type in _HALVES)
        halves = [t.name for t in graph.model.graph.initializer if t.data_type in _HALVES]
        for name in halves:
            if name in self.tables:
                self._put_rows(name, self.tables[name], self._rows(name), graph.constants[name].dims)
            else:
                self._put(name, self._own(name, graph.array(name).astype(np.float32)))
        if not halves:
            return
        for node in graph.nodes:
            for a in node.attribute:
                if a.name in ("to", "dtype", "stash_type") and a.i in _HALVES:
                    a.i = _FLOAT
        for value in (*graph.model.graph.input, *graph.model.graph.output):
            if value.type.tensor_type.elem_type in _HALVES:
                value.type.tensor_type.elem_type = _FLOAT


def _node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], f"{output}/unrounded", domain=domain, **attributes)


_OPERATORS: dict[str, Callable[[_Builder, Any], Iterable[Any]]] = {
    "QuantizeLinear": _Builder._quantize,
    "DequantizeLinear": _Builder._dequantize,
    "DynamicQuantizeLinear": _Builder._dynamic,
    "MatMulInteger": _Builder._integer_product,
    "MatMulIntegerToFloat": _Builder._to_float,
    "DynamicQuantizeMatMul": _Builder._dynamic_product,
    "QLinearMatMul": _Builder._linear_product,
    "QLinearAdd": _Builder._linear_sum,
    "QLinearMul": _Builder._linear_sum,
    "QAttention": _Builder._attention,
    "MatMulNBits": _Builder._blocks,
    "Gather": _Builder._gather,
    "GatherBlockQuantized": _Builder._lookup,
    "QEmbedLayerNormalization": _Builder._embedding,
}
