"""Precisions: a registry of named ways to run a model. A new recipe is one file here and one line in ``RECIPES``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from qguard.artifact import Artifact, build_cached
from qguard.errors import UsageProblem, unknown
from qguard.models import Model, installed
from qguard.vectors import FLOAT, KINDS


@dataclass(frozen=True)
class Recipe:
    """How a precision is produced on one runtime, and what its files must then hold.

    Attributes:
        make: ``module:function``; the function takes the model and fills an artifact folder. Imported when it is needed.
        weights: Element type of the weight matrices: ``F32 F16 BF16 I8 I4`` (safetensors' names).
        integer: Multiplications run in integers: activations are quantized as well as weights.
        packages: Distributions whose versions decide the bytes.
        extra: The extra of qguard that installs the runtime, where it is not a dependency.
    """

    make: str
    weights: str
    integer: bool = False
    packages: tuple[str, ...] = ("torch", "transformers", "onnx", "onnxruntime", "safetensors")
    extra: str | None = None


# (precision, runtime) → recipe
RECIPES: dict[tuple[str, str], Recipe] = {
    ("fp32", "onnx"): Recipe("qguard.precisions.export:fp32", "F32"),
    ("fp32", "torch"): Recipe("qguard.precisions.cast:fp32", "F32"),
    ("fp16", "torch"): Recipe("qguard.precisions.cast:fp16", "F16"),
    ("bf16", "torch"): Recipe("qguard.precisions.cast:bf16", "BF16"),
    ("int8", "onnx"): Recipe("qguard.precisions.dynamic:int8", "I8", integer=True),
}
# the runtime of a precision that names none
DEFAULT_RUNTIME = {"fp32": "onnx", "fp16": "torch", "bf16": "torch", "int8": "onnx"}


@dataclass(frozen=True, order=True)
class Precision:
    """A precision, the runtime that computes it and how its vectors are stored; prints as the user types it."""

    name: str
    runtime: str
    vectors: str = FLOAT

    def __str__(self) -> str:
        name = self.name if DEFAULT_RUNTIME[self.name] == self.runtime else f"{self.name}@{self.runtime}"
        return name if self.vectors == FLOAT else f"{name}+{self.vectors}"

    @property
    def plain(self) -> Precision:
        """The same model with float32 vectors: artifact, embeddings and latency are its."""
        return replace(self, vectors=FLOAT)

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return RECIPES[self.name, self.runtime]

    def build(self, model: Model) -> Artifact:
        """The artifact of ``model`` in this precision, from the cache or built now."""
        module, _, function = self.recipe.make.partition(":")
        key = {
            "model": model.name,
            "precision": f"{self.name}-{self.runtime}",
            "weights": model.weight_sha256,
            "tokenizer": model.tokenizer_sha256,
            "pipeline": model.pipeline.sha256(),
            "recipe": self.recipe.make,
            "code": _code_sha256(),
            "versions": installed(*self.recipe.packages),
        }

        def fill(folder: Path) -> None:
            make: Callable[[Model, Path], None] = getattr(import_module(module), function)
            make(model, folder)

        return build_cached(key, model, fill)


def _code_sha256() -> str:
    """Hash of the recipes' own source: an edited recipe never serves an old artifact."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def parse_precision(text: str) -> Precision:
    """``NAME[@RUNTIME][+VECTORS]`` as typed on the command line.

    Raises:
        UsageProblem: for an unknown name or vectors, or a runtime that has no recipe for it.
    """
    model, plus, vectors = text.strip().partition("+")
    name, at, runtime = model.partition("@")
    if name not in DEFAULT_RUNTIME:
        raise unknown("precision", text.strip(), {*DEFAULT_RUNTIME, *(f"fp32+{k}" for k in KINDS)})
    if plus and vectors not in KINDS:
        raise unknown("precision of vectors", vectors, KINDS)
    runtime = runtime if at else DEFAULT_RUNTIME[name]
    if (name, runtime) not in RECIPES:
        have = sorted(r for n, r in RECIPES if n == name)
        raise UsageProblem(f"unknown precision {text.strip()!r}: {name} runs on {', '.join(have)}")
    return Precision(name, runtime, vectors if plus else FLOAT)


def parse_precisions(text: str, configured: tuple[str, ...]) -> list[Precision]:
    """A comma-separated list; ``all`` stands for every configured precision.

    Raises:
        UsageProblem: for an empty list or an unknown name.
    """
    parts = [p.strip() for p in text.split(",") if p.strip()]
    names = [n for p in parts for n in (configured if p == "all" else (p,))]
    if not names:
        raise UsageProblem("no precision given; expected for example --precision int8")
    return list(dict.fromkeys(parse_precision(n) for n in names))
