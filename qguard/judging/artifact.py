"""Checks that the artifact is what its recipe says. Everything is counted in its own files, and no name is trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from qguard.artifacts.artifact import Artifact
from qguard.artifacts.layers import INTEGER_BITS, LOOKUP, PER_TENSOR, Contents, Layer, read_layers
from qguard.encoders.runtimes import GGUF
from qguard.errors import ArtifactProblem
from qguard.gguf.mixture import Matrix, types_of
from qguard.gguf.read import read_gguf
from qguard.judging import outputs
from qguard.judging.session import Session, Target
from qguard.machine.cpu import saturates
from qguard.metrics import Measured
from qguard.metrics.bounds import Bound
from qguard.models.model import Model
from qguard.models.pipeline import tokenizer_file
from qguard.precisions import Recipe
from qguard.precisions.recipe import WIDTHS

# What every recipe's files must hold, whatever its precision is called; a project's own gate replaces a bound.
BOUNDS = {
    "artifact.quantized_ops": Bound(">=", 1),  # with one layer left in float, the file does not have the promised precision
    "artifact.quantized_bytes": Bound(">=", 0.99),  # a small table that no quantizer knows may stay float
    "artifact.granularity": Bound(">=", 1),  # per-channel that became per-tensor costs MiniLM one neighbor in ten
    "artifact.nonfinite": Bound("<=", 0),
    "artifact.wrong_rows": Bound("<=", 0),  # one row is one word, which no text of a suite may hold
}
# Largest relative error of a weight matrix of other bits than the recipe's, and of one scale a tensor
ERROR_BOUND = {width.bits: width.weight_error for name, width in WIDTHS.items() if not name.startswith("Q")}
PER_TENSOR_ERROR = 0.5
# Activations of encoders stay within some hundreds; masks fill with -10000 or -3.4e38
WIDEST = 5000.0
_SHOWN = 5
OPSET = "artifact.opset"


def of_target(session: Session, target: Target) -> list[Measured]:
    """The values of a target's artifact, whose calibration texts are not those that judge it; see :func:`measure_artifact`,
    :func:`qguard.judging.overflow.of_target` and :func:`qguard.judging.outputs.of_target`.
    """
    from qguard.judging.overflow import of_target as overflow

    session.refuse_overlap(target.precision, target.model, target.suite)
    artifact = session.artifact(target.precision, target.model)
    runtime = artifact.runtime(target.precision.runtime)
    held = measure_artifact(artifact, session.model(target.model), target.precision.recipe, runtime)
    if any(m.name == OPSET and m.bound is not None and not m.bound.holds(m.value) for m in held):
        return held  # ONNX Runtime loads no such file, and the opset is the reason
    return [
        *held,
        *overflow(session, target),
        *outputs.of_target(session, target),
    ]


def measure_artifact(artifact: Artifact, model: Model, recipe: Recipe, runtime: str = "onnx") -> list[Measured]:
    """What the files hold against what the recipe promises; shares are in [0, 1].

    ``artifact.quantized_ops``: weight multiplications in the promised precision. ``artifact.quantized_bytes``: bytes of
    matrices in the promised element type, embedding tables counted. ``artifact.granularity``: quantized multiplications
    with scales as fine as promised. ``artifact.nonfinite``: stored numbers that are NaN or infinite.
    ``artifact.wrong_rows``: rows of embedding tables that are not the model's. ``artifact.weight_error``: the largest relative
    error of a matrix.
    ``artifact.activation_range``: the widest stored range of an activation; a mask's sentinel in it leaves no step for values.
    ``artifact.opset``: the declared version of ONNX's operators. ``artifact.saturation``: output channels whose products
    can overflow on x86 without VNNI, gated only on such a CPU, and only where the artifact does not declare the session option
    that avoids it. ``artifact.size_ratio``: bytes over :attr:`qguard.models.model.Model.fp32_bytes`.

    In OpenVINO what is computed depends on the file's weights and on the properties that the artifact declares.
    Layers that the recipe excludes count for none of these but the last. A static model has no multiplications: there, all of
    this is of its embedding table, whose rows are the output channels.

    Raises:
        ArtifactProblem: when no weight multiplication is found beyond the excluded ones.
    """
    contents, mixed = read_layers(artifact), _mixed(artifact, recipe)
    layers = [_run_in(runtime, x, artifact, recipe) for x in contents.layers if not _excluded(x, recipe)]
    # of a static model the table is all that there is
    multiplied = [x for x in layers if x.computes != LOOKUP or model.static]
    if not multiplied:
        what = f" besides those that the recipe excludes ({', '.join(recipe.excluded)})" if recipe.excluded else ""
        raise ArtifactProblem(f"the artifact holds no weight multiplication that qguard knows{what}")
    wrong = [x for x in multiplied if not _as_promised(x, recipe, mixed)]
    promise = ("" if recipe.integer else "weight-only " if recipe.stores_integers else "") + recipe.weights
    found = [
        _share("artifact.quantized_ops", multiplied, wrong, lambda x: f"{_words(x)}, not {mixed.get(x.weight, promise)}"),
        _bytes(layers, recipe, len(contents.layers) - len(layers), mixed),
        *_opset(contents, recipe),  # before what it explains
    ]
    quantized = [x for x in multiplied if x.quantized]
    if recipe.granularity is not None and quantized:
        coarse = [x for x in quantized if not x.fine_enough(recipe.granularity)]
        scheme = f"block {recipe.granularity}" if isinstance(recipe.granularity, int) else recipe.granularity

        def words(x: Layer) -> str:
            return f"{x.name}: {x.granularity or 'no scale found'}, not {scheme}"

        found.append(_share("artifact.granularity", quantized, coarse, words))
    found += [_numbers(artifact), _rows(artifact, model, recipe.width.weight_error if recipe.stores_integers else 0.0)]
    found += [
        *_errors(multiplied, model, recipe, _vectors(artifact, model)),
        *_ranges(contents),
        *_saturation(multiplied, artifact),
    ]
    return [*found, Measured("artifact.size_ratio", None, artifact.bytes / model.fp32_bytes, 1, False)]


def damage(artifact: Artifact, model: Model) -> list[str]:
    """Stored numbers that no rounding makes of the model's, in words: tables, matrices, and what is no number."""
    from qguard.artifacts.layers.weights import matrices, weight_errors

    *_, found = stored_faults(artifact, model)
    layers = [x for x in read_layers(artifact).layers if x.computes != LOOKUP]
    for layer, error in [*weight_errors(layers, matrices(model.weight_files)), *_vectors(artifact, model)]:
        coarse = layer.quantized and layer.granularity == PER_TENSOR
        known = WIDTHS[layer.element].weight_error if layer.element in WIDTHS else ERROR_BOUND.get(layer.bits, 0.01)
        if error > (PER_TENSOR_ERROR if coarse else known):
            found.append(f"{layer.name}: its weights differ by {error:.1%} from fp32's, more than rounding explains")
    return found


