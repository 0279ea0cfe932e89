"""Recipes: the registry of precisions, each on one runtime.

Another package registers its own under the entry-point group ``qguard.recipes``, as one :class:`Recipe` or a list of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from qguard.encoders.runtimes import NO_FILES, RUNTIMES, TEXTS
from qguard.errors import RegistryProblem, UsageProblem, unknown
from qguard.families import metric_names
from qguard.metrics.bounds import Bound
from qguard.precisions.code import file_of
from qguard.registry import Registry


class Width(NamedTuple):
    """What the element type of weights explains; see the fields of :class:`Recipe` of these names."""

    bits: int
    least_cosine: float
    weight_error: float


# By element type, as safetensors names it. Mean cosine: one scale a tensor leaves .93 to .96 of 8 bits and random tokens as
# calibration .98 (docs/recipes.md); a wrong pooling, head or model leaves .8 and less. Error of a matrix: MiniLM's 8-bit
# per-channel layers have 0.007 to 0.021; per-tensor ones up to 0.4, since one large weight sets the step of all.
WIDTHS = {
    "F32": Width(32, 0.999, 0.01),
    "F16": Width(16, 0.99, 0.01),
    "BF16": Width(16, 0.99, 0.01),
    "I8": Width(8, 0.9, 0.05),
    "I4": Width(4, 0.8, 0.25),
}
UNKNOWN = Width(0, math.nan, math.nan)
# What ``make`` says where qguard builds nothing: the runtime keeps the model, or --artifact gives another tool's files
NOT_BUILT = "not built"
# Without a bound in one of these families a precision would pass whatever its vectors are
ACCURACY = ("embedding", "similarity", "ranking")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAKE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Recipe:
    """How a precision is produced on one runtime, what its files must then hold, and what its vectors are judged by.

    Attributes:
        precision: Its name, such as ``int8``. One that is registered for several runtimes runs in the first of them where
            none is named.
        runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        make: ``module:function``; the function takes the model, the artifact folder to fill and, where ``from_fp32`` and
            ``calibrated`` say so, the fp32 artifact and the calibration sample. Imported when it is needed. Or
            :data:`NOT_BUILT`.
        description: What it does to a model, in a sentence.
        weights: Element type of the weight matrices, by safetensors' names: ``F32 F16 BF16 I8 I4``, or another one, of which
            the record then gives ``bits``, ``least_cosine`` and ``weight_error``. ``I`` and ``U`` begin those of integers.
        fp32: Name of the recipe that makes fp32 for this runtime: what the candidate is timed and diagnosed against.
        bounds: The default gates, as they are written in ``[tool.qguard.gates]``: key → bound. At least one in each of the
            families :data:`ACCURACY`.
        speedup: The default bound on ``latency.speedup``, such as ``>= 1``; ``None`` promises nothing.
        bits: Of one weight. This and the next two are known of the types that are named above.
        least_cosine: The least mean cosine to fp32, in [0, 1], that rounding to this type explains. Below, a failure is said to
            be another model or pooling.
        weight_error: The largest relative error of a weight matrix (Frobenius norm) that rounding to this type explains.
        integer: The file multiplies integers: activations are quantized as well as weights. ``I8`` or ``I4`` without it
            is weight-only: such a file stores integers and multiplies floats, or leaves activations to the runtime.
        granularity: Scales of a quantized weight matrix: ``per-tensor``, ``per-channel`` (one an output channel), or the
            number of inputs that share one; ``None`` where nothing is promised.
        tables: Element type of word embedding tables, where it is not that of the weights.
        excluded: ``fnmatch`` patterns of the layers that the recipe leaves in float on purpose.
        from_fp32: ``make`` is also given the artifact that the recipe ``fp32`` makes of the model.
        calibrated: Activation ranges or the rounding of weights come from texts: ``make`` is also given a
            :class:`~qguard.precisions.calibration.Sample`.
        packages: Distributions whose versions decide the bytes.
        extra: The extra of qguard that installs the runtime or the recipe's tool, where it is not a dependency.
    """

    precision: str
    runtime: str
    _: KW_ONLY
    make: str = ""
    description: str = ""
    weights: str = ""
    fp32: str = ""
    bounds: Mapping[str, str | Bound] = field(default_factory=dict, hash=False)
    speedup: str | Bound | None = None
    bits: int | None = None
    least_cosine: float | None = None
    weight_error: float | None = None
    integer: bool = False
    granularity: str | int | None = None
    tables: str | None = None
    excluded: tuple[str, ...] = ()
    from_fp32: bool = False
    calibrated: bool = False
    packages: tuple[str, ...] = ("torch", "transformers", "onnx", "onnxruntime", "safetensors")
    extra: str | None = None

    @property
    def name(self) -> str:
        """``PRECISION@RUNTIME``, its name in :data:`RECIPES`."""
        return f"{self.precision}@{self.runtime}"

    @property
    def width(self) -> Width:
        """What the record says of its element type, else what :data:`WIDTHS` does."""
        given = {n: v for n in Width._fields if (v := getattr(self, n)) is not None}
        return WIDTHS.get(self.weights, UNKNOWN)._replace(**given)

    @property
    def module(self) -> str:
        """The module of ``make``."""
        return self.make.partition(":")[0]

    @property
    def stores_integers(self) -> bool:
        """Whether its weights are stored as integers."""
        return self.weights.startswith(("I", "U"))

    def function(self) -> Any:
        """The function that ``make`` names."""
        return getattr(import_module(self.module), self.make.partition(":")[2])

    def lacks(self) -> Iterator[str]:
        """What it does not say and must; see :class:`qguard.registry.Record`."""
        if not _NAME.fullmatch(self.precision) or self.precision == "all":
            yield f"precision: expected letters, digits and hyphens, found {self.precision!r}"
        if self.runtime not in RUNTIMES:
            yield f"runtime: expected one of {', '.join(RUNTIMES)}, found {self.runtime!r}"
        if self.make != NOT_BUILT and not _MAKE.fullmatch(self.make):
            yield f'make: expected "module:function", or "{NOT_BUILT}" where qguard builds nothing, found {self.make!r}'
        elif self.runtime in RUNTIMES and RUNTIMES[self.runtime].files == NO_FILES and self.make != NOT_BUILT:
            yield f'make: expected "{NOT_BUILT}", since runtime {self.runtime} reads no files, found {self.make!r}'
        elif self.make != NOT_BUILT and file_of(self.module) is None:
            yield f"make: there is no module {self.module}"
        elif self.runtime in RUNTIMES and RUNTIMES[self.runtime].files == NO_FILES and self.make != NOT_BUILT:
            yield f'make: expected "{NOT_BUILT}", since runtime {self.runtime} reads no files, found {self.make!r}'
        if not self.description.strip():
            yield "description: expected a sentence on what it does to a model"
        if not self.weights:
            yield f"weights: expected the element type of the weight matrices ({', '.join(WIDTHS)}, or another with its bits)"
        else:
            yield from self._lacks_of_width()
        if not self.fp32:
            yield f"fp32: expected the name of the recipe that makes fp32 for this runtime, such as fp32@{self.runtime}"
        yield from self._lacks_of_bounds()

    def _lacks_of_width(self) -> Iterator[str]:
        new = f"which qguard does not know of weights = {self.weights!r}"
        width = self.width
        if not width.bits > 0:
            yield f"bits: expected those of one weight, {new}"
        if not 0 <= width.least_cosine <= 1:
            yield f"least_cosine: expected the least mean cosine to fp32 that rounding explains, {new}"
        if not width.weight_error > 0:
            yield f"weight_error: expected the largest relative error of a matrix that rounding explains, {new}"

    def _lacks_of_bounds(self) -> Iterator[str]:
        without = [f for f in ACCURACY if not any(key.startswith(f"{f}.") for key in self.bounds)]
        if without:
            yield f"bounds: expected a bound in each family of accuracy, found none in {', '.join(without)}"
        try:
            for key, bound in self.bounds.items():
                Bound.of(bound, key)
                if (metric := key.partition("[")[0]) not in metric_names():
                    raise unknown("gate", metric, metric_names())
            if self.speedup is not None:
                Bound.of(self.speedup, "latency.speedup")
        except UsageProblem as e:
            yield f"bounds: {e}"


class Recipes(Registry[Recipe]):
    """The registry of recipes: each must find its fp32 in it, and those of one runtime the same."""

    def _loaded(self) -> dict[str, Recipe]:
        if self._parts is not None:
            return self._parts
        parts = super()._loaded()
        try:
            for recipe in parts.values():
                if problem := _fp32_of_all(recipe, parts):
                    raise RegistryProblem(f"recipe {recipe.name!r} ({recipe.make}) is not complete: fp32: {problem}")
        except RegistryProblem:
            self._parts = None  # whoever asks next is told as well
            raise
        return parts


def _fp32_of_all(recipe: Recipe, parts: Mapping[str, Recipe]) -> str:
    source = parts.get(recipe.fp32)
    if source is None or source.weights != "F32":
        known = ", ".join(r.name for r in parts.values() if r.weights == "F32")
        return f"expected a recipe of weights F32, found {recipe.fp32!r}; known: {known}"
    by = RUNTIMES[source.runtime]
    if by.files == NO_FILES or by.takes == TEXTS:  # it is computed beside the candidate, from the model's files and token ids
        return f"expected a recipe of a runtime that takes token ids and reads files, such as fp32@onnx, found {recipe.fp32!r}"
    first = next(r for r in parts.values() if r.runtime == recipe.runtime)
    if first.fp32 != recipe.fp32:
        return f"expected {first.fp32}, which {first.name} has, found {recipe.fp32}: a runtime has one fp32"
    return ""


def _own() -> tuple[Recipe, ...]:
    # by name: bounds are data, and no code that a recipe imports
    return tuple(import_module("qguard.precisions.own").RECIPES)


RECIPES = Recipes("recipe", "qguard.recipes", Recipe, _own)


def default_runtime(precision: str) -> str | None:
    """The runtime of a precision that names none: that of its first recipe; ``None`` for an unknown precision."""
    return next((r.runtime for r in RECIPES.values() if r.precision == precision), None)


def fp32_recipe(runtime: str) -> Recipe:
    """The recipe that makes fp32 for a runtime.

    Raises:
        UsageProblem: where no recipe is registered for it.
    """
    found = next((r.fp32 for r in RECIPES.values() if r.runtime == runtime), f"fp32@{runtime}")
    return RECIPES.find(found)
