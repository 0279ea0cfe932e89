"""Recipes: the registry of precisions, each on one runtime.

Another package registers its own under the entry-point group ``qguard.recipes``, as one :class:`Recipe` or a list of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from importlib import import_module
from typing import Any, NamedTuple

from qguard.encoders.runtimes import ENDPOINT, NO_FILES, RUNTIMES, TEXTS
from qguard.errors import RegistryProblem, UsageProblem, unknown
from qguard.families import metric_names
from qguard.metrics.bounds import Bound
from qguard.precisions.code import file_of
from qguard.registry import Registry, function_of, is_function


class Width(NamedTuple):
    """The losses that an element type of weights explains. :class:`Recipe` has fields of the same names."""

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
    # of llama.cpp, by its names: blocks of 16 or 32 values have a scale each
    "Q8_0": Width(8, 0.99, 0.02),
    "Q6_K": Width(6, 0.97, 0.04),
    "Q5_0": Width(5, 0.95, 0.08),
    "Q4_K": Width(4, 0.9, 0.15),
    "Q4_0": Width(4, 0.85, 0.15),
}
UNKNOWN = Width(0, math.nan, math.nan)
# The value of ``make`` if qguard builds nothing: the runtime keeps the model, or --artifact gives another tool's files
NOT_BUILT = "not built"
# Without a bound in one of these families a precision would pass whatever its vectors are
ACCURACY = ("embedding", "similarity", "ranking")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Recipe:
    """How a precision is produced on one runtime, what its files must hold, and how its vectors are judged.

    Attributes:
        precision: Its name, such as ``int8``. A precision that is registered for several runtimes runs in the first of them
            if no runtime is named.
        runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        make: The function that builds the artifact, as ``module:function``, or :data:`NOT_BUILT`. It takes the model and the
            artifact folder to fill. With ``from_fp32`` it also takes the fp32 artifact, with ``calibrated`` the calibration
            sample. The module is imported when it is needed.
        of_table: The same for a static model, whose weights are one embedding table: it takes the model and the folder to
            fill, and nothing else. Empty if the recipe is for multiplications alone.
        description: What it does to a model, in one sentence.
        weights: Element type of the weight matrices, by its safetensors name: ``F32 F16 BF16 I8 I4``. For another type, also
            set ``bits``, ``least_cosine`` and ``weight_error``. Names of integer types begin with ``I``, ``U`` or ``Q``.
        mixture: Of a GGUF file, the name of llama.cpp's mixture of types that it must hold, in
            :data:`qguard.gguf.mixture.MIXTURES`: the type of each tensor is then what llama.cpp's own quantizer chooses for it.
        fp32: Name of the recipe that makes fp32 for this runtime. The candidate is timed and diagnosed against it.
        bounds: The default gates, as they are written in ``[tool.qguard.gates]``: key → bound. Each family in
            :data:`ACCURACY` needs at least one. They are those of all-MiniLM-L6-v2; another model's golden moves them.
        speedup: The default bound on ``latency.speedup``, such as ``>= 1``; ``None`` promises nothing.
        bits: Bits of one weight. qguard knows this and the next two values for the types named above.
        least_cosine: The smallest mean cosine to fp32, in [0, 1], that rounding to this type explains. qguard attributes a
            failure below it to another model or pooling.
        weight_error: The largest relative error of a weight matrix (Frobenius norm) that rounding to this type explains.
        integer: Whether the file multiplies integers, so that activations are quantized as well as weights. Without it, ``I8``
            and ``I4`` are weight-only: the file stores integers and multiplies floats, or leaves activations to the runtime.
        granularity: Scales of a quantized weight matrix: ``per-tensor``, ``per-channel`` (one per output channel), or the
            number of inputs that share a scale; ``None`` if nothing is promised.
        tables: Element type of word embedding tables, if it differs from ``weights``.
        excluded: What the recipe deliberately leaves in float: parts that the files show by what they compute
            (:data:`qguard.artifacts.layers.PLACES`, ``OUTLIERS``, ``TABLES``), or ``fnmatch`` patterns of names.
        from_fp32: Whether ``make`` also takes the artifact that the recipe ``fp32`` makes of the model.
        copies: Name of a recipe whose artifact ``make`` takes instead of all else, to lay out the same files in another way.
        calibrated: Whether activation ranges or the rounding of weights come from texts. ``make`` then also takes a
            :class:`~qguard.precisions.calibration.Sample`.
        tunable: Whether ``make`` also takes ``tuning``, a :class:`~qguard.precisions.tuning.Tuning`.
        packages: Distributions whose versions decide the bytes.
        tied: Whether it can store weights that two layers share, as the decoder and the table of words of a sparse model do.
    """

    precision: str
    runtime: str
    _: KW_ONLY
    make: str = ""
    of_table: str = ""
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
    mixture: str = ""
    tables: str | None = None
    excluded: tuple[str, ...] = ()
    from_fp32: bool = False
    copies: str = ""
    calibrated: bool = False
    tunable: bool = False
    packages: tuple[str, ...] = ("torch", "transformers", "onnx", "onnxruntime", "safetensors")
    tied: bool = True

    @property
    def name(self) -> str:
        """``PRECISION@RUNTIME``, its name in :data:`RECIPES`."""
        return f"{self.precision}@{self.runtime}"

    @property
    def width(self) -> Width:
        """The values that the record gives for its element type; :data:`WIDTHS` fills in the rest."""
        given = {n: v for n in Width._fields if (v := getattr(self, n)) is not None}
        return WIDTHS.get(self.weights, UNKNOWN)._replace(**given)

    @property
    def module(self) -> str:
        """The module of ``make``."""
        return self.make.partition(":")[0]

    def for_tables(self) -> Recipe:
        """The recipe of the same precision for static models, which needs neither fp32 nor texts.

        Raises:
            UsageProblem: where it has none, with those that have one.
        """
        if self.make == NOT_BUILT or self.of_table:
            return replace(self, make=self.of_table or self.make, from_fp32=False, calibrated=False, speedup=None)
        others = ", ".join(r.name for r in RECIPES.values() if r.of_table)
        raise UsageProblem(
            f"{self.name} is made of multiplications with weights, and a static model has none: it is one embedding table. "
            f"Take one of {others}"
        )

    def function(self) -> Any:
        """The function that ``make`` names."""
        return function_of(self.make)

    @property
    def stores_integers(self) -> bool:
        """Whether its weights are stored as integers."""
        return self.weights.startswith(("I", "U", "Q"))

    def lacks(self) -> Iterator[str]:
        """Required fields that are missing or invalid; see :class:`qguard.registry.Record`."""
        if not _NAME.fullmatch(self.precision) or self.precision == "all":
            yield f"precision: expected letters, digits and hyphens, found {self.precision!r}"
        if self.runtime not in RUNTIMES:
            yield f"runtime: expected one of {', '.join(RUNTIMES)}, found {self.runtime!r}"
        if self.make != NOT_BUILT and not is_function(self.make):
            yield f'make: expected "module:function", or "{NOT_BUILT}" where qguard builds nothing, found {self.make!r}'
        elif self.runtime in RUNTIMES and RUNTIMES[self.runtime].files == NO_FILES and self.make != NOT_BUILT:
            yield f'make: expected "{NOT_BUILT}", since runtime {self.runtime} reads no files, found {self.make!r}'
        elif self.make != NOT_BUILT and file_of(self.module) is None:
            yield f"make: there is no module {self.module}"
        if self.of_table and (not is_function(self.of_table) or file_of(self.of_table.partition(":")[0]) is None):
            yield f'of_table: expected "module:function", or nothing, found {self.of_table!r}'
        if not self.description.strip():
            yield "description: expected a sentence on what it does to a model"
        if not self.weights:
            yield f"weights: expected the element type of the weight matrices ({', '.join(WIDTHS)}, or another with its bits)"
        else:
            yield from self._lacks_of_width()
        if not self.fp32:
            yield f"fp32: expected the name of the recipe that makes fp32 for this runtime, such as fp32@{self.runtime}"
        if self.copies and self.from_fp32:
            yield "from_fp32: a recipe that copies another one takes nothing but its artifact; expected False"
        yield from self._lacks_of_bounds()

    def _lacks_of_width(self) -> Iterator[str]:
        new = f"because qguard does not know weights = {self.weights!r}"
        width = self.width
        if not width.bits > 0:
            yield f"bits: expected the bits of one weight, {new}"
        if not 0 <= width.least_cosine <= 1:
            yield f"least_cosine: expected the smallest mean cosine to fp32 that rounding explains, {new}"
        if not width.weight_error > 0:
            yield f"weight_error: expected the largest relative error of a matrix that rounding explains, {new}"

    def _lacks_of_bounds(self) -> Iterator[str]:
        without = [f for f in ACCURACY if not any(key.startswith(f"{f}.") for key in self.bounds)]
        if without:
            yield f"bounds: expected a bound in each accuracy family, found none in {', '.join(without)}"
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
    """The registry of recipes. It must hold the fp32 of each recipe, and recipes of one runtime must share one fp32."""

    def check(self, parts: Mapping[str, Recipe]) -> None:
        """See :class:`Recipes`."""
        for recipe in parts.values():
            if problem := _fp32_of_all(recipe, parts):
                raise RegistryProblem(f"recipe {recipe.name!r} ({recipe.make}) is not complete: fp32: {problem}")
            if recipe.copies and (recipe.copies not in parts or parts[recipe.copies].copies):
                raise RegistryProblem(
                    f"recipe {recipe.name!r} ({recipe.make}) is not complete: copies: expected a recipe that makes files itself, "
                    f"found {recipe.copies!r}"
                )


def _fp32_of_all(recipe: Recipe, parts: Mapping[str, Recipe]) -> str:
    source = parts.get(recipe.fp32)
    if source is None or source.weights != "F32":
        known = ", ".join(r.name for r in parts.values() if r.weights == "F32")
        return f"expected a recipe with weights F32, found {recipe.fp32!r}; known: {known}"
    by = RUNTIMES[source.runtime]
    if by.files == NO_FILES or by.takes == TEXTS:  # it is computed beside the candidate, from the model's files and token ids
        return f"expected a recipe whose runtime takes token ids and reads files, such as fp32@onnx, found {recipe.fp32!r}"
    first = next(r for r in parts.values() if r.runtime == recipe.runtime)
    if first.fp32 != recipe.fp32:
        return f"expected {first.fp32}, which {first.name} has, found {recipe.fp32}: a runtime has one fp32"
    return ""


def _own() -> tuple[Recipe, ...]:
    # by name: bounds are data, and no code that a recipe imports
    return tuple(import_module("qguard.precisions.own").RECIPES)


RECIPES = Recipes("recipe", "qguard.recipes", Recipe, _own)


def default_runtime(precision: str) -> str | None:
    """The runtime of a precision that names none: the runtime of its first recipe; ``None`` for an unknown precision."""
    return next((r.runtime for r in RECIPES.values() if r.precision == precision), None)


def served(base: str) -> Recipe:
    """What is expected of a server: to compute as a precision does, and to be judged by its bounds. Nothing is built.

    Args:
        base: That precision, ``NAME[@RUNTIME]``.

    Raises:
        UsageProblem: for a precision that nobody registered.
    """
    name, _, runtime = base.partition("@")
    known = RECIPES.find(f"{name}@{runtime or default_runtime(name)}")
    return replace(
        known, runtime=ENDPOINT, make=NOT_BUILT, of_table="", description=f"What a server keeps, judged as {base}.",
        fp32=_OF_ENDPOINTS, speedup=None, granularity=None, excluded=(), from_fp32=False, calibrated=False,
    )  # fmt: skip


_OF_ENDPOINTS = "fp32@onnx"  # computed here, beside what a server answers


def fp32_recipe(runtime: str) -> Recipe:
    """The recipe that makes fp32 for a runtime.

    Raises:
        UsageProblem: if no recipe is registered for it.
    """
    if runtime == ENDPOINT:
        return RECIPES.find(_OF_ENDPOINTS)
    found = next((r.fp32 for r in RECIPES.values() if r.runtime == runtime), f"fp32@{runtime}")
    return RECIPES.find(found)