def _vectors(artifact: Artifact, model: Model) -> list[tuple[Layer, float]]:
    """Biases and norms of a GGUF file, which it names, and their errors."""
    if artifact.kind != GGUF or artifact.file is None:
        return []
    from qguard.precisions.gguf import vector_errors

    found = vector_errors(artifact.file, model)
    return [(Layer(name, (name,), "", name, "F32", 32, "", "float", "", 0), error) for name, error in found]


def stored_faults(artifact: Artifact, model: Model) -> tuple[int, int, list[str]]:
    """How many rows of tables and stored numbers are wrong, how many rows were compared, and which in words."""
    numbers, rows = _numbers(artifact), _rows(artifact, model, 0.0)
    return int(numbers.value + rows.value), rows.items, [line for m in (numbers, rows) if m.value for line in m.worst]


def summary(artifact: Artifact) -> str:
    """One line on what the file computes, for a failure of accuracy: ``24 x I8 per-channel integer with static activations``."""
    layers = read_layers(artifact).layers
    multiplied = [x for x in layers if x.computes != LOOKUP] or layers
    forms = Counter(
        " ".join(filter(None, (x.element, x.granularity, x.computes, x.activations and f"with {x.activations} activations")))
        for x in multiplied
    )
    words = "; ".join(f"{n} x {form}" for form, n in forms.most_common())
    if used := artifact.calibration:  # ranges are as good as the texts that they were taken from
        words += f", calibrated on {used['samples']} texts of {used['source']!r}"
    return words


def _run_in(runtime: str, layer: Layer, artifact: Artifact, recipe: Recipe) -> Layer:
    """The layer as a runtime computes it: OpenVINO quantizes activations of dequantized weights, and rounds to bf16, if told."""
    if runtime != "openvino" or artifact.onnx is None or layer.computes != "float":
        return layer
    from qguard.encoders.openvino import GROUP, PRECISION, properties_of

    properties = properties_of(artifact.onnx, {"BF16": "bf16", "F32": "fp32"}.get(recipe.weights, "int8"))
    if layer.quantized:
        return replace(layer, computes="integer" if properties.get(GROUP) else "float")
    rounded = properties[PRECISION] == "bf16"
    return layer if rounded == (recipe.weights == "BF16") else replace(layer, computes="bf16" if rounded else "fp32")


