"""Precisions: a registry of named ways to run a model. A new recipe is one file here and one line in ``RECIPES``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from qguard.artifact import Artifact, build_cached
from qguard.errors import ModelProblem, UsageProblem, unknown
from qguard.models import Model, installed


@dataclass(frozen=True)
class Recipe:
    """How a precision is produced on one runtime, and what its files must then hold.

    Attributes:
        make: ``module:function``; the function takes the model and fills an artifact folder. Imported when it is needed.
        weights: Element type of the weight matrices: ``F32 F16 BF16 I8 I4`` (safetensors' names).
        integer: The file multiplies integers: activations are quantized as well as weights. ``I8`` or ``I4`` without it
            is weight-only: such a file stores integers and multiplies floats, or leaves activations to the runtime.
        granularity: Scales of a quantized weight matrix: ``per-tensor``, ``per-channel`` (one an output channel), or the
            number of inputs that share one; ``None`` where nothing is promised.
        excluded: ``fnmatch`` patterns of the layers that the recipe leaves in float on purpose.
        packages: Distributions whose versions decide the bytes.
        extra: The extra of qguard that installs the runtime, where it is not a dependency.
    """

    make: str
    weights: str
    integer: bool = False
    granularity: str | int | None = None
    excluded: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("torch", "transformers", "onnx", "onnxruntime", "safetensors")
    extra: str | None = None


_TORCHAO = ("torch", "torchao", "transformers", "safetensors")
# small tables of the embedding layer, a hundredth of the weights
_TABLES = ("*position_embeddings*", "*token_type_embeddings*")
# (precision, runtime) → recipe
RECIPES: dict[tuple[str, str], Recipe] = {
    ("fp32", "onnx"): Recipe("qguard.precisions.export:fp32", "F32"),
    ("fp32", "torch"): Recipe("qguard.precisions.cast:fp32", "F32"),
    ("fp16", "torch"): Recipe("qguard.precisions.cast:fp16", "F16"),
    ("bf16", "torch"): Recipe("qguard.precisions.cast:bf16", "BF16"),
    ("int8", "onnx"): Recipe("qguard.precisions.dynamic:int8", "I8", integer=True, granularity="per-channel"),
    ("int8-dynamic", "onnx"): Recipe("qguard.precisions.dynamic:int8", "I8", integer=True, granularity="per-channel"),
    ("int8-weight", "onnx"): Recipe("qguard.precisions.weightonly:int8", "I8", granularity=32, excluded=_TABLES),
    ("int4", "onnx"): Recipe("qguard.precisions.weightonly:int4", "I4", granularity=32, excluded=(*_TABLES, "*word_embeddings*")),
    ("int8", "torch"): Recipe(
        "qguard.precisions.torchao:int8",
        "I8",
        integer=True,
        granularity="per-channel",
        excluded=("*embeddings*",),
        packages=_TORCHAO,
        extra="torchao",
    ),
    ("int8-weight", "torch"): Recipe(
        "qguard.precisions.torchao:int8_weight",
        "I8",
        granularity="per-channel",
        excluded=("*embeddings*",),
        packages=_TORCHAO,
        extra="torchao",
    ),
    ("int8-legacy", "torch"): Recipe("qguard.precisions.legacy:int8", "I8", integer=True, excluded=("*embeddings*",)),
    ("fp32", "openvino"): Recipe("qguard.precisions.openvino:fp32", "F32", extra="openvino"),
    ("bf16", "openvino"): Recipe("qguard.precisions.openvino:bf16", "BF16", extra="openvino"),
    ("int8", "openvino"): Recipe(
        "qguard.precisions.openvino:int8", "I8", integer=True, granularity="per-channel", extra="openvino"
    ),
}
# the runtime of a precision that names none
DEFAULT_RUNTIME = {
    "fp32": "onnx",
    "fp16": "torch",
    "bf16": "torch",
    "int8": "onnx",
    "int8-dynamic": "onnx",
    "int8-weight": "onnx",
    "int4": "onnx",
    "int8-legacy": "torch",
}


@dataclass(frozen=True, order=True)
class Precision:
    """A precision and the runtime that computes it; prints as the user types it."""

    name: str
    runtime: str

    def __str__(self) -> str:
        return self.name if DEFAULT_RUNTIME[self.name] == self.runtime else f"{self.name}@{self.runtime}"

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return RECIPES[self.name, self.runtime]

    def build(self, model: Model) -> Artifact:
        """The artifact of ``model`` in this precision, from the cache or built now.

        Raises:
            ModelProblem: for torch, of a model that comes as ONNX alone.
        """
        if model.onnx and self.runtime == "torch":
            others = sorted(n if DEFAULT_RUNTIME[n] == r else f"{n}@{r}" for n, r in RECIPES if r != "torch")
            raise ModelProblem(
                f"{self} needs torch's weights, and model {model.name!r} comes as ONNX alone ({model.onnx.name}); "
                f"give a model with safetensors, or one of the precisions {', '.join(others)}"
            )
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
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), here.parent / "encoders" / "openvino.py"):  # its properties are part of a recipe
        total.update(path.read_bytes())
    return total.hexdigest()


def parse_precision(text: str) -> Precision:
    """``NAME[@RUNTIME]`` as typed on the command line.

    Raises:
        UsageProblem: for an unknown name, or a runtime that has no recipe for it.
    """
    name, at, runtime = text.strip().partition("@")
    if name not in DEFAULT_RUNTIME:
        raise unknown("precision", text.strip(), DEFAULT_RUNTIME)
    runtime = runtime if at else DEFAULT_RUNTIME[name]
    if (name, runtime) not in RECIPES:
        have = sorted(r for n, r in RECIPES if n == name)
        raise UsageProblem(f"unknown precision {text.strip()!r}: {name} runs on {', '.join(have)}")
    return Precision(name, runtime)


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
