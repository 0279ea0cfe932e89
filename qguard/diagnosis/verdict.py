"""The verdict: what the measurements of a diagnosis say, in words that begin with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from qguard.artifacts.artifact import Artifact
from qguard.artifacts.layers import LOOKUP, PER_TENSOR, read_layers
from qguard.diagnosis.activations import LayerError
from qguard.diagnosis.exclusion import Exclusion
from qguard.diagnosis.sites import ACTIVATION, ATTENTION, BIAS, LINEAR, NORM
from qguard.diagnosis.stages import HIDDEN, TOKENS, Stage
from qguard.gates.check import Check
from qguard.judging.cause import ELSEWHERE, Facts, as_facts, how_far, reasons
from qguard.judging.rounding import Findings
from qguard.precisions import Recipe
from qguard.precisions.recipe import WIDTHS
from qguard.report.advice import CHECK

# A layer's own error that its element type explains, on real activations. MiniLM's int8 layers come to 0.005 to 0.04
EXPLAINED = {"I8": 0.08, "I4": 0.3, "F16": 0.005, "BF16": 0.02}
# what a file does not quantize computes what fp32 computes
EXACT = 0.01
FAR = 5.0  # times the median of linear layers: a per-tensor file has a large error in all of them
_WHY = {
    "artifact.granularity": "this is a property of the file, which no exclusion changes: quantize again, per channel",
    "artifact.weight_error": "every layer with one scale per tensor has weights far from fp32's: quantize again, per channel",
    "artifact.quantized_ops": "excluded layers are float: state how many you accept as this gate's bound",
    "artifact.quantized_bytes": "excluded layers are float: state how many you accept as this gate's bound",
    "artifact.size_ratio": "excluded layers make the file larger: state the size that you accept as this gate's bound",
    "invariance": "activation ranges come from the batch, which excluding layers does not change: calibrate fixed ranges",
}


def obstacle(check: Check) -> str:
    """A gate on the file or on invariance that does not hold, and what stands behind it."""
    why = next((words for name, words in _WHY.items() if check.name.startswith(name)), "")
    return f"{check.label} {check.judged:.4f}, gate {check.bound}" + (f" ({why})" if why else "")


def excess(error: LayerError, recipe: Recipe) -> float:
    """A layer's own error over what its element type explains; what is not quantized has none to explain."""
    exact = error.kind in (BIAS, NORM, ATTENTION, ACTIVATION)
    return error.own / (EXACT if exact else _explained(recipe))


def _explained(recipe: Recipe) -> float:
    """Of a type that another package brings, at least what rounding does to the weights alone."""
    return EXPLAINED.get(recipe.weights, EXACT) if recipe.weights in WIDTHS else max(EXACT, recipe.width.weight_error)


def ranked(layers: Sequence[LayerError], recipe: Recipe) -> list[LayerError]:
    """The layers, the one that is furthest beyond what its element type explains first."""
    return sorted(layers, key=lambda x: -excess(x, recipe))


def damaged(layers: Sequence[LayerError], recipe: Recipe) -> list[LayerError]:
    """Layers whose own error is more than their element type explains, and far more than most others have, the worst first."""
    usual = FAR * median([x.own for x in layers if x.kind == LINEAR] or [0.0])
    beyond = [x for x in ranked(layers, recipe) if excess(x, recipe) > 1]
    return [x for x in beyond if x.kind != LINEAR or x.own > usual]


def named(error: LayerError) -> str:
    """A layer and the part of it that holds the error."""
    return f"{error.layer}{f' ({error.part})' if error.part else ''}"


def conclude(
    stages: Sequence[Stage],
    layers: Sequence[LayerError],
    failing: Sequence[str],
    exclusion: Exclusion | None,
    recipe: Recipe,
    artifact: Artifact,
    *,
    judged: bool,
    far: Facts | None = None,
    proof: Findings | None = None,
) -> tuple[str, bool]:
    """The conclusion, and whether anything is wrong; ``far`` as of :func:`qguard.judging.cause.too_far`."""
    if wrong := [s for s in stages if s.fault]:
        first = wrong[0]
        return f"It is the {first.name}: {first.words}. Excluding layers would not help; fix this first.", True
    if far:
        words = "No stage by itself explains it" if stages else "No stage could be compared"
        if proof is not None and (told := reasons(as_facts(proof))):
            words = f"{told[0][0].upper()}{told[0][1:]}"
        return f"{ELSEWHERE[0].upper()}{ELSEWHERE[1:]}: {how_far(far)}. {words}. {CHECK}.", True
    bad = damaged(layers, recipe)
    if proof is not None and proof.elsewhere and not bad and (told := reasons(as_facts(proof))):
        return f"{ELSEWHERE[0].upper()}{ELSEWHERE[1:]}: {'; '.join(told)}. {CHECK}.", True
    worst = f"largest own error: {named(layers[0])}, {layers[0].own:.1%}" if layers else "layers could not be compared"
    if bad and len(bad) <= max(2, len(layers) // 8):
        what = ", ".join(named(x) for x in bad[:3])
        worst = f"{what}: more than rounding explains ({bad[0].own:.1%} of its own). Compare its weights and scales with fp32's"
    if exclusion is None or not exclusion.chosen:
        if not failing:
            whole = stages and all(s.value is not None for s in stages if s.name in (TOKENS, HIDDEN))
            held = "All gates hold" if judged else "No stage is wrong" if whole else "Not every stage could be compared"
            return f"{held}; {worst}.", bool(bad) and len(bad) <= 2
        if exclusion is not None:
            source = _source(artifact) if proof is not None and proof.rounding else "The cause is not proved"
            return (
                f"No exclusion helps: gates still fail with every layer in fp32. {source[0].upper()}{source[1:]}; {worst}.",
                True,
            )
        accuracy = "" if judged else "The gates were not judged. "
        return (
            f"{accuracy}No layer's loss of accuracy causes the failures: {'; '.join(failing)}. {worst[0].upper()}{worst[1:]}.",
            True,
        )
    chosen, all_units = exclusion.chosen, exclusion.costs
    words = f"Excluding {len(chosen)} of {len(all_units)} layers makes the accuracy gates pass; {worst}."
    if len(chosen) > len(all_units) / 2:
        words += f" With so many layers, no single one is at fault: {_source(artifact)}."
    return words, True


def _source(artifact: Artifact) -> str:
    """What loses accuracy everywhere in a file, as its layers say."""
    layers = [x for x in read_layers(artifact).layers if x.computes != LOOKUP and x.quantized]
    if any(x.granularity == PER_TENSOR for x in layers):
        return "weights have one scale per tensor: quantize per channel"
    if any(x.activations.startswith("dynamic") for x in layers):
        return "activation ranges come from the batch: a static recipe fixes them"
    if any(x.activations == "static" for x in layers):
        return "check the calibration: it needs enough texts, similar to those of the suite"
    return f"weights of {layers[0].bits if layers else 8} bits are too coarse for these gates"
