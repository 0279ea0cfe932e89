"""Which type each tensor has in a file of a name such as Q4_K_M: what llama.cpp's quantizer chooses, and not what the name says.

Types of 256 values a block need rows that are a multiple of it. Where rows are none, as the 384 values of small models, smaller
blocks of more bits take their place: most of such a "Q4_K_M" is Q5_0 and Q8_0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qguard.gguf.types import kind_of

# Name → the type that most tensors have, and the number by which a file says so (general.file_type)
MIXTURES = {"F32": ("F32", 0), "F16": ("F16", 1), "Q4_0": ("Q4_0", 2), "Q8_0": ("Q8_0", 7), "Q4_K_M": ("Q4_K", 15)}
# tables whose rows do not depend on which tokens a text has; they stay as they are
PLACES = POSITIONS, TYPES = ("position_embd.weight", "token_types.weight")
TOKENS = "token_embd.weight"
_SMALLER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_VALUES = ("attn_v.weight", "attn_qkv.weight")


class Matrix(NamedTuple):
    """The name of a tensor, and its shape as NumPy has it."""

    name: str
    shape: tuple[int, ...]


def stays_float(tensor: Matrix) -> bool:
    """Whether a tensor is a vector, a norm, or a small table, which is stored in float32 whatever the file is called."""
    name = tensor.name
    small = len(tensor.shape) < 2 or not name.endswith("weight") or "_norm.weight" in name
    return small or name in PLACES or "ffn_gate_inp.weight" in name


def types_of(mixture: str, tensors: Iterable[Matrix], layers: int) -> dict[str, str]:
    """The type of every tensor of a model that embeds, and so has no tensor for outputs.

    Args:
        mixture: A name in :data:`MIXTURES`.
        tensors: All of the model's.
        layers: Number of its layers.

    Returns:
        Name → type.
    """
    tensors = sorted(tensors, key=_place)
    usual, _ = MIXTURES[mixture]
    found, values, downs = dict[str, str](), 0, 0
    attention = sum(t.name.endswith(_VALUES) for t in tensors)
    for tensor in tensors:
        if stays_float(tensor):
            found[tensor.name] = "F32"
            continue
        kind = usual
        if usual not in ("F32", "F16"):
            kind = _chosen(mixture, usual, tensor, (values, attention), (downs, layers))
            values += tensor.name.endswith(_VALUES)
            downs += "ffn_down" in tensor.name
        found[tensor.name] = kind
    return found


def _place(tensor: Matrix) -> tuple[int, str]:
    """Where llama.cpp comes to a tensor: it counts those that it has seen, layer by layer."""
    part = tensor.name.split(".")
    return (int(part[1]) if part[0] == "blk" and len(part) > 1 and part[1].isdecimal() else -1), tensor.name


def _chosen(mixture: str, usual: str, tensor: Matrix, value: tuple[int, int], down: tuple[int, int]) -> str:
    kind, width = usual, tensor.shape[-1]
    if tensor.name == TOKENS:
        # it would be the output too where a model has none of its own
        fits = width % kind_of(usual).block == 0
        kind = "Q8_0" if not fits or usual == "Q8_0" else "Q6_K"
    elif mixture == "Q4_K_M":
        careful = "attn_v.weight" in tensor.name or "attn_qkv.weight" in tensor.name
        if (careful and _more(*value)) or ("ffn_down" in tensor.name and _more(*down)):
            kind = "Q6_K"
    if width % kind_of(kind).block:
        kind = _SMALLER.get(kind, kind)
    return "F16" if width % kind_of(kind).block else kind


def _more(i: int, of: int) -> bool:
    """Whether the i-th of so many layers gets more bits: the first and last eighth, and every third between."""
    return i < of // 8 or i >= 7 * of // 8 or (i - of // 8) % 3 == 2


def names_of(types: Mapping[str, int]) -> str:
    """Types and how many tensors have each, in words: ``Q5_0 28, Q8_0 4``."""
    return ", ".join(f"{kind} {count}" for kind, count in types.items())
