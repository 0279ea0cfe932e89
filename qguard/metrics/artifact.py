"""Is the artifact what its precision says? Counted in its own files, never taken from a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qguard.artifact import Artifact
from qguard.errors import ArtifactProblem
from qguard.graph import read_graph
from qguard.metrics import Measured
from qguard.models import Model, safetensors_header
from qguard.precisions import Recipe

NAMES = ("artifact.quantized_ops", "artifact.size_ratio")
_INTEGER = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QAttention",
    "QLinearMatMul",
    "QGemm",
    "MatMulNBits",
}
_FLOAT = {"MatMul", "Gemm", "FusedMatMul", "Attention", "MultiHeadAttention"}
_SCALES = ("_scale", "_zero_point")  # as torchao names them
_SHAPING = ("Transpose", "Reshape", "Cast", "Identity")


def measure_artifact(artifact: Artifact, model: Model, recipe: Recipe, runtime: str = "onnx") -> list[Measured]:
    """``artifact.quantized_ops``: share of weight multiplications that run in the promised precision, in [0, 1].
    ``artifact.size_ratio``: bytes of the weights over those of the fp32 model.

    In OpenVINO what runs depends on the file's weights and on the properties that the artifact declares.

    Raises:
        ArtifactProblem: when no weight multiplication is found.
    """
    base = sum(p.stat().st_size for p in model.weight_files)
    share, layers, total = _torch(artifact, recipe) if artifact.file is None else _onnx(artifact, recipe, runtime)
    return [
        Measured(NAMES[0], None, share, total, True, tuple(layers[:5])),
        Measured(NAMES[1], None, artifact.bytes / base, 1, False),
    ]


def _torch(artifact: Artifact, recipe: Recipe) -> tuple[float, list[str], int]:
    wrong, total = [], 0
    for file in artifact.weight_files:
        header, _ = safetensors_header(file)
        weight_only = _weight_only(file)
        for name, info in header.items():
            # index buffers such as position_ids are no weights, nor are scales of channels
            if len(info["shape"]) < 2 or info["dtype"] in ("I64", "I32", "BOOL") or name.endswith(_SCALES):
                continue
            # tables are looked up, not multiplied: torch has no int8 kernel for them
            if recipe.weights == "I8" and "embed" in name:
                continue
            total += 1
            if info["dtype"] != recipe.weights:
                wrong.append(f"{name} is {info['dtype']}, not {recipe.weights}")
            elif recipe.integer and name in weight_only:
                wrong.append(f"{name} is multiplied in float: its activations are not quantized")
    if not total:
        raise ArtifactProblem("the artifact holds no weight matrix")
    return 1 - len(wrong) / total, wrong, total


def _weight_only(file: Path) -> set[str]:
    """Tensors of torchao whose layer does not quantize its activations, as the file's own description says."""
    from safetensors import safe_open

    with safe_open(file, "np") as f:
        metadata = f.metadata() or {}
    found = set()
    for name, text in metadata.items():
        try:
            kind = json.loads(text)
        except ValueError:
            continue  # other metadata is plain text
        if isinstance(kind, dict) and kind.get("_type") == "Int8Tensor":
            data = kind.get("_data")
            module, _, parameter = name.rpartition(".")
            if not (isinstance(data, dict) and data.get("act_quant_kwargs")):
                found.add(f"{module}._{parameter}_qdata")
    return found


def _onnx(artifact: Artifact, recipe: Recipe, runtime: str) -> tuple[float, list[str], int]:
    assert artifact.file is not None
    graph = read_graph(artifact.file).graph
    weights = {t.name: t for t in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    # an ONNX file in ONNX Runtime computes in float unless its operators are integer ones
    promised, turned = "integer" if recipe.integer else "float", {"dequantized": "float"}
    if runtime == "openvino":
        promised, turned = _openvino(artifact.file, recipe)
    right, wrong = 0, []
    for node in graph.node:
        kind = _kind(node, weights, made)
        if kind is None:
            continue
        kind = turned.get(kind, kind)
        if kind == promised:
            right += 1
        else:
            wrong.append(f"{node.op_type} {node.name or node.output[0]} computes in {kind}")
    if not right + len(wrong):
        raise ArtifactProblem(f"{artifact.file.name} holds no weight multiplication that is known to qguard")
    return right / (right + len(wrong)), wrong, right + len(wrong)


def _openvino(file: Path, recipe: Recipe) -> tuple[str, dict[str, str]]:
    """The promised kind, and what OpenVINO makes of the file's kinds under the properties that are declared beside it."""
    from qguard.encoders.openvino import GROUP, PRECISION, properties_of

    promised = "integer" if recipe.integer else "bf16" if recipe.weights == "BF16" else "float"
    properties = properties_of(file, {"integer": "int8", "bf16": "bf16", "float": "fp32"}[promised])
    rest = "bf16" if properties[PRECISION] == "bf16" else "float"
    return promised, {"dequantized": "integer" if properties.get(GROUP) else rest, "float": rest}


def _kind(node: Any, weights: dict[str, Any], made: dict[str, Any]) -> str | None:
    """What a multiplication with a constant weight computes in, ``None`` for every other node.

    ``integer``, ``float``, or ``dequantized`` where integer weights meet float values, which runtimes treat differently.
    """
    if node.op_type in _INTEGER:
        return "integer"
    if node.op_type not in _FLOAT:
        return None
    for name in node.input:
        source = made.get(name)
        while source is not None and source.op_type in _SHAPING and source.input[0] not in weights:
            source = made.get(source.input[0])
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in weights:
            others = [made.get(i) for i in node.input if i != name]
            return "integer" if any(o is not None and o.op_type == "DequantizeLinear" for o in others) else "dequantized"
        if source is None:
            constant = weights.get(name)
        elif source.op_type == "Constant":
            constant = source.attribute[0].t if source.attribute else None
        else:
            constant = weights.get(source.input[0]) if source.op_type in _SHAPING else None
        if constant is not None and len(constant.dims) >= 2:
            return "float"
    return None
