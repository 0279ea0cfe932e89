"""A linear layer with an activation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qguard.errors import ModelProblem
from qguard.files import inside, read_json
from qguard.models.modules.base import TOKENS, Features, Renaming, Weights

# classes of torch.nn that sentence-transformers makes without arguments; Threshold and MultiheadAttention need some
ACTIVATIONS = (
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid",
    "LogSoftmax", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus",
    "Softshrink", "Softsign", "Tanh", "Tanhshrink",
)  # fmt: skip
_OVER_BATCH = ("LogSoftmax", "Softmax", "Softmin")  # torch takes the first of three dimensions, which is the batch
_SLOPE = "activation_function.weight"


@dataclass(frozen=True)
class Dense(Renaming):
    """``activation(x @ weight.T + bias)`` of sentence or token embeddings.

    Attributes:
        activation: One of :data:`ACTIVATIONS`.
        bias: Whether ``bias`` is added.
        residual: Empty for none. ``input``: the input is added at the end. ``projection``: the input times a matrix of its own.
    """

    activation: str = "Tanh"
    bias: bool = True
    residual: str = ""

    @classmethod
    def read(cls, folder: Path, path: str) -> Dense:
        """See :meth:`Module.read`."""
        config = read_json(inside(folder, path) / "config.json", ModelProblem)
        name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        activation = name.rpartition(".")[2]
        if not name.startswith("torch.nn.") or activation not in ACTIVATIONS:
            raise ModelProblem(
                f"the Dense module in {path} has the activation {name!r}, which cannot be reproduced; expected torch.nn.… of "
                f"{', '.join(ACTIVATIONS)}"
            )
        names = cls.names(config, path)
        if names["source"] == TOKENS and activation in _OVER_BATCH:
            raise ModelProblem(
                f"the Dense module in {path} has the activation {activation} on token embeddings, which torch computes over the "
                "texts of a batch: a text's vector depends on the others. Train it with another activation"
            )
        residual = ""
        if config.get("use_residual"):
            residual = "input" if config.get("in_features") == config.get("out_features") else "projection"
        return cls(path, activation=activation, bias=bool(config.get("bias", True)), residual=residual, **names)

    @property
    def tensors(self) -> frozenset[str]:
        """See :class:`Module`."""
        needed = {"linear.bias": self.bias, "residual.weight": self.residual == "projection", _SLOPE: self.activation == "PReLU"}
        return frozenset(["linear.weight", *(name for name, yes in needed.items() if yes)])

    def __call__(self, features: Features, weights: Weights) -> None:
        """See :meth:`Module.__call__`."""
        import numpy as np

        from qguard.models.modules.activations import COMPUTED

        x, own = features[self.source], weights[self.path]
        out = x @ own["linear.weight"].T + (own["linear.bias"] if self.bias else 0)
        out = np.where(out > 0, out, own[_SLOPE] * out) if self.activation == "PReLU" else COMPUTED[self.activation](out)
        if self.residual:
            out = out + (x if self.residual == "input" else x @ own["residual.weight"].T)
        features[self.target] = out
