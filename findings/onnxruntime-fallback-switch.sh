#!/usr/bin/env bash
# ONNX Runtime's InferenceSession has an argument enable_fallback. With enable_fallback=0 and only the CUDA provider asked for, on a
# machine or build without CUDA, the session is made all the same and computes on the CPU: the argument is about errors of run().
# What refuses the CPU is the session's configuration entry session.disable_cpu_ep_fallback, which also refuses nodes of shapes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import sys
import warnings

import onnxruntime as ort
from onnx import TensorProto, helper

warnings.simplefilter("ignore")
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
options = ort.SessionOptions()
options.log_severity_level = 4
if sys.argv[1] == "entry":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
try:
    made = ort.InferenceSession(model, options, providers=["CUDAExecutionProvider"], enable_fallback=0)
    print(",".join(made.get_providers()))
except Exception as e:
    print(f"refused: {type(e).__name__}")
PY
"$work/venv/bin/pip" list 2>/dev/null | grep -iE "^onnxruntime "
argument=$("$work/venv/bin/python" "$work/try.py" argument)
entry=$("$work/venv/bin/python" "$work/try.py" entry)
echo "enable_fallback=0: $argument"
echo "session.disable_cpu_ep_fallback=1 besides: $entry"
[ "$argument" = CPUExecutionProvider ]
[ "$entry" = "refused: Fail" ]
