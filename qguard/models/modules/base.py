"""What a module is: a record that reads named arrays and writes named arrays, as in sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from qguard.errors import ModelProblem

TOKENS, SENTENCE, MASK, ROWS = "token_embeddings", "sentence_embedding", "attention_mask", "rows"

# Named arrays of one batch: TOKENS (batch, length, hidden) and SENTENCE (batch, dim) in float32. MASK (batch, length) is 1 at
# tokens and 0 at padding. ROWS are the texts' qguard.encoders.tokenizer.Tokens, or None where neither role nor prompt is known.
Features = dict[str, Any]
Weights = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Module:
    """One module.

    Attributes:
        path: Its folder inside the model's, with its configuration and weights.
    """

    path: str = ""

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
    def tensors(self) -> frozenset[str]:
        """Names of the tensors that it needs; a module without weights needs none."""
        return frozenset()

    @property
    def parts(self) -> Iterator[Module]:
        """Itself, or the modules that it is made of."""
        yield self

    def after(self, there: frozenset[str]) -> frozenset[str]:
        """The names of all arrays behind it, given those before it.

        Raises:
            ModelProblem: where what it reads is not among them.
        """
        if self.reads not in there:
            raise ModelProblem(
                f"module {type(self).__name__!r} in {self.path} reads {self.reads}, which no module before it gives"
            )
        return there | {self.writes}

    def declared(self) -> dict[str, Any]:
        """Everything that decides what it computes, as JSON has it."""
        return {"type": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def __call__(self, features: Features, weights: Weights) -> None:
        """Compute, in place.

        Args:
            features: What the modules before it gave.
            weights: Of each module by its path: tensors by name, float32.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Renaming(Module):
    """A module that says itself which array it reads and which it gives.

    Attributes:
        source: ``module_input_name``, :data:`TOKENS` or :data:`SENTENCE`.
        target: ``module_output_name``, the same if not given.
    """

    source: str = SENTENCE
    target: str = SENTENCE

    @property
    def reads(self) -> str:
        """See :class:`Module`."""
        return self.source

    @property
    def writes(self) -> str:
        """See :class:`Module`."""
        return self.target

    @staticmethod
    def names(config: Mapping[str, Any], path: str) -> dict[str, str]:
        """``source`` and ``target`` as a configuration has them.

        Raises:
            ModelProblem: for arrays that no runtime gives.
        """
        source = config.get("module_input_name") or SENTENCE
        found = {"source": source, "target": config.get("module_output_name") or source}
        for name in found.values():
            if name not in (TOKENS, SENTENCE):
                raise ModelProblem(f"{path} reads or gives {name!r}; expected {TOKENS} or {SENTENCE}")
        return found
