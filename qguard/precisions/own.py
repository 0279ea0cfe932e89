"""The recipes that come with qguard. A new one is a function in a file here and a record below."""

from __future__ import annotations

from dataclasses import replace

from qguard.artifacts.layers import OUTLIERS, PLACES, TABLES
from qguard.precisions.bounds import DEFAULT_BOUNDS
from qguard.precisions.recipe import Recipe

_TORCHAO = ("torch", "torchao", "transformers", "safetensors")
_NNCF = (*Recipe.packages, "nncf")
_FP32 = Recipe(
    "fp32", "onnx", make="qguard.precisions.export:fp32", weights="F32", fp32="fp32@onnx", bounds=DEFAULT_BOUNDS["fp32"],
    of_table="qguard.precisions.table:fp32",
    description="The reference: the model exported to ONNX, attention fused, or its own ONNX file.",
)  # fmt: skip
_GGUF = Recipe(
    "fp32", "llamacpp", make="qguard.precisions.gguf:fp32", weights="F32", mixture="F32", fp32="fp32@llamacpp",
    packages=("gguf", "safetensors"), bounds=DEFAULT_BOUNDS["fp32"] | DEFAULT_BOUNDS["fp32@llamacpp"],
    description="The reference in llama.cpp: a GGUF file in float32.",
)  # fmt: skip
_CAST = Recipe(
    "fp32", "torch", make="qguard.precisions.cast:fp32", weights="F32", fp32="fp32@torch", bounds=DEFAULT_BOUNDS["fp32"],
    of_table="qguard.precisions.table:torch_fp32",
    description="The model's own weights.",
)  # fmt: skip
# int8 promises speed against fp32 of the same runtime: an int8 model that is slower is a regression
_FASTER = ">= 1"

