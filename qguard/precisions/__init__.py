"""Precisions: named ways to run a model. Their recipes are the registry ``RECIPES``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qguard.artifacts.artifact import Artifact, build_cached
from qguard.boundary import step
from qguard.encoders.loaded import carry_tokenizer
from qguard.encoders.runtimes import ENDPOINT, GGUF, NO_FILES, ONNX, RUNTIMES, RuntimeRecord
from qguard.endpoints.protocols import check_kind
from qguard.endpoints.settings import SERVED, Endpoint
from qguard.errors import ArtifactProblem, ModelProblem, QguardError, UsageProblem, first_line, unknown
from qguard.files import sha256_json
from qguard.kinds import SPARSE
from qguard.machine.versions import installed
from qguard.models.admission import refuse_unknown_type
from qguard.models.model import Model
from qguard.precisions.calibration import DEFAULT, Calibration, Sample
from qguard.precisions.code import code_sha256
from qguard.precisions.recipe import NOT_BUILT, RECIPES, Recipe, default_runtime, fp32_recipe, served
from qguard.precisions.tuning import Tuning
from qguard.vectors.quantized import FLOAT, KINDS

__all__ = [
    "NOT_BUILT", "RECIPES", "Precision", "Recipe", "default_runtime", "dimensions", "fp32_of", "known", "parse_precision",
    "parse_precisions", "precision_of",
]  # fmt: skip


@dataclass(frozen=True, order=True)
class Precision:
    """A precision, the runtime that computes it and what is stored of its vectors; prints as the user types it.

    Attributes:
        name: Built in, or the project's own.
        runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        vectors: How its vectors are stored, a name in :data:`qguard.vectors.quantized.KINDS`, or ``FLOAT`` there.
        base: The built-in precision whose recipe it has and what it computes in; ``name`` itself unless it is the project's own.
        calibration: Where a calibrated recipe takes its texts from; ``None`` for those that qguard ships.
        dims: The first dimensions of a vector that are kept; 0 for all.
        endpoint: The server that keeps the model; ``None`` for all other runtimes.
        tuning: The project's own settings of a tunable recipe.
    """

    name: str
    runtime: str
    vectors: str = FLOAT
    base: str = ""
    calibration: Calibration | None = None
    dims: int = 0
    endpoint: Endpoint | None = None
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.name)

    def __str__(self) -> str:
        plain = self.name != self.base or default_runtime(self.name) == self.runtime
        name = self.label if plain else f"{self.label}@{self.runtime}"
        return name if self.vectors == FLOAT else f"{name}+{self.vectors}"

    @property
    def label(self) -> str:
        """``NAME[:DIMS]``: its name in reports, gates and records, beside the runtime and how vectors are stored."""
        return f"{self.name}:{self.dims}" if self.dims else self.name

    @property
    def plain(self) -> Precision:
        """The same model with whole float32 vectors: artifact, embeddings and latency are its."""
        return replace(self, vectors=FLOAT, dims=0)

    @property
    def recipe(self) -> Recipe:
        """How it is made, and what it is judged by.

        Raises:
            UsageProblem: for a precision that nobody registered.
        """
        if self.runtime == ENDPOINT:
            return served(self.base)
        found = RECIPES.find(f"{self.base}@{self.runtime}")
        return replace(found, excluded=(*found.excluded, *self.tuning.exclude)) if self.tuning else found

    def recipe_of(self, model: Model) -> Recipe:
        """How it is made of this model.

        Raises:
            UsageProblem: of a static model, for a recipe that is for multiplications alone.
        """
        return self.recipe.for_tables() if model.static else self.recipe

    @property
    def bounded_as(self) -> str:
        """Precision and runtime whose default bounds hold: its own, and of a server those of what it should compute."""
        name, _, runtime = self.base.partition("@")
        at = self.runtime if self.runtime != ENDPOINT else runtime or default_runtime(name)
        return f"{self.recipe.precision}@{at}"

    @property
    def runs_in(self) -> RuntimeRecord:
        """The runtime that computes it."""
        return RUNTIMES.find(self.runtime)

    @property
    def server(self) -> Endpoint:
        """The server that keeps the model.

        Raises:
            UsageProblem: if nobody says where it is.
        """
        if self.endpoint is None:
            raise UsageProblem(
                f"{self.name} is what a server answers, and no server is given: give --endpoint URL, or "
                f"[tool.qguard.endpoint.{self.name}]"
            )
        return self.endpoint

    @property
    def sample(self) -> Sample | None:
        """The texts that calibrate it; ``None`` for a recipe without calibration."""
        return (self.calibration or DEFAULT).sample if self.recipe.calibrated else None

    def build(self, model: Model) -> Artifact:
        """The artifact of ``model`` in this precision, from the cache or built now.

        Raises:
            ModelProblem: for torch, of a model that comes as ONNX alone.
            UsageProblem: for a recipe that builds nothing, of a runtime that reads files.
        """
        self.check(model)
        if self.recipe.make == NOT_BUILT:
            if self.runs_in.files == NO_FILES:
                return Artifact.without_files(model)
            raise UsageProblem(f"{self} is not built by qguard; give its files: pytest --precision {self} --artifact=PATH")

        def fill(folder: Path) -> None:
            if model.onnx is None and not model.static:
                refuse_unknown_type(model.root)
            carry_tokenizer(model, folder)
            self.fill(model, folder, self.sample)

        with step(f"making {self} of model {model.name!r}", model.onnx or model.folder):
            return build_cached(self.key(model), model, fill)

    def key(self, model: Model) -> dict[str, Any]:
        """Everything that decides the bytes of its artifact of ``model``."""
        recipe = self.recipe_of(model)
        sample = self.sample if recipe.calibrated else None
        key = {
            "model": model.name,
            "precision": f"{self.base}-{self.runtime}",
            "weights": model.weight_sha256,
            "tokenizer": model.tokenizer_sha256,
            "pipeline": model.pipeline.sha256(),
            "recipe": recipe.make,
            # the others lay out what stands around the weights
            "code": code_sha256(recipe.module, build_cached.__module__, carry_tokenizer.__module__),
            "versions": installed(*recipe.packages),
        }
        if recipe.from_fp32:
            key["fp32"] = sha256_json(fp32_of(self.runtime).key(model))
        if self.tuning is not None and self.tuning.given:
            key["tuning"] = self.tuning.given
        if recipe.copies:
            key["copies"] = sha256_json(self.copied.key(model))
        if sample is not None:
            key["calibration"] = sample.facts
        return key

    @property
    def copied(self) -> Precision:
        """The precision whose files it lays out in another way, with its own calibration."""
        return replace(precision_of(RECIPES.find(self.recipe.copies)), calibration=self.calibration)

    def fill(self, model: Model, folder: Path, sample: Sample | None = None) -> None:
        """Run the recipe on an artifact folder in which the model's layout is already.

        Args:
            model: The fp32 model.
            folder: Where the weights go.
            sample: The texts that calibrate a calibrated recipe.

        Raises:
            ArtifactProblem: for whatever a quantizer meets in an architecture that is new to it.
        """
        recipe = self.recipe_of(model)
        given: list[Any] = [fp32_of(self.runtime).build(model)] if recipe.from_fp32 else []
        if recipe.copies:
            given, sample = [self.copied.build(model)], None
        try:
            make: Callable[..., None] = recipe.function()
            tuning = {"tuning": self.tuning} if self.tuning is not None and recipe.tunable else {}
            make(model, folder, *given, *([sample] if recipe.calibrated and sample is not None else []), **tuning)
        except (QguardError, OSError):
            raise
        except Exception as e:  # torch, Transformers and quantizers raise many kinds
            works = f"see what works: qguard models {model.ref}"
            raise ArtifactProblem(f"{self} of model {model.name!r} cannot be made here: {first_line(e)}; {works}") from e

    def check(self, model: Model) -> None:
        """This precision of a model can be made, as far as its files tell.

        Raises:
            ModelProblem: for torch, of a model that comes as ONNX alone.
            UsageProblem: see :meth:`recipe_of`; of a sparse model, for a recipe that cannot store shared weights; for a server
                whose protocol does not carry what the model gives.
        """
        files = self.runs_in.files
        if self.runtime == ENDPOINT:
            check_kind(self.server.protocol, model.kind)
        if files == NO_FILES:
            return
        recipe = self.recipe_of(model)
        if files == GGUF:
            from qguard.precisions.gguf import Network

            Network.read(model)
        if model.kind == SPARSE and not recipe.tied:
            raise UsageProblem(
                f"model {model.name!r} is sparse, and its decoder shares its weights with the table of words, which "
                f"{recipe.name} cannot store; quantize it for ONNX Runtime or OpenVINO: --precision int8, int8@openvino"
            )
        if model.onnx and files != ONNX:
            others = sorted(known(lambda r: RUNTIMES[r.runtime].files == ONNX))
            raise ModelProblem(
                f"{self} needs torch's weights, and model {model.name!r} comes as ONNX alone ({model.onnx.name}); "
                f"give a model with safetensors, or one of the precisions {', '.join(others)}"
            )


def precision_at(endpoint: Endpoint | None, base: str = "int8") -> Precision:
    """The precision of what a server keeps.

    Args:
        endpoint: The server; ``None`` for :data:`~qguard.endpoints.settings.SERVED` without one, which cannot be judged.
        base: The precision whose default gates apply, ``NAME[@RUNTIME]``.

    Raises:
        UsageProblem: for a base that nobody registered.
    """
    served(base)
    return Precision(endpoint.name if endpoint else SERVED, ENDPOINT, base=base, endpoint=endpoint)


def precision_of(recipe: Recipe) -> Precision:
    """The precision that a recipe makes."""
    return Precision(recipe.precision, recipe.runtime)


def fp32_of(runtime: str) -> Precision:
    """fp32 as it is had in a runtime.

    Raises:
        UsageProblem: where no recipe is registered for it.
    """
    return precision_of(fp32_recipe(runtime))


def known(such: Callable[[Recipe], bool] = lambda _: True) -> list[str]:
    """Every registered precision as it is typed, or those whose recipe is ``such``."""
    return [str(precision_of(r)) for r in RECIPES.values() if such(r)]


def parse_precision(text: str, own: Mapping[str, Precision] | None = None) -> Precision:
    """``NAME[:DIMS][@RUNTIME][+VECTORS]`` as typed on the command line.

    Args:
        text: What was typed.
        own: The project's own precisions by name; they win over built-in ones.

    Raises:
        UsageProblem: for an unknown name or vectors, dimensions that are no number from 1 on, or a runtime that has no recipe.
    """
    own = own or {}
    model, plus, vectors = text.strip().partition("+")
    named, at, runtime = model.partition("@")
    name, colon, number = named.partition(":")
    if ":" in runtime:
        runtime, _, number = runtime.partition(":")
        raise UsageProblem(f"{text.strip()!r}: dimensions stand behind the name: {name}:{number}@{runtime}")
    dims = dimensions(number, text.strip()) if colon else 0
    if plus and vectors not in KINDS:
        raise unknown("precision of vectors", vectors, KINDS)
    stored = vectors if plus else FLOAT
    if name in own:
        if at and runtime != own[name].runtime:
            raise UsageProblem(f"unknown precision {text.strip()!r}: the project's own {name} runs on {own[name].runtime}")
        return replace(own[name], vectors=stored, dims=dims)
    usual = default_runtime(name)
    if usual is None:
        names = {r.precision for r in RECIPES.values()}
        raise unknown("precision", text.strip(), {*names, *own, *(f"fp32+{k}" for k in KINDS)})
    runtime = runtime if at else usual
    if f"{name}@{runtime}" not in RECIPES:
        have = sorted(r.runtime for r in RECIPES.values() if r.precision == name)
        raise UsageProblem(f"unknown precision {text.strip()!r}: {name} runs on {', '.join(have)}")
    RUNTIMES.find(runtime)  # one that cannot be used is an error before anything runs
    return Precision(name, runtime, stored, dims=dims)


def dimensions(text: str, where: str) -> int:
    """How many dimensions are kept.

    Args:
        text: What was typed.
        where: What it was part of.

    Raises:
        UsageProblem: for anything but a number from 1 on.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageProblem(f"{where!r}: expected a number of dimensions from 1 on, such as int8:256, found {text!r}")
    return int(text)


def parse_precisions(text: str, configured: Iterable[str], own: Mapping[str, Precision] | None = None) -> list[Precision]:
    """A comma-separated list; ``all`` stands for every configured precision.

    Raises:
        UsageProblem: for an empty list, an empty place in it or an unknown name.
    """
    parts = [p.strip() for p in text.split(",")]
    names = [n for p in parts for n in (configured if p == "all" else (p,))]
    if not any(names):
        raise UsageProblem("no precision given; expected for example --precision int8")
    if not all(parts):  # of a variable that is not set: what it should name would not be judged
        raise UsageProblem(f"{text!r}: expected a precision before and after each comma, found none; leave the comma out")
    return list(dict.fromkeys(parse_precision(n, own) for n in names))
