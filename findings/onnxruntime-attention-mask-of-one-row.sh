#!/usr/bin/env bash
# onnxruntime 1.32.0, onnx 1.23.2: ONNX's Attention (operator set 23) takes a mask that can be broadcast to (batch, heads, queries,
# keys). ONNX Runtime's CPU kernel broadcasts over heads, but not over queries: a padding mask of (batch, 1, 1, keys), the usual form,
# is refused when the model runs. Expanded to (batch, 1, queries, keys) it gives what onnx's reference computes from either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from onnx.reference import ReferenceEvaluator

print("onnxruntime", ort.__version__, "onnx", onnx.__version__)
QUERIES = 5
names = {"q": 3, "k": 3, "v": 3, "mask": 4}
inputs = [helper.make_tensor_value_info(n, 1, [None] * axes) for n, axes in names.items()]
node = helper.make_node("Attention", list(names), ["y"], q_num_heads=2, kv_num_heads=2)
graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, [None] * 3)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
onnx.checker.check_model(model)
random = np.random.default_rng(0)
feed = {n: random.standard_normal((2, QUERIES, 8)).astype(np.float32) for n in "qkv"}
row = np.zeros((2, 1, 1, QUERIES), np.float32)
row[1, ..., 3:] = -1e9  # the second text has three tokens
masks = {"one row": row, "a row for each query": np.ascontiguousarray(np.broadcast_to(row, (2, 1, QUERIES, QUERIES)))}
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
reference = ReferenceEvaluator(model)
found = {}
for name, mask in masks.items():
    want = reference.run(None, feed | {"mask": mask})[0]
    try:
        found[name] = float(np.abs(session.run(None, feed | {"mask": mask})[0] - want).max())
    except Exception as e:
        found[name] = str(e).splitlines()[0]
    print(f"{name} {mask.shape}: {found[name]}")
assert isinstance(found["one row"], str) and found["a row for each query"] < 1e-5, "the behavior changed"
PY
