#!/usr/bin/env bash
# OpenVINO on a CPU without VNNI: a product of unsigned 8-bit activations and signed 8-bit weights that the file states with
# QuantizeLinear, DequantizeLinear and MatMul is half of what it should be, where two neighboring weights are large. Nothing is said.
# On a CPU with VNNI the same file is exact. Here the instruction sets are limited by ONEDNN_MAX_CPU_ISA.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import sys

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

K, N = 64, 32
stored = {
    "x_scale": np.float32(1 / 255), "x_zero": np.uint8(0), "w": np.full((K, N), 127, np.int8),
    "w_scale": np.full(N, 1 / 127, np.float32), "w_zero": np.zeros(N, np.int8),
}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
    helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["v"], axis=1),
    helper.make_node("MatMul", ["d", "v"], ["y"]),
]
graph = helper.make_graph(
    nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", K])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", N])], [numpy_helper.from_array(v, k) for k, v in stored.items()],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), sys.argv[1])
compiled = ov.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(f"{float(compiled(np.ones((4, K), np.float32))[0][0, 0]):.2f}")
PY
run() { env "$@" "$work/venv/bin/python" "$work/try.py" "$work/m.onnx"; }
"$work/venv/bin/pip" list 2>/dev/null | grep -iE "^(openvino|onnx) "
if ! grep -qE "avx512_vnni|avx_vnni" /proc/cpuinfo; then
  limited=$(run A=B)
  echo "this CPU has no VNNI: $limited"
else
  whole=$(run A=B) limited=$(run ONEDNN_MAX_CPU_ISA=AVX512_CORE)
  echo "with VNNI: $whole    without: $limited    exact: 64.00"
  [ "$whole" = 64.00 ] || { echo "CHANGED: with VNNI it was exact"; exit 1; }
fi
awk -v x="$limited" 'BEGIN { exit !(x < 40) }' || { echo "CHANGED: without VNNI it was 32.38"; exit 1; }
echo "as found"