def _mixed(artifact: Artifact, recipe: Recipe) -> Mapping[str, str]:
    """The type that llama.cpp's quantizer gives each tensor of a GGUF file under the recipe's name; empty for other files."""
    if artifact.kind != GGUF or artifact.file is None or not recipe.mixture:
        return {}
    file = read_gguf(artifact.file)
    return types_of(recipe.mixture, (Matrix(t.name, t.shape) for t in file.tensors.values()), file.number("block_count"))


def _excluded(layer: Layer, recipe: Recipe) -> bool:
    return layer.part in recipe.excluded or any(fnmatchcase(name, pattern) for pattern in recipe.excluded for name in layer.names)


def _as_promised(layer: Layer, recipe: Recipe, mixed: Mapping[str, str]) -> bool:
    """An integer recipe promises integer arithmetic; a weight-only one promises the stored type and float activations; one of
    llama.cpp's mixtures the type that it has for the tensor, which decides what is computed.
    """
    if layer.weight in mixed:
        return layer.element == mixed[layer.weight]
    whole = layer.bits == recipe.width.bits and not layer.element.startswith("F8")
    right = whole if recipe.stores_integers else _holds(layer, recipe)
    if layer.computes == LOOKUP:
        return right
    if recipe.integer:
        return right and layer.computes in ("integer", "")
    return right and (layer.computes in ("float", "") or layer.operator == "MatMulNBits")


def _holds(layer: Layer, recipe: Recipe) -> bool:
    """Whether a tensor is stored in the promised type; integers of another width than ONNX's are packed in those that it has."""
    packed = recipe.stores_integers and recipe.weights not in INTEGER_BITS
    return layer.bits == recipe.width.bits and layer.element in INTEGER_BITS if packed else layer.holds(recipe.weights)


def _most(layer: Layer, recipe: Recipe) -> float:
    """The error of a matrix that rounding to its own bits explains."""
    if layer.bits == recipe.width.bits:
        return recipe.width.weight_error
    return WIDTHS[layer.element].weight_error if layer.element in WIDTHS else ERROR_BOUND.get(layer.bits, 0.01)


def _words(layer: Layer) -> str:
    how = f" computes in {layer.computes}" if layer.computes else ""
    return f"{layer.name}: {layer.operator or 'tensor'}{how} with {layer.element} weights"


def _share(name: str, of: Sequence[Layer], wrong: Sequence[Layer], words: Callable[[Layer], str]) -> Measured:
    shown = _and_more([words(x) for x in wrong[:_SHOWN]], len(wrong))
    return Measured(name, None, 1 - len(wrong) / len(of), len(of), True, shown, BOUNDS[name])


def _bytes(layers: Sequence[Layer], recipe: Recipe, excluded: int, mixed: Mapping[str, str]) -> Measured:
    sizes = {x.weight: x for x in layers}  # a table may serve two layers

    def promised(x: Layer) -> str:
        if x.weight in mixed:
            return mixed[x.weight]
        return recipe.tables or recipe.weights if x.computes == LOOKUP else recipe.weights

    def right(x: Layer) -> bool:
        if x.weight in mixed:
            return x.element == mixed[x.weight]
        return x.holds(recipe.tables) if recipe.tables and x.computes == LOOKUP else _holds(x, recipe)

    wrong = sorted((x for x in sizes.values() if not right(x)), key=lambda x: -x.bytes)
    total = sum(x.bytes for x in sizes.values())
    shown = [f"{x.name}: {x.bytes / 1e6:.2f} MB of {x.element}, not {promised(x)}" for x in wrong[:_SHOWN]]
    shown += [f"{excluded} layers are excluded by the recipe: {', '.join(recipe.excluded)}"] if excluded else []
    name = "artifact.quantized_bytes"
    return Measured(name, None, 1 - sum(x.bytes for x in wrong) / total, len(sizes), True, tuple(shown), BOUNDS[name])


def _numbers(artifact: Artifact) -> Measured:
    from qguard.artifacts.finite import unsound

    found, tensors = unsound(artifact)
    shown = [
        f"{x.name}: {x.values} values are NaN or infinite; the first is {x.what}, at {list(x.first)}; build the file again"
        for x in found[:_SHOWN]
    ]
    name = "artifact.nonfinite"
    return Measured(name, None, sum(x.values for x in found), tensors, False, _and_more(shown, len(found)), BOUNDS[name])


