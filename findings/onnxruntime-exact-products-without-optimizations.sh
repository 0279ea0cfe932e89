#!/usr/bin/env bash
# ONNX Runtime 1.32.0, x86 without VNNI: session.x64quantprecision=1 has no effect below the extended graph optimizations, and
# nothing says so. Products of unsigned activations and signed weights then saturate, as if it were not set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

print("onnxruntime", ort.__version__)
size = 64
stored = {
    "w": np.full((size, size), 127, np.int8), "wz": np.zeros(size, np.int8), "s": np.float32(1), "ws": np.ones(size, np.float32),
    "z": np.uint8(0),
}
info = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("MatMulIntegerToFloat", ["x", "w", "s", "ws", "z", "wz"], ["y"], domain="com.microsoft")],
    "g", [info("x", 2, [1, size])], [info("y", 1, [1, size])], [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
)
sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
data = helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()
right, found = 255 * 127 * size, {}
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
    for option in ("0", "1"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.add_session_config_entry("session.x64quantprecision", option)
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found[level, option] = session.run(None, {"x": np.full((1, size), 255, np.uint8)})[0][0, 0]
        print(level, "option", option, "->", found[level, option], "of", right)
flags = open("/proc/cpuinfo").read()
if any(f in flags for f in ("avx512_vnni", "avx_vnni", "amx_int8")) or "avx2" not in flags:
    print("this CPU has VNNI or is no x86: nothing saturates here")
    assert all(value == right for value in found.values()), "the behavior changed"
else:
    exact = {key for key, value in found.items() if value == right}
    assert exact == {("ORT_ENABLE_EXTENDED", "1"), ("ORT_ENABLE_ALL", "1")}, f"the behavior changed: {sorted(exact)}"
PY
