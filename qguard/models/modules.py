"""The modules behind a model's first one: each a record with its own reader and its own computation in NumPy.

A module reads and writes named arrays, as in sentence-transformers: token embeddings (batch, length, hidden) under
:data:`TOKENS`, sentence embeddings (batch, dim) under :data:`SENTENCE`. The same code runs behind every runtime. NumPy is
imported where something is computed, so that reading a model's files stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from qguard.errors import ModelProblem
from qguard.files import inside, read_json

TOKENS, SENTENCE, MASK, ROWS = "token_embeddings", "sentence_embedding", "attention_mask", "rows"
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# Named arrays of one batch. MASK (batch, length) is 1 at tokens and 0 at padding. ROWS are the texts' token ids as
# qguard.encoders.tokenizer.Tokens, or None where neither role nor prompt is known.
Features = dict[str, Any]
Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Module:
    """One module.

    Attributes:
        path: Its folder inside the model's, with its configuration and weights.
    """

    path: str = ""

    # tensors in model.safetensors; without, the module has none
    weighted: ClassVar[bool] = False
    # whether it may be applied to a finished sentence embedding, which is then the last thing that happens to it
    closes: ClassVar[bool] = False

    @classmethod
    def read(cls, folder: Path, path: str) -> Module:
        """The module as its folder declares it.

        Args:
            folder: The model's.
            path: The module's, inside it.

        Raises:
            ModelProblem: for a setting that is not reproduced.
        """
        return cls(path)

    @property
    def reads(self) -> str:
        """Name of the array that it needs."""
        return SENTENCE

    @property
    def writes(self) -> str:
        """Name of the array that it gives."""
        return SENTENCE

    @property
    def parts(self) -> Iterator[Module]:
        """Itself, or the modules that it is made of."""
        yield self

    def tensors(self) -> set[str]:
        """Names of the tensors that it needs."""
        return set()

    def declared(self) -> dict[str, Any]:
        """Everything that decides what it computes, as JSON has it."""
        return {"type": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def __call__(self, features: Features, weights: Mapping[str, Weights]) -> None:
        """Compute, in place.

        Args:
            features: What the modules before it gave, float32.
            weights: Of each module by its path: tensors by name, float32.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Pooling(Module):
    """Token embeddings to one vector a text.

    Attributes:
        modes: Of :data:`POOLING_MODES`; several are concatenated in this order.
        include_prompt: Whether prompt tokens take part.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    @classmethod
    def read(cls, folder: Path, path: str) -> Pooling:
        """See :meth:`Module.read`."""
        config = read_json(inside(folder, path) / "config.json", ModelProblem)
        modes: Any = config.get("pooling_mode")
        if modes is None:
            modes = [mode for key, mode in _LEGACY.items() if config.get(key)]
        if not isinstance(modes, str | list):
            raise ModelProblem(f"pooling mode {modes!r} is neither a name nor a list of names")
        modes = [modes] if isinstance(modes, str) else modes or ["mean"]
        for mode in modes:
            if mode not in POOLING_MODES:
                raise ModelProblem(f"pooling mode {mode!r} cannot be reproduced (supported: {', '.join(POOLING_MODES)})")
        return cls(path, tuple(modes), bool(config.get("include_prompt", True)))

    @property
    def reads(self) -> str:
        """Token embeddings."""
        return TOKENS

    def __call__(self, features: Features, weights: Mapping[str, Weights]) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        tokens, mask = features[TOKENS], features[MASK]
        kept = mask
        if not self.include_prompt and features.get(ROWS) is not None:
            prompts = np.asarray([row.prompt for row in features[ROWS]])
            kept = np.where(np.arange(mask.shape[1]) < (_first(mask) + prompts)[:, None], 0, mask)
        features[SENTENCE] = np.concatenate([pool(tokens, kept, mode, _first(mask)) for mode in self.modes], axis=1)


def _first(mask: Any) -> Any:
    return mask.argmax(1)


def pool(tokens: Any, mask: Any, mode: str, start: Any = 0) -> Any:
    """One pooling mode of sentence-transformers' ``Pooling``.

    Args:
        tokens: Token embeddings, float32 (batch, length, hidden).
        mask: 1 for what is pooled, 0 for padding and tokens that are left out, (batch, length). Of a row without a 1 the first
            token is that of ``cls``, the maximum is minus infinity, and every other mode gives zeros.
        mode: One of :data:`POOLING_MODES`.
        start: Each row's first token, (batch,), from where ``weightedmean`` counts positions.

    Returns:
        float32 (batch, hidden).
    """
    import numpy as np

    if mode in ("cls", "lasttoken"):
        # first and last *attended* position, so that the padding side does not matter
        at = mask.argmax(1) if mode == "cls" else mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        found = tokens[np.arange(len(tokens)), at]
        return found if mode == "cls" else found * mask.any(1, keepdims=True).astype(np.float32)
    if mode == "max":
        return np.where(mask[..., None] > 0, tokens, np.float32(-np.inf)).max(1)
    weight = mask.astype(np.float32)
    if mode == "weightedmean":
        weight *= (np.arange(1, mask.shape[1] + 1) - np.reshape(start, (-1, 1))).astype(np.float32)
    total = np.matmul(weight[:, None, :], tokens)[:, 0]
    norm = np.maximum(weight.sum(1, keepdims=True), np.float32(1e-9))
    return total / (np.sqrt(norm) if mode == "mean_sqrt_len_tokens" else norm)


@dataclass(frozen=True)
class Dense(Module):
    """A linear layer, ``activation(x @ weight.T + bias)``, on sentence or token embeddings.

    Attributes:
        activation: A name in :data:`ACTIVATIONS`.
        bias: Whether ``bias`` is added.
        source: Name of the array that it reads.
        target: Name of the array that it gives.
        residual: ``""``; ``"input"``: the input is added at the end; ``"projection"``: the input after a linear layer of its own.
    """

    activation: str = "Tanh"
    bias: bool = True
    source: str = SENTENCE
    target: str = SENTENCE
    residual: str = ""

    weighted: ClassVar[bool] = True

    @classmethod
    def read(cls, folder: Path, path: str) -> Dense:
        """See :meth:`Module.read`."""
        config = read_json(inside(folder, path) / "config.json", ModelProblem)
        name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        activation = name.rsplit(".", 1)[-1]
        if not name.startswith("torch.") or activation not in ACTIVATIONS:
            raise ModelProblem(f"Dense activation {name!r} in {path} cannot be reproduced ({', '.join(sorted(ACTIVATIONS))})")
        source, target = _names(config, path)
        residual = ""
        if config.get("use_residual"):
            residual = "input" if config.get("in_features") == config.get("out_features") else "projection"
        return cls(path, activation, bool(config.get("bias", True)), source, target, residual)

    @property
    def reads(self) -> str:
        """What ``module_input_name`` says."""
        return self.source

    @property
    def writes(self) -> str:
        """What ``module_output_name`` says."""
        return self.target

    def tensors(self) -> set[str]:
        """See :meth:`Module.tensors`."""
        names = {"linear.weight": True, "linear.bias": self.bias, "residual.weight": self.residual == "projection"}
        return {name for name, needed in names.items() if needed}

    def __call__(self, features: Features, weights: Mapping[str, Weights]) -> None:
        """See :meth:`Module.__call__`."""
        x, own = features[self.source], weights[self.path]
        out = ACTIVATIONS[self.activation](x @ own["linear.weight"].T + (own["linear.bias"] if self.bias else 0))
        if self.residual:
            out = out + (x if self.residual == "input" else x @ own["residual.weight"].T)
        features[self.target] = out


def _numpy() -> Any:
    import numpy

    return numpy


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Identity": lambda x: x,
    "Tanh": lambda x: _numpy().tanh(x),
    "ReLU": lambda x: _numpy().maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + _numpy().exp(-x)),
}


@dataclass(frozen=True)
class Normalize(Module):
    """Vectors scaled to unit length.

    Attributes:
        source: Name of the array that it reads.
        target: Name of the array that it gives.
    """

    source: str = SENTENCE
    target: str = SENTENCE

    closes: ClassVar[bool] = True

    @classmethod
    def read(cls, folder: Path, path: str) -> Normalize:
        """See :meth:`Module.read`; older releases write no configuration."""
        file = inside(folder, path) / "config.json"
        return cls(path, *_names(read_json(file, ModelProblem) if path and file.exists() else {}, path))

    @property
    def reads(self) -> str:
        """What ``module_input_name`` says."""
        return self.source

    @property
    def writes(self) -> str:
        """What ``module_output_name`` says."""
        return self.target

    def __call__(self, features: Features, weights: Mapping[str, Weights]) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        x = features[self.source]
        features[self.target] = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _names(config: Mapping[str, Any], path: str) -> tuple[str, str]:
    """The arrays that a module reads and gives."""
    source = config.get("module_input_name") or SENTENCE
    target = config.get("module_output_name") or source
    for name in (source, target):
        if name not in (TOKENS, SENTENCE):
            raise ModelProblem(f"{path} reads or gives {name!r}, which is neither {TOKENS} nor {SENTENCE}")
    return source, target


MODULES: dict[str, type[Module]] = {"Pooling": Pooling, "Dense": Dense, "Normalize": Normalize}


def read_module(kind: str, folder: Path, path: str) -> Module:
    """A module by the last part of its type.

    Raises:
        ModelProblem: for one that is not reproduced; it is named, never ignored. Also where its weights are only pickled.
    """
    if kind not in MODULES:
        raise ModelProblem(f"module {kind!r} in {path or 'modules.json'} cannot be reproduced (supported: {', '.join(MODULES)})")
    module = MODULES[kind].read(folder, path)
    if module.weighted and not (inside(folder, path) / "model.safetensors").exists():
        raise ModelProblem(f"{path} has no model.safetensors; pickled weights are never read, save the model again")
    return module


def load_weights(folder: Path, module: Module) -> dict[str, Any]:
    """The tensors of a module by name, as float32 arrays.

    Raises:
        ModelProblem: for a file that is missing, damaged or without one of the tensors.
    """
    from safetensors.numpy import load_file

    path = inside(folder, module.path) / "model.safetensors"
    try:
        found = load_file(path)
    except Exception as e:  # the binding has its own error types
        raise ModelProblem(f"{path} cannot be read: {e}") from e
    if missing := module.tensors() - set(found):
        raise ModelProblem(f"{path} has no tensor {', '.join(sorted(missing))}; save the model again")
    return dict(found)