def _rows(artifact: Artifact, model: Model, tolerance: float) -> Measured:
    from qguard.artifacts.tables import read_tables
    from qguard.artifacts.tables.compare import wrong_rows

    tables = read_tables(artifact)
    compared = wrong_rows(tables, model, tolerance)
    name, token = "artifact.wrong_rows", _token_of(model)
    shown = [line for w in compared for line in w.lines(token)]
    wrong = sum(len(w.rows) for w in compared)
    if not any(w.table.by_token for w in compared):
        wrong, shown = wrong + 1, [*shown, "no embedding table was found in the file, so that its rows could not be compared"]
    return Measured(name, None, wrong, sum(w.of for w in compared), False, _and_more(shown[:_SHOWN], wrong), BOUNDS[name])


def _token_of(model: Model) -> Callable[[int], str]:
    """The token of an id; empty where the model has none."""

    @cache
    def tokenizer() -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(tokenizer_file(model.root)))

    return lambda row: tokenizer().id_to_token(row) or ""


def _and_more(shown: Sequence[str], of: int) -> tuple[str, ...]:
    return (*shown, f"and {of - len(shown)} more") if of > len(shown) else tuple(shown)


def _errors(layers: Sequence[Layer], model: Model, recipe: Recipe, vectors: Sequence[tuple[Layer, float]]) -> list[Measured]:
    from qguard.artifacts.layers.weights import matrices, weight_errors

    errors = [*weight_errors(layers, matrices(model.weight_files)), *vectors]
    if not errors:
        return []
    coarse = recipe.granularity == PER_TENSOR
    limits = [PER_TENSOR_ERROR if coarse and x.quantized else _most(x, recipe) for x, _ in errors]
    ranked = sorted(zip(errors, limits, strict=True), key=lambda p: -p[0][1] / p[1])
    (_, value), limit = ranked[0]  # the layer that is nearest to what its own bits explain
    shown = tuple(
        f"{x.name}: its weights differ by {e:.1%} from fp32's, more than rounding to {x.bits} bits explains"
        for (x, e), most in ranked[:_SHOWN]
        if e > most
    )
    return [Measured("artifact.weight_error", None, value, len(errors), False, shown, Bound("<=", limit))]


def _ranges(contents: Contents) -> list[Measured]:
    if not contents.ranges:
        return []
    wide = sorted((r for r in contents.ranges if r[1] > WIDEST), key=lambda r: -r[1])[:_SHOWN]
    why = "a mask's sentinel was calibrated with the values"
    shown = tuple(f"{name}: a range of {width:.3g} leaves few steps for the values; {why}" for name, width in wide)
    most = max(width for _, width in contents.ranges)
    return [Measured("artifact.activation_range", None, most, len(contents.ranges), False, shown, Bound("<=", WIDEST))]


def _opset(contents: Contents, recipe: Recipe) -> list[Measured]:
    if contents.opset is None:
        return []
    need = 0 if recipe.granularity in (None, PER_TENSOR) else contents.needs_opset
    shown: tuple[str, ...] = ()
    if contents.opset < need:
        what = "one scale per block of inputs" if need > 13 else "one scale per output channel"
        shown = (
            f"QuantizeLinear and DequantizeLinear support {what} from opset {need} on; before, one scale serves the whole tensor",
        )
    return [Measured(OPSET, None, contents.opset, 1, True, shown, Bound(">=", need) if need else None)]


def _saturation(layers: Sequence[Layer], artifact: Artifact) -> list[Measured]:
    from qguard.artifacts.layers.weights import overflowing
    from qguard.encoders.onnx import EXACT, OPTIONS_FILE, exact_products

    integer = [x for x in layers if x.computes == "integer" and x.quantized]
    if not integer:
        return []
    counts = [(x, overflowing(x.read()[0])) for x in integer if x.element == "I8" and x.operator != "MatMulNBits" and x.read]
    channels = sum(len(o) for _, o in counts)
    hit = sorted(((x, int(o.sum()), len(o)) for x, o in counts if o.any()), key=lambda h: -h[1] / h[2])
    shown = [f"{x.name}: {n} of {of} output channels can overflow" for x, n, of in hit[:_SHOWN]]
    exact = artifact.onnx is not None and exact_products(artifact.onnx)
    if hit:
        where = "such as this CPU" if saturates() else "this CPU has VNNI or is not x86"
        done = f"set here, as {OPTIONS_FILE} declares" if exact else f"declare it in {OPTIONS_FILE} beside the file"
        shown.append(
            f"x86 without VNNI ({where}) adds products of unsigned activations and signed weights in 16 bits that saturate. Run "
            f"ONNX Runtime there with the session option {EXACT}=1 (slower, exact; {done}), or quantize with reduce_range "
            "(7-bit weights) or unsigned weights"
        )
    value = sum(n for _, n, _ in hit) / channels if channels else 0.0
    bound = Bound("<=", 0) if saturates() and not exact else None
    return [Measured("artifact.saturation", None, value, channels, False, tuple(shown), bound)]
