"""Attention with batch and heads as one axis, as ``torch.bmm`` wants them: the same with two axes, as all else is read.

DeBERTa's scores are written so, with two products more: of queries and keys with tables of relative positions, a row of the table
for each bucket of distances, of which a text has those that its length reaches. Only these rows are multiplied here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.onnx.edit import attribute

if TYPE_CHECKING:
    from qguard.precisions.fusion import Reader


def take_apart(reader: Reader) -> bool:
    """Compute on (batch, heads, …) what a graph computes on (batch · heads, …), in place; whether there was any such."""
    found = _Apart(reader)
    for node in reader.graph.nodes:
        found.read(node)
    graph = reader.graph
    if not found.same:
        return False
    graph.rewrite(lambda node: [node, *found.made[node.output[0]]] if node.output and node.output[0] in found.made else None)
    graph.redirect(graph.nodes, found.same)
    graph.drop_unread()
    return True


class _Apart:
    """What stands for tensors of three axes.

    Attributes:
        four: Tensor (batch · heads, …) → the same as (batch, heads, …).
        tables: Tensor (batch · heads, …) → (heads, …) that it holds for each text.
        products: Tensor in ``four`` → what is multiplied there, the second of which is a table.
        same: Tensor (batch, heads, …) that was made of a merged one → what stands for it.
        made: New nodes, by the output of the node that they follow.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader, self.graph = reader, reader.graph
        self.four = dict[str, str]()
        self.tables = dict[str, str]()
        self.products = dict[str, tuple[str, str]]()
        self.same = dict[str, str]()
        self.made = dict[str, list[Any]]()
        self._heads = dict[str, int]()

    def read(self, node: Any) -> None:
        """Take note of a node; those that make its inputs come before it."""
        if node.output and (step := getattr(self, f"_{node.op_type.lower()}", None)):
            step(node, str(node.output[0]))

    def _make(self, node: Any, operator: str, *inputs: str, **said: Any) -> str:
        """A new node behind another; gives the name of its output."""
        from onnx import helper

        nodes = self.made.setdefault(node.output[0], [])
        name = f"{node.output[0]}/apart/{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name, **said))
        return name

    def _stands(self, out: str, four: str, heads: int) -> None:
        self.four[out], self._heads[four] = four, heads

    def _reshape(self, node: Any, out: str) -> None:
        source = str(node.input[0])
        before, after = self.reader.dims(source), self.reader.dims(out)
        if len(after) == 4 and source in self.four and after[1] == self._heads[self.four[source]]:
            self.same[out] = self.four[source]
        elif len(before) == 4 and len(after) == 3 and before[1] and before[3] == after[2] and self._merges(node):
            self._stands(out, self.same.get(source, source), before[1])

    def _merges(self, reshape: Any) -> bool:
        """Whether the first axis is what the others leave."""
        target = self.reader.constant(reshape.input[1])
        if target is not None:
            return bool(target.reshape(-1)[0] == -1)
        made = self.graph.producers.get(reshape.input[1])
        return made is not None and made.op_type == "Concat" and self.reader.number(made.input[0]) == -1

    def _expand(self, node: Any, out: str) -> None:
        shape = self.reader.constant(node.input[1])
        if shape is not None and all(d == 1 for d in shape) and len(shape) <= len(self.reader.dims(node.input[0])):
            self._table(node.input[0], out)

    def _tile(self, node: Any, out: str) -> None:
        made = self.graph.producers.get(node.input[1])
        repeats = made.input if made is not None and made.op_type == "Concat" else []
        if [self.reader.number(i) for i in repeats[1:]] == [1, 1]:
            self._table(node.input[0], out)

    def _table(self, source: str, out: str) -> None:
        source = self.tables.get(source, source)
        if len(dims := self.reader.dims(source)) == 3 and all(dims):
            self.tables[out] = source
            known = self.reader.known  # onnx does not tell what a Tile by a number that it does not know leaves
            known[out] = known[source]._replace(dims=(None, *dims[1:]))

    def _transpose(self, node: Any, out: str) -> None:
        source = str(node.input[0])
        if attribute(node, "perm", [0]) != [0, 2, 1]:
            return
        if source in self.four:
            four = self.four[source]
            self._stands(out, self._make(node, "Transpose", four, perm=[0, 1, 3, 2]), self._heads[four])
        elif source in self.tables:
            self.tables[out] = self._make(node, "Transpose", self.tables[source], perm=[0, 2, 1])
            self._heads[self.tables[out]] = int(self.reader.dims(self.tables[source])[0] or 0)

    def _scaled(self, node: Any, out: str) -> None:
        a, b = map(str, node.input)
        if a in self.four and (number := self.reader.number(b)) is not None:
            # stored anew: it may be computed from the shape of what is merged, which would keep that
            by = self.graph.put(f"{out}/apart/by", np.array(number, np.float32))
            self._stands(out, self._make(node, node.op_type, self.four[a], by), self._heads[self.four[a]])

    _mul = _div = _scaled

    def _add(self, node: Any, out: str) -> None:
        a, b = map(str, node.input)
        if a in self.four and b in self.four and self._alike(a, b):
            self._stands(out, self._make(node, "Add", self.four[a], self.four[b]), self._heads[self.four[a]])
        elif a in self.four and self.reader.number(b) == 0:
            self.four[out] = self.four[a]

    def _alike(self, a: str, b: str) -> bool:
        return self._heads[self.four[a]] == self._heads[self.four[b]]

    def _matmul(self, node: Any, out: str) -> None:
        a, b = map(str, node.input)
        if a not in self.four:
            return
        heads = self._heads[self.four[a]]
        if b in self.four and self._alike(a, b):
            self._stands(out, self._make(node, "MatMul", self.four[a], self.four[b]), heads)
        elif b in self.tables and self._heads.get(self.tables[b]) == heads:
            four = self._make(node, "MatMul", self.four[a], self.tables[b])
            self._stands(out, four, heads)
            self.products[four] = self.four[a], self.tables[b]

    def _gatherelements(self, node: Any, out: str) -> None:
        """The product with those rows of the table alone that any pair of tokens asks for."""
        spread = self.graph.producers.get(node.input[1])
        four = self.four.get(node.input[0], "")
        if four not in self.products or attribute(node, "axis", 0) not in (-1, 2):
            return
        if spread is None or spread.op_type != "Expand":
            return
        dims = self.reader.dims(spread.input[0])
        if len(dims) != 2 and dims[:-2] != (1,):  # the same for all texts and heads
            return
        tokens, table = self.products[four]
        index = str(spread.input[0])
        one, last = (self.graph.put(f"apart/{k}", np.array([v])) for k, v in (("one", 1), ("last", 2)))
        low = self._make(node, "Reshape", self._make(node, "ReduceMin", index), one)
        high = self._make(node, "Reshape", self._make(node, "ReduceMax", index), one)
        rows = self._make(node, "Slice", table, low, self._make(node, "Add", high, one), last)
        product = self._make(node, "MatMul", tokens, rows)
        shape = self._make(
            node, "Concat", self._make(node, "Shape", product, end=3), self._make(node, "Shape", index, start=-1), axis=0
        )
        spread4 = self._make(node, "Expand", self._make(node, "Sub", index, low), shape)
        self._stands(out, self._make(node, "GatherElements", product, spread4, axis=-1), self._heads[four])
