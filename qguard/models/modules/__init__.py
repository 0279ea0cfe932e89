"""The modules behind a model's first one: each a record with its own reader and its own computation in NumPy.

The same code runs behind every runtime. NumPy is imported where something is computed, so that reading a model's files stays
cheap. A new module is a class with an entry in :data:`MODULES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qguard.errors import ModelProblem, first_line
from qguard.files import inside
from qguard.models.modules.base import MASK, ROWS, SENTENCE, TOKENS, Features, Module, Weights
from qguard.models.modules.dense import Dense
from qguard.models.modules.masking import MultiVectorMask
from qguard.models.modules.norms import LayerNorm, Normalize
from qguard.models.modules.pooling import POOLING_MODES, Pooling, pool
from qguard.models.modules.router import Router
from qguard.models.modules.splade import SpladePooling

__all__ = [
    "MASK", "MODULES", "POOLING_MODES", "ROWS", "SENTENCE", "TOKENS", "Dense", "Features", "LayerNorm", "Module",
    "MultiVectorMask", "Normalize", "Pooling", "Router", "SpladePooling", "Weights", "load_weights", "pool", "read_modules",
    "refusal",
]  # fmt: skip

MODULES: dict[str, type[Module]] = {
    "Pooling": Pooling, "Dense": Dense, "Normalize": Normalize, "LayerNorm": LayerNorm, "Router": Router, "Asym": Router,
    "SpladePooling": SpladePooling, "MultiVectorMask": MultiVectorMask,
}  # fmt: skip
_WORDS = "Its texts are split by a word tokenizer, which is code of sentence-transformers and has no tokenizer.json"
_OTHER = "give a model with a Transformer or a StaticEmbedding"
_CLUSTERS = "it merges a document's vectors by clustering, so one that moves a little may move all the others"
_UNPOOLED = "give the model without it, and merge vectors behind the model"
# why these are not reproduced, and the way out
REFUSED = {
    "WeightedLayerPooling": (
        "it mixes the hidden states of all layers, of which a deployed file gives the last",
        "train the model with a Pooling of the last layer",
    ),
    "CNN": ("it convolves over padding too, so a text's vector depends on the batch that it is in", _OTHER),
    "LSTM": ("it needs the lengths that only WordEmbeddings gives, a table of words without a tokenizer.json", _OTHER),
    "WordEmbeddings": (_WORDS, _OTHER),
    "WordWeights": ("it weights the words of WordEmbeddings", _OTHER),
    "HierarchicalTokenPooling": (_CLUSTERS, _UNPOOLED),
    "LambdaTokenPooling": ("it is a function that no file holds", _UNPOOLED),
    "BoW": (f"it counts words and has no weights that could be quantized. {_WORDS}", _OTHER),
}


def refusal(kind: str, where: str) -> str:
    """Why a module is not reproduced, and the way out.

    Args:
        kind: Last part of its type.
        where: Its folder, or ``modules.json``.
    """
    known = f"qguard reproduces {', '.join(MODULES)} and Dropout"
    why, mend = REFUSED.get(kind, (known, _OTHER))
    return f"module {kind!r} in {where or 'modules.json'} cannot be reproduced: {why}; {mend}"


def read_module(kind: str, folder: Path, path: str) -> Module:
    """A module by the last part of its type.

    Raises:
        ModelProblem: for one that is not reproduced; it is named, never ignored. Also where its weights are only pickled.
    """
    if kind not in MODULES:
        raise ModelProblem(refusal(kind, path))
    module = MODULES[kind].read(folder, path)
    place = inside(folder, path)
    if module.tensors and not (place / "model.safetensors").exists():
        found = "only pytorch_model.bin" if (place / "pytorch_model.bin").exists() else "no model.safetensors"
        raise ModelProblem(
            f"module {kind!r} in {path} has {found}; pickled weights are never read. Convert the model once with "
            "SentenceTransformer(folder).save(folder, safe_serialization=True)"
        )
    return module


def read_modules(folder: Path, declared: Iterable[tuple[str, str]]) -> tuple[Module, ...]:
    """Modules in their order.

    Args:
        folder: The model's.
        declared: Of each module the last part of its type, and its folder inside the model's.

    Raises:
        ModelProblem: see :func:`read_module`.
    """
    return tuple(read_module(kind, folder, path) for kind, path in declared if kind != "Dropout")  # the identity, in use


def load_weights(folder: Path, module: Module) -> dict[str, Any]:
    """The tensors of a module by name, as float32 arrays.

    Raises:
        ModelProblem: for a file that is missing, damaged or without one of the tensors.
    """
    import numpy as np
    from safetensors import deserialize

    path = inside(folder, module.path) / "model.safetensors"
    # what NumPy calls each type; it has no bfloat16, which is the upper half of a float32
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    found = {}
    try:
        for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
            if name in module.tensors:
                flat = np.frombuffer(tensor["data"], types[tensor["dtype"]])
                flat = (flat.astype(np.uint32) << 16).view(np.float32) if tensor["dtype"] == "BF16" else flat.astype(np.float32)
                found[name] = flat.reshape(tensor["shape"])
    except Exception as e:  # the binding has its own error types
        raise ModelProblem(f"{path} cannot be read ({first_line(e)}); fetch or copy it again") from e
    if missing := module.tensors - set(found):
        raise ModelProblem(f"{path} has no tensor {', '.join(sorted(missing))}; save the model again")
    return found
