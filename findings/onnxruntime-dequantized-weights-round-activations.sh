#!/usr/bin/env bash
# onnxruntime from 1.25.0 on: weight-only files compute in 8 bits. A MatMul whose int8 weights pass through DequantizeLinear, one scale a
# column, is fused into MatMulNBits with accuracy level 4, which rounds the *activations* to 8 bits in blocks, without any option. Until
# 1.24.4 the same file multiplied floats: an error of 0 against the unoptimized graph, and of some 5e-3 since. The session entry
# "session.qdq_matmulnbits_accuracy_level" = "1" gives floats again. Found by qguard bisect (benchmarks/bisection.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 1.24.4 1.25.0 1.32.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install -q "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
  "$work/$version/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

DEEP, WIDE = 256, 64
random = np.random.default_rng(0)
weights = random.integers(-127, 128, (DEEP, WIDE)).astype(np.int8)
scales = (random.random(WIDE) * 0.01).astype(np.float32)
nodes = [
    helper.make_node("DequantizeLinear", ["w", "s"], ["float"], axis=1),
    helper.make_node("MatMul", ["x", "float"], ["y"]),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", DEEP), ("y", WIDE))]
stored = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")]
graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
feed = {"x": random.standard_normal((4, DEEP)).astype(np.float32)}


def error(**entries: str) -> float:
    """Of the optimized session, relative to the largest value of the graph as it stands."""
    plain, optimized = ort.SessionOptions(), ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in entries.items():
        optimized.add_session_config_entry(f"session.{name}", value)
    want, found = (ort.InferenceSession(model, o, providers=["CPUExecutionProvider"]).run(None, feed)[0] for o in (plain, optimized))
    return float(np.abs(found - want).max() / np.abs(want).max())


told, asked = error(), error(qdq_matmulnbits_accuracy_level="1")
print(f"onnxruntime {ort.__version__}: error {told:.1e}, with accuracy level 1 {asked:.1e}")
rounds = tuple(map(int, ort.__version__.split("."))) >= (1, 25)
assert asked < 1e-5 and (told > 1e-3) == rounds, "the behavior changed"
PY
done
