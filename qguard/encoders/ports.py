"""Inputs and outputs of an ONNX file, ours or another tool's, as any runtime declares them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

INPUT_IDS, MASK, TYPES, POSITIONS, PAST = "input_ids", "attention_mask", "token_type_ids", "position_ids", "past"
OFFSETS = "offsets"  # where each text begins in token ids without padding, one behind the other

# Whole names in the field: Transformers', TensorFlow Hub's, and those of smaller exporters
_NAMES = {
    INPUT_IDS: (
        "input_ids", "ids", "token_ids", "tokens", "input_tokens", "input_word_ids", "word_ids", "input", "inputs", "src_tokens",
    ),
    MASK: ("attention_mask", "mask", "input_mask", "attn_mask", "masks"),
    TYPES: ("token_type_ids", "token_types", "type_ids", "input_type_ids", "segment_ids", "segments", "segment"),
    OFFSETS: ("offsets",),
    POSITIONS: ("position_ids", "positions", "pos_ids", "input_position_ids"),
}  # fmt: skip
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
# what a decoder is given of the tokens before: none, of a text that starts here
_PAST = re.compile(r"past_key_values\.\d+\.(?:\w+\.)?(?:key|value)|past_key_values_\d+_(?:key|value)")
_KINDS = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: Its name in the file.
        kind: NumPy's name of its element type, such as ``int64``, or the runtime's own word where NumPy has none.
        shape: Of each axis its size, ``None`` where any size is taken; ``None`` as a whole where the file does not say it.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None = None

    @property
    def rank(self) -> int:
        """Number of axes; 0 where it is not said."""
        return len(self.shape or ())

    def __str__(self) -> str:
        axes = "?" if self.shape is None else ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.name} {self.kind} ({axes})"


def of_session(values: Iterable[Any]) -> list[Port]:
    """The ports that ONNX Runtime tells of a session, which gives a scalar and an unknown shape alike."""
    found = []
    for value in values:
        kind = str(value.type).removeprefix("tensor(").removesuffix(")")
        found.append(Port(value.name, _KINDS.get(kind, kind), _shape(value.shape) or None))
    return found


def of_compiled(values: Iterable[Any], declared: Collection[str]) -> list[Port]:
    """The ports of a model that OpenVINO compiled.

    Args:
        values: Its inputs or outputs, which may have the names of inner tensors as well.
        declared: Their names in the file.
    """
    found = []
    for value in values:
        name = next((n for n in sorted(value.get_names()) if n in declared), value.get_any_name())
        element, partial = value.get_element_type(), value.get_partial_shape()
        try:
            kind = element.to_dtype().name
        except (RuntimeError, TypeError):  # what NumPy has no type for
            kind = element.get_type_name()
        shape = None
        if partial.rank.is_static:
            shape = _shape([d.get_length() if d.is_static else None for d in partial])
        found.append(Port(name, "bfloat16" if element.get_type_name() == "bf16" else kind, shape))
    return found


def of_graph(values: Iterable[Any]) -> list[Port]:
    """The ports of an ONNX graph: its ``input`` or ``output``."""
    from onnx import TensorProto, helper

    found = []
    for value in values:
        tensor = value.type.tensor_type
        kind = "bfloat16" if tensor.elem_type == TensorProto.BFLOAT16 else ""
        if not kind:
            kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "undefined"
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        found.append(Port(value.name, kind, _shape(dims) if tensor.HasField("shape") else None))
    return found


def _shape(dims: Iterable[Any] | None) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in dims or ())


def plain(name: str) -> str:
    """A port's name in lower case, with words joined by ``_``, without what TensorFlow puts around it."""
    name = name.removeprefix("serving_default_").partition(":")[0]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", name).lower()


def role_of(name: str) -> str | None:
    """What an input takes, by its whole name: ``input_ids attention_mask token_type_ids position_ids offsets past``, or
    ``None``.
    """
    return _ROLES.get(plain(name)) or (PAST if _PAST.fullmatch(name) else None)
