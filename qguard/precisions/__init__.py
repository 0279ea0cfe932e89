"""Precisions: a registry of named ways to run a model. A new recipe is one file here and one line in ``RECIPES``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from qguard import graph, onnx_edit
from qguard.admission import refuse_large, refuse_unknown_type
from qguard.artifact import Artifact, build_cached
from qguard.errors import ArtifactProblem, ModelProblem, QguardError, UsageProblem, first_line, unknown
from qguard.models import Model, installed
from qguard.precisions.calibration import DEFAULT, Calibration, Sample
from qguard.vectors import FLOAT, KINDS


@dataclass(frozen=True)
class Recipe:
    """How a precision is produced on one runtime, and what its files must then hold.

    Attributes:
        make: ``module:function``; the function takes the model (and the calibration sample) and fills an artifact folder.
            Imported when it is needed.
        weights: Element type of the weight matrices: ``F32 F16 BF16 I8 I4`` (safetensors' names).
        integer: The file multiplies integers: activations are quantized as well as weights. ``I8`` or ``I4`` without it
            is weight-only: such a file stores integers and multiplies floats, or leaves activations to the runtime.
        granularity: Scales of a quantized weight matrix: ``per-tensor``, ``per-channel`` (one an output channel), or the
            number of inputs that share one; ``None`` where nothing is promised.
        tables: Element type of word embedding tables, where it is not that of the weights.
        excluded: ``fnmatch`` patterns of the layers that the recipe leaves in float on purpose.
        calibrated: Activation ranges or the rounding of weights come from texts: ``make`` is also given a
            :class:`~qguard.precisions.calibration.Sample`.
        packages: Distributions whose versions decide the bytes.
        extra: The extra of qguard that installs the runtime or the recipe's tool, where it is not a dependency.
    """

    make: str
    weights: str
    integer: bool = False
    granularity: str | int | None = None
    tables: str | None = None
    excluded: tuple[str, ...] = ()
    calibrated: bool = False
    packages: tuple[str, ...] = ("torch", "transformers", "onnx", "onnxruntime", "safetensors")
    extra: str | None = None


_TORCHAO = ("torch", "torchao", "transformers", "safetensors")
_NNCF = (*Recipe.packages, "nncf")
# small tables of the embedding layer, a hundredth of the weights
_TABLES = ("*position_embeddings*", "*token_type_embeddings*", "*relative_attention_bias*")
# the tables of torch's files, whose other matrices are multiplied
_LOOKUPS = ("*embeddings*", "*embed_tokens*", "*relative_attention_bias*")
# (precision, runtime) → recipe
RECIPES: dict[tuple[str, str], Recipe] = {
    ("fp32", "onnx"): Recipe("qguard.precisions.export:fp32", "F32"),
    ("fp32", "torch"): Recipe("qguard.precisions.cast:fp32", "F32"),
    ("fp16", "torch"): Recipe("qguard.precisions.cast:fp16", "F16"),
    ("bf16", "torch"): Recipe("qguard.precisions.cast:bf16", "BF16"),
    ("int8", "onnx"): Recipe(
        "qguard.precisions.integer:int8", "I8", integer=True, granularity="per-channel", calibrated=True,
        excluded=(*_TABLES, "*/Outliers"),
    ),
    ("int8-dynamic", "onnx"): Recipe("qguard.precisions.dynamic:int8", "I8", integer=True, granularity="per-channel"),
    ("int8-static", "onnx"): Recipe(
        "qguard.precisions.static:int8", "I8", integer=True, granularity="per-channel", calibrated=True, packages=_NNCF,
        extra="static",
    ),
    ("int8-weight", "onnx"): Recipe("qguard.precisions.weightonly:int8", "I8", granularity=32, excluded=_TABLES),
    ("int4", "onnx"): Recipe("qguard.precisions.weightonly:int4", "I4", granularity=32, tables="I8", excluded=_TABLES),
    ("fp16", "onnx"): Recipe("qguard.precisions.half:fp16", "F16"),
    ("int8", "torch"): Recipe(
        "qguard.precisions.torchao:int8", "I8", integer=True, granularity="per-channel", excluded=_LOOKUPS,
        packages=_TORCHAO, extra="torchao",
    ),
    ("int8-weight", "torch"): Recipe(
        "qguard.precisions.torchao:int8_weight", "I8", granularity="per-channel", excluded=_LOOKUPS,
        packages=_TORCHAO, extra="torchao",
    ),
    ("int8-legacy", "torch"): Recipe("qguard.precisions.legacy:int8", "I8", integer=True, excluded=_LOOKUPS),
    ("fp32", "openvino"): Recipe("qguard.precisions.openvino:fp32", "F32", extra="openvino"),
    ("bf16", "openvino"): Recipe("qguard.precisions.openvino:bf16", "BF16", calibrated=True, extra="openvino"),
    ("int8", "openvino"): Recipe(
        "qguard.precisions.openvino:int8", "I8", integer=True, granularity="per-channel", calibrated=True, extra="openvino",
    ),
}  # fmt: skip
# the runtime of a precision that names none
DEFAULT_RUNTIME = {
    "fp32": "onnx",
    "fp16": "torch",
    "bf16": "torch",
    "int8": "onnx",
    "int8-dynamic": "onnx",
    "int8-static": "onnx",
    "int8-weight": "onnx",
    "int4": "onnx",
    "int8-legacy": "torch",
}


@dataclass(frozen=True, order=True)
class Precision:
    """A precision, the runtime that computes it and how its vectors are stored; prints as the user types it.

    Attributes:
        name: Built in, or the project's own.
        runtime: A name in :data:`qguard.encoders.RUNTIMES`.
        vectors: How its vectors are stored, a name in :data:`qguard.vectors.KINDS`, or :data:`qguard.vectors.FLOAT`.
        base: The built-in precision whose recipe it has and what it computes in; ``name`` itself unless it is the project's own.
        calibration: Where a calibrated recipe takes its texts from; ``None`` for those that qguard ships.
    """

    name: str
    runtime: str
    vectors: str = FLOAT
    base: str = ""
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.name)

    def __str__(self) -> str:
        plain = self.name != self.base or DEFAULT_RUNTIME[self.name] == self.runtime
        name = self.name if plain else f"{self.name}@{self.runtime}"
        return name if self.vectors == FLOAT else f"{name}+{self.vectors}"

    @property
    def plain(self) -> Precision:
        """The same model with float32 vectors: artifact, embeddings and latency are its."""
        return replace(self, vectors=FLOAT)

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return RECIPES[self.base, self.runtime]

    @property
    def sample(self) -> Sample | None:
        """The texts that calibrate it; ``None`` for a recipe without calibration."""
        return (self.calibration or DEFAULT).sample if self.recipe.calibrated else None

    def build(self, model: Model) -> Artifact:
        """The artifact of ``model`` in this precision, from the cache or built now.

        Raises:
            ModelProblem: for torch, of a model that comes as ONNX alone.
        """
        self.check(model)
        module, _, function = self.recipe.make.partition(":")
        key = {
            "model": model.name,
            "precision": f"{self.base}-{self.runtime}",
            "weights": model.weight_sha256,
            "tokenizer": model.tokenizer_sha256,
            "pipeline": model.pipeline.sha256(),
            "recipe": self.recipe.make,
            "code": _code_sha256(),
            "versions": installed(*self.recipe.packages),
        }
        sample = self.sample
        if sample is not None:
            key["calibration"] = sample.facts

        def fill(folder: Path) -> None:
            if model.onnx is None:
                refuse_unknown_type(model.root)
            make: Callable[..., None] = getattr(import_module(module), function)
            try:
                make(model, folder, *([sample] if sample else []))
            except (QguardError, OSError):
                raise
            except Exception as e:  # whatever torch, Transformers or a quantizer meets in an architecture that is new to it
                raise ArtifactProblem(f"{self} of model {model.name!r} cannot be made here: {first_line(e)}") from e

        return build_cached(key, model, fill)

    def check(self, model: Model) -> None:
        """This precision of a model can be made, as far as its files tell.

        Raises:
            ModelProblem: for torch, of a model that comes as ONNX alone; for the others, of one that is too large.
        """
        here = "torch" if self.runtime == "torch" else "onnx"
        others = sorted(n if DEFAULT_RUNTIME[n] == r else f"{n}@{r}" for n, r in RECIPES if (r == "torch") != (here == "torch"))
        if model.onnx and here == "torch":
            raise ModelProblem(
                f"{self} needs torch's weights, and model {model.name!r} comes as ONNX alone ({model.onnx.name}); "
                f"give a model with safetensors, or one of the precisions {', '.join(others)}"
            )
        if here == "torch":
            return
        if model.onnx is None:
            instead = f"take one that runs in torch ({', '.join(others)}): qguard init MODEL --precision bf16"
            refuse_large(model, str(self), instead)
        elif self.base != "fp32":  # the shipped file itself may keep its weights beside it
            refuse_large(model, str(self), f"judge another tool's file: pytest --precision {self} --artifact=PATH")


def _code_sha256() -> str:
    """Hash of the recipes' own source: an edited recipe never serves an old artifact."""
    total = hashlib.sha256()
    here = Path(__file__).parent
    # OpenVINO's properties are part of a recipe; recipes read and edit ONNX files by two modules of their own
    beside = here.parent / "encoders" / "openvino.py", Path(onnx_edit.__file__), Path(graph.__file__)
    for path in (*sorted(here.glob("*.py")), *beside):
        total.update(path.read_bytes())
    return total.hexdigest()


def parse_precision(text: str, own: Mapping[str, Precision] | None = None) -> Precision:
    """``NAME[@RUNTIME][+VECTORS]`` as typed on the command line.

    Args:
        text: What was typed.
        own: The project's own precisions by name; they win over built-in ones.

    Raises:
        UsageProblem: for an unknown name or vectors, or a runtime that has no recipe for it.
    """
    own = own or {}
    model, plus, vectors = text.strip().partition("+")
    name, at, runtime = model.partition("@")
    if plus and vectors not in KINDS:
        raise unknown("precision of vectors", vectors, KINDS)
    stored = vectors if plus else FLOAT
    if name in own:
        if at and runtime != own[name].runtime:
            raise UsageProblem(f"unknown precision {text.strip()!r}: the project's own {name} runs on {own[name].runtime}")
        return replace(own[name], vectors=stored)
    if name not in DEFAULT_RUNTIME:
        raise unknown("precision", text.strip(), {*DEFAULT_RUNTIME, *own, *(f"fp32+{k}" for k in KINDS)})
    runtime = runtime if at else DEFAULT_RUNTIME[name]
    if (name, runtime) not in RECIPES:
        have = sorted(r for n, r in RECIPES if n == name)
        raise UsageProblem(f"unknown precision {text.strip()!r}: {name} runs on {', '.join(have)}")
    return Precision(name, runtime, stored)


def parse_precisions(text: str, configured: Iterable[str], own: Mapping[str, Precision] | None = None) -> list[Precision]:
    """A comma-separated list; ``all`` stands for every configured precision.

    Raises:
        UsageProblem: for an empty list or an unknown name.
    """
    parts = [p.strip() for p in text.split(",") if p.strip()]
    names = [n for p in parts for n in (configured if p == "all" else (p,))]
    if not names:
        raise UsageProblem("no precision given; expected for example --precision int8")
    return list(dict.fromkeys(parse_precision(n, own) for n in names))
