"""Diagnosis: where an artifact loses what its gates miss. First the stage, then the layer, then which layers to exclude.

``names``, ``opened`` and ``sites`` find what the artifact and the fp32 export both compute; ``stages``, ``activations`` and
``exclusion`` measure; ``report`` says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qguard.errors import UsageProblem
from qguard.kinds import DENSE, KINDS

if TYPE_CHECKING:
    from qguard.diagnosis.activations import LayerError
    from qguard.diagnosis.exclusion import Exclusion
    from qguard.diagnosis.stages import Stage
    from qguard.judging.session import Session, Target
    from qguard.precisions import Precision

TEXTS = 64


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        precision, model, suite: What was diagnosed.
        texts: How many texts of the suite layers and costs were measured on.
        failing: Gates that do not hold, in words; empty where none was judged.
        stages: In the order of the pipeline.
        layers: That furthest beyond what its element type explains first; empty where layers could not be aligned.
        exclusion: What leaving layers in fp32 gives; ``None`` where it was not tried.
        notes: What could not be done, and why.
        conclusion: One paragraph that begins with the answer.
        fault: A stage is wrong, a layer is damaged, or a gate does not hold.
    """

    precision: str
    model: str
    suite: str
    texts: int
    failing: tuple[str, ...]
    stages: tuple[Stage, ...]
    layers: tuple[LayerError, ...]
    exclusion: Exclusion | None
    notes: tuple[str, ...]
    conclusion: str
    fault: bool


def diagnosable(precision: Precision) -> bool:
    """Whether ``qguard diagnose`` can open what this precision deploys: an ONNX file that ONNX Runtime runs."""
    return precision.runtime == "onnx" and precision == precision.plain and precision.base != "fp32"


def command(session: Session, target: Target) -> str:
    """``qguard diagnose`` for a target that failed a gate; empty where it cannot open the artifact."""
    if not diagnosable(target.precision) or session.kind(target.model) != DENSE:
        return ""
    if session.artifact(target.precision, target.model).file is None:
        return ""
    given = f" --artifact {session.artifact_path}" if session.artifact_path else ""
    # what the configuration leaves no choice of need not be said: the command stays on one line of a terminal
    model = f" --model {target.model}" if len(session.config.models) > 1 else ""
    suite = f" --suite {target.suite}" if len(session.config.suites) > 1 else ""
    return f"qguard diagnose --precision {target.precision}{given}{model}{suite}"


def refuse(precision: Precision, session: Session) -> None:
    """Say what can be diagnosed.

    Raises:
        UsageProblem: for a precision that cannot, or a model of ``session`` that gives something else than one vector a text.
    """
    for model in session.config.models:
        if (kind := session.kind(model)) != DENSE:
            raise UsageProblem(
                f"a diagnosis follows one vector a text through the layers, and model {model!r} gives {KINDS[kind].gives}. What "
                f"its files compute is proved by the family artifact: pytest --precision {precision}"
            )
    if diagnosable(precision):
        return
    from qguard.precisions import known

    supported = sorted(known(lambda r: r.runtime == "onnx" and r.precision != "fp32"))
    if precision != precision.plain:
        why = f"vectors are quantized or cut after the model ran; diagnose the model with --precision {precision.plain}"
    elif precision.base == "fp32":
        why = "nothing in it is quantized; compare two fp32 runs with: qguard golden check"
    else:
        why = f"it runs in {precision.runtime}, and layers are read from ONNX files that ONNX Runtime runs"
    raise UsageProblem(
        f"{precision} cannot be diagnosed: {why}. Supported: {', '.join(supported)}; --artifact: any ONNX file of these"
    )
