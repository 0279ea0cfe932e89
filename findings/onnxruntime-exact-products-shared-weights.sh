#!/usr/bin/env bash
# ONNX Runtime 1.32.0, x86 without VNNI: session.x64quantprecision=1 makes a valid file fail to load when two integer
# products read the same signed weights, as layers that share their weights (ALBERT) do. Unsigned weights load.
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
ort.set_default_logger_severity(4)


def file(kind, zero):
    weights = np.arange(-120, 120, 15).reshape(4, 4) + zero  # small weights cannot overflow, and are left as they are
    stored = {
        "w": weights.astype(kind), "wz": np.full(4, zero, kind), "s": np.float32(0.1), "ws": np.full(4, 0.1, np.float32),
        "z": np.uint8(128),
    }
    nodes = [
        helper.make_node("MatMulIntegerToFloat", [x, "w", "s", "ws", "z", "wz"], [y], domain="com.microsoft")
        for x, y in (("a", "ya"), ("b", "yb"))
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info(n, 2, [1, 4]) for n in "ab"], [info(n, 1, [1, 4]) for n in ("ya", "yb")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()


def load(data, exact):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        return str(e).strip().splitlines()[-1][-60:]
    x = np.full((1, 4), 130, np.uint8)
    return session.run(None, {"a": x, "b": x})[0].round(3).tolist()


signed, unsigned = file(np.int8, 0), file(np.uint8, 128)
found = {f"{n}, option {'set' if e else 'not set'}": load(d, e) for n, d in (("signed", signed), ("unsigned", unsigned)) for e in (0, 1)}
for name, value in found.items():
    print(f"{name}: {value}")
flags = open("/proc/cpuinfo").read()
if any(f in flags for f in ("avx512_vnni", "avx_vnni", "amx_int8")) or "avx2" not in flags:
    print("this CPU has VNNI or is no x86: ONNX Runtime does not heed the option here")
else:
    assert "replace the existing tensor" in found["signed, option set"], "the behavior changed: the file loads"
same = [found[k] for k in ("signed, option not set", "unsigned, option not set", "unsigned, option set")]
assert same[0] == same[1] == same[2], "the behavior changed: signed and unsigned weights differ"
PY
