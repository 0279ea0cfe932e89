"""Which output of an ONNX file holds the embeddings, by a stated rule, and how its values become float32."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qguard.encoders.ports import Port, plain
from qguard.errors import ArtifactProblem, unknown

# In this order: what is pooled here comes before what the file has pooled itself
PREFERRED = ("last_hidden_state", "token_embeddings", "sentence_embedding")
# Finished vectors under other names: BGE-M3's, CLIP's and those of smaller exporters
FINISHED = (
    "sentence_embedding", "sentence_embeddings", "dense_vecs", "dense_vec", "dense_embedding", "dense_embeddings", "text_embeds",
    "text_embedding", "text_embeddings", "embedding", "embeddings", "sentence_vector",
)  # fmt: skip
# Never a text's vector where there is another output: what other heads make
_OTHER = re.compile(
    r"sparse_\w+|\w*colbert\w*|multi_vector\w*|\w*logits|pooler_output|(?:encoder_)?hidden_states\S*|\w*attentions\S*|present\S*"
)
_NAMED = "named by the project"
_FLOATS, _INTEGERS = ("float16", "float32", "float64"), ("int8", "uint8")


@dataclass(frozen=True)
class Output:
    """The output that is read.

    Attributes:
        port: Its name, element type and declared shape.
        rule: Why this one, in words.
        others: What else could have been read.
        scale: Of an output in 8 bits: a value is ``(stored - zero) * scale``.
        zero: See ``scale``.
    """

    port: Port
    rule: str
    others: tuple[Port, ...] = ()
    scale: Any = None
    zero: Any = None

    @property
    def finished(self) -> bool:
        """Whether its name says that it is one vector a text."""
        shape = self.port.shape
        return plain(self.port.name) in FINISHED or (shape is not None and len(shape) == 3 and shape[1] == 1)

    @property
    def named(self) -> bool:
        """Whether the project says that it is this one."""
        return self.rule == _NAMED

    def __call__(self, found: Any, batch: int, length: int, file: Path) -> Any:
        """float32 token embeddings (batch, length, hidden) or finished vectors (batch, dim), from what a runtime gives.

        Args:
            found: The output, (batch, length, hidden), (batch, 1, dim) or (batch, dim).
            batch: Texts of the run.
            length: Tokens of the run, padding included.
            file: For messages.

        Raises:
            ArtifactProblem: for any other shape.
        """
        values = np.asarray(found)
        if values.ndim == 3 and values.shape[1] == 1 and (length != 1 or self.finished):
            values = values[:, 0]
        fits = values.shape[:1] == (batch,) and (values.ndim == 2 or (values.ndim == 3 and values.shape[1] == length))
        if not fits:
            raise ArtifactProblem(
                f"{file.name}: output {self.port.name} is {np.shape(found)} for {batch} texts of {length} tokens; expected "
                f"({batch}, {length}, hidden), ({batch}, 1, dim) or ({batch}, dim)"
            )
        if self.scale is None:
            return values.astype(np.float32, copy=False)
        return (values.astype(np.float32) - self.zero) * self.scale


def choose(outputs: Sequence[Port], file: Path, named: str = "") -> Output:
    """The output to read.

    The one that the project names. Else ``last_hidden_state``, ``token_embeddings`` or ``sentence_embedding``, in this order.
    Else the only one of a name of finished vectors (:data:`FINISHED`). Else the only one of token embeddings' shape (batch,
    length, hidden). Else the only one there is. What is named as another head's (sparse or multi-vector output, logits, pooler)
    comes last.

    Args:
        outputs: What the file gives, in its order.
        file: The file; read where the output is one of 8 bits, for its scale.
        named: The project's choice, or empty.

    Raises:
        ArtifactProblem: where none can be read, the rule leaves several, there is none of the named one, or nothing tells what
            the 8 bits of an output stand for.
    """
    usable = [p for p in outputs if p.kind in _FLOATS and p.rank in (2, 3)]
    usable += [p for p in outputs if p.kind in _INTEGERS and p.rank in (2, 3)]
    if named:
        port = next((p for p in outputs if p.name == named), None)
        if port is None:
            raise ArtifactProblem(f"{file.name}: output = {named!r}: {unknown('output', named, [p.name for p in outputs])}")
        if port not in usable:
            raise ArtifactProblem(f"{file.name}: output {port} cannot be read; {_expected(outputs)}")
        return _read(port, _NAMED, usable, file)
    if not usable:
        raise ArtifactProblem(f"{file.name} has no output that can be read; {_expected(outputs)}")
    own = [p for p in usable if not _OTHER.fullmatch(plain(p.name))] or usable
    steps: list[tuple[str, Callable[[Port], bool]]] = [
        *((f"the name {want}", lambda p, want=want: plain(p.name) == want) for want in PREFERRED),
        ("the only output named as finished vectors", lambda p: plain(p.name) in FINISHED),
        ("the only output of shape (batch, tokens, hidden)", _of_tokens),
        ("the only output", lambda p: True),
    ]
    for rule, holds in steps:
        left = [p for p in own if holds(p)]
        if len(left) == 1:
            rest = "" if len(own) == len(usable) or rule != "the only output" else " that is no other head's"
            return _read(left[0], rule + rest, usable, file)
        if left:
            raise ArtifactProblem(
                f"{file.name} has {len(left)} outputs that could be the embedding: {', '.join(map(str, left))}. Name one in the "
                f'model\'s table of [tool.qguard.models]: output = "{left[0].name}"'
            )
    raise AssertionError  # the last step holds for every output


def _of_tokens(port: Port) -> bool:
    return port.rank == 3 and port.shape is not None and 1 not in port.shape[1:]


def _expected(outputs: Sequence[Port]) -> str:
    found = ", ".join(map(str, outputs)) or "none"
    return f"expected float16, float32, float64 or 8 bits with a stored scale, of 2 or 3 dimensions, found {found}"


def _read(port: Port, rule: str, usable: Sequence[Port], file: Path) -> Output:
    others = tuple(p for p in usable if p != port)
    if port.kind in _FLOATS:
        return Output(port, rule, others)
    scale, zero = _stored_scale(port, file)
    return Output(port, rule, others, scale, zero)


def _stored_scale(port: Port, file: Path) -> tuple[Any, Any]:
    """Scale and zero point of the QuantizeLinear that makes an output, each a number or one a dimension.

    Raises:
        ArtifactProblem: where another operator makes it, or they are not stored.
    """
    from qguard.onnx.edit import Graph

    graph = Graph.read(file)
    node = next((n for n in graph.nodes if port.name in n.output), None)
    while node is not None and node.op_type in ("Identity", "Reshape", "Squeeze", "Flatten"):
        node = next((n for n in graph.nodes if node.input[0] in n.output), None)
    stored = [n for n in (node.input[1:] if node is not None and node.op_type == "QuantizeLinear" else ()) if n]
    if not stored or not all(name in graph.constants for name in stored):
        made = node.op_type if node is not None else "nothing"
        raise ArtifactProblem(
            f"{file.name}: output {port} is made by {made}, and no stored scale tells what its values stand for; expected "
            "float16, float32, or a QuantizeLinear with stored scale and zero point"
        )
    values = [np.asarray(graph.array(name), np.float32).reshape(-1) for name in stored]
    return values[0], values[1] if len(values) > 1 else np.float32(0)