_MADE = (
    _FP32,
    _CAST,
    replace(
        _CAST, precision="fp16", make="qguard.precisions.cast:fp16", weights="F16", bounds=DEFAULT_BOUNDS["fp16"],
        of_table="qguard.precisions.table:torch_fp16",
        description="Weights and arithmetic in IEEE half precision.",
    ),
    replace(
        _CAST, precision="bf16", make="qguard.precisions.cast:bf16", weights="BF16", bounds=DEFAULT_BOUNDS["bf16"],
        of_table="qguard.precisions.table:torch_bf16",
        description="Weights and arithmetic in bfloat16: float32's range, 8 bits of precision.",
    ),
    Recipe(
        "int8", "onnx", make="qguard.precisions.integer:int8", weights="I8", fp32="fp32@onnx", from_fp32=True, calibrated=True,
        of_table="qguard.precisions.table:int8",
        integer=True, granularity="per-channel", excluded=(PLACES, OUTLIERS), tunable=True,
        bounds=DEFAULT_BOUNDS["int8"] | DEFAULT_BOUNDS["int8@onnx"], speedup=_FASTER,
        description="8-bit weights, one scale an output channel, and activations of fixed ranges, calibrated on texts.",
    ),
    Recipe(
        "int8-dynamic", "onnx", make="qguard.precisions.dynamic:int8", weights="I8", fp32="fp32@onnx", from_fp32=True,
        integer=True, granularity="per-channel", bounds=DEFAULT_BOUNDS["int8"], speedup=_FASTER,
        description="8-bit weights, one scale an output channel, and activations of the batch's range, by ONNX Runtime.",
    ),
    Recipe(
        "int8-static", "onnx", make="qguard.precisions.static:int8", weights="I8", fp32="fp32@onnx", calibrated=True,
        integer=True, granularity="per-channel", packages=_NNCF, bounds=DEFAULT_BOUNDS["int8-static"],
        speedup=_FASTER,
        description="8-bit weights and activations by NNCF's post-training quantization, calibrated on texts.",
    ),
    Recipe(
        "int8-weight", "onnx", make="qguard.precisions.weightonly:int8", weights="I8", fp32="fp32@onnx", from_fp32=True,
        of_table="qguard.precisions.table:int8_weight",
        granularity=32, excluded=(PLACES,),
        bounds=DEFAULT_BOUNDS["int8-weight"],  # smaller, not faster: weights become floats again at every call
        description="8-bit weights, one scale a block of 32 inputs; activations stay float, or are rounded by blocks.",
    ),
    Recipe(
        "int4", "onnx", make="qguard.precisions.weightonly:int4", weights="I4", fp32="fp32@onnx", from_fp32=True,
        granularity=32, tables="I8", excluded=(PLACES,), bounds=DEFAULT_BOUNDS["int4"],
        description="4-bit weights by HQQ, one scale a block of 32 inputs, word embeddings in 8 bits; activations stay float.",
    ),
    Recipe(
        "fp16", "onnx", make="qguard.precisions.half:fp16", weights="F16", fp32="fp32@onnx", from_fp32=True,
        of_table="qguard.precisions.table:fp16",
        bounds=DEFAULT_BOUNDS["fp16"], description="Weights in IEEE half precision; computed in float without kernels for it.",
    ),
    Recipe(
        "int8", "torch", make="qguard.precisions.torchao:int8", weights="I8", fp32="fp32@torch", integer=True,
        granularity="per-channel", excluded=(TABLES,), packages=_TORCHAO,
        tied=False, bounds=DEFAULT_BOUNDS["int8"],  # no speed is promised: it pays only when compiled, see docs/torch.md
        description="8-bit weights, one scale an output channel, and activations of a token's range, by torchao.",
    ),
    Recipe(
        "int8-weight", "torch", make="qguard.precisions.torchao:int8_weight", weights="I8", fp32="fp32@torch",
        granularity="per-channel", excluded=(TABLES,), packages=_TORCHAO,
        tied=False, bounds=DEFAULT_BOUNDS["int8-weight"],
        description="8-bit weights, one scale an output channel, by torchao; activations stay float.",
    ),
    Recipe(
        "int8-legacy", "torch", make="qguard.precisions.legacy:int8", weights="I8", fp32="fp32@torch", integer=True,
        excluded=(TABLES,), tied=False, bounds=DEFAULT_BOUNDS["int8"], speedup=_FASTER,
        description="torch.ao's quantize_dynamic: 8-bit weights, one scale a matrix, and activations of the batch's range.",
    ),
    Recipe(
        "fp32", "openvino", make="qguard.precisions.openvino:fp32", weights="F32", fp32="fp32@openvino",
        of_table="qguard.precisions.table:openvino_fp32",
        bounds=DEFAULT_BOUNDS["fp32"], description="The reference in OpenVINO: the plain export, or the model's own ONNX file.",
    ),
    Recipe(
        "bf16", "openvino", make="qguard.precisions.openvino:bf16", weights="BF16", fp32="fp32@openvino", from_fp32=True,
        of_table="qguard.precisions.table:openvino_bf16",
        calibrated=True, bounds=DEFAULT_BOUNDS["bf16"] | DEFAULT_BOUNDS["bf16@openvino"],
        description="Weights, rounded by GPTQ, and arithmetic in bfloat16.",
    ),
    Recipe(
        "int8", "openvino", make="qguard.precisions.openvino:int8", weights="I8", fp32="fp32@openvino", from_fp32=True,
        of_table="qguard.precisions.table:openvino_int8",
        calibrated=True, integer=True, granularity="per-channel", speedup=_FASTER,
        bounds=DEFAULT_BOUNDS["int8"] | DEFAULT_BOUNDS["int8@openvino"],
        description="8-bit weights, rounded by GPTQ, and activations quantized as they come, in groups of a token's values.",
    ),
    Recipe(
        "int8-static", "openvino", make="qguard.precisions.openvino:static", weights="I8", fp32="fp32@openvino", from_fp32=True,
        calibrated=True, integer=True, granularity="per-channel", excluded=(OUTLIERS,), tunable=True, speedup=_FASTER,
        bounds=DEFAULT_BOUNDS["int8"] | DEFAULT_BOUNDS["int8@onnx"] | DEFAULT_BOUNDS["int8-static@openvino"],
        description="8-bit weights and activations of fixed ranges, the rest in bfloat16; for processors with VNNI.",
    ),
    _GGUF,
    replace(
        _GGUF, precision="f16", make="qguard.precisions.gguf:f16", weights="F16", mixture="F16", bounds=DEFAULT_BOUNDS["f16"],
        description="GGUF: matrices in IEEE half precision.",
    ),
    replace(
        _GGUF, precision="q8_0", make="qguard.precisions.gguf:q8_0", weights="Q8_0", mixture="Q8_0", integer=True,
        granularity=32, bounds=DEFAULT_BOUNDS["q8_0"],
        description="GGUF: 8-bit matrices, one scale a block of 32 values, and activations rounded to 8 bits by blocks.",
    ),
    replace(
        _GGUF, precision="q4_k_m", make="qguard.precisions.gguf:q4_k_m", weights="Q4_K", mixture="Q4_K_M", integer=True,
        granularity=32, bounds=DEFAULT_BOUNDS["q4_k_m"],
        description="GGUF: llama.cpp's mixture of 4 and 6 bits; rows that are no multiple of 256 values get 5 and 8 instead.",
    ),
    replace(
        _GGUF, precision="q4_0", make="qguard.precisions.gguf:q4_0", weights="Q4_0", mixture="Q4_0", integer=True,
        granularity=32, bounds=DEFAULT_BOUNDS["q4_0"],
        description="GGUF: 4-bit matrices, one scale a block of 32 values, word embeddings in 6 or 8 bits.",
    ),
)  # fmt: skip
# dtype of Transformers.js → the function that lays it out, by the precision whose file it is
_DTYPES = {
    "fp32": ("fp32", "fp32"),
    "fp16": ("fp16", "fp16"),
    "int8": ("int8", "int8"),
    "int8-dynamic": ("q8", "dynamic"),
    "int4": ("q4", "int4"),
}


def _laid_out(precision: str, runtime: str) -> Recipe:
    """The file of a precision in ONNX Runtime, for Transformers.js; no speed is promised, since none is measured there."""
    dtype, function = _DTYPES[precision]
    made = next(r for r in _MADE if r.name == f"{precision}@onnx")
    return replace(
        made, runtime=runtime, make=f"qguard.precisions.javascript:{function}", of_table="", copies=made.name, from_fp32=False,
        speedup=None,
        description=f"The file of {precision} in ONNX Runtime, laid out for Transformers.js as dtype {dtype}.",
    )  # fmt: skip


def _on_cuda(precision: str) -> Recipe:
    """The file of a precision in ONNX Runtime, on a CUDA device; no speed is promised, since it depends on card and batch."""
    made = next(r for r in _MADE if r.name == f"{precision}@onnx")
    return replace(
        made, runtime="onnx-cuda", make="qguard.precisions.same:same", of_table="", copies=made.name, fp32="fp32@onnx-cuda",
        from_fp32=False, speedup=None, description=f"The file of {precision} in ONNX Runtime, on a CUDA device.",
    )  # fmt: skip


RECIPES = (
    *_MADE,
    *(_laid_out(precision, runtime) for runtime in ("node", "browser") for precision in _DTYPES),
    *(_on_cuda(precision) for precision in ("fp32", "fp16", "int8", "int8-weight")),
)
