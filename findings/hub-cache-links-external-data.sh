#!/usr/bin/env bash
# onnx 1.23.2, OpenVINO 2026.4.1, ONNX Runtime 1.32.0: a Hugging Face cache holds links in snapshots/ to the files in blobs/. An
# ONNX model with external data loads from there in ONNX Runtime. onnx and OpenVINO refuse the very same folder, each with an
# error. A copy with the links followed (cp -rL) loads in all three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 openvino==2026.4.1 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'PY'
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from onnx import helper, numpy_helper

print("onnx", onnx.__version__, "openvino", ov.__version__.partition("-")[0], "onnxruntime", ort.__version__)
root = Path(sys.argv[1]) / "models--acme--tiny"
blobs, snapshot = root / "blobs", root / "snapshots" / "0123abcd"
blobs.mkdir(parents=True)
snapshot.mkdir(parents=True)
weights = np.arange(4096, dtype=np.float32)
info = helper.make_tensor_value_info
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "w"], ["y"])], "g", [info("x", 1, [4096])], [info("y", 1, [4096])], [numpy_helper.from_array(weights, "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
plain = Path(sys.argv[1]) / "plain"
plain.mkdir()
onnx.save_model(model, str(plain / "model.onnx"), save_as_external_data=True, location="model.onnx_data", size_threshold=0)
for number, name in enumerate(("model.onnx", "model.onnx_data")):
    shutil.move(plain / name, blobs / str(number))
    (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / str(number))
followed = Path(sys.argv[1]) / "followed"
shutil.copytree(snapshot, followed)


def in_onnx(file):
    return numpy_helper.to_array(onnx.load(file).graph.initializer[0])


def in_runtime(file):
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(4096, np.float32)})[0]


def in_openvino(file):
    return ov.Core().compile_model(file, "CPU")(np.zeros(4096, np.float32))[0]


ort.set_default_logger_severity(4)
seen = {}
for name, load in (("onnx", in_onnx), ("onnxruntime", in_runtime), ("openvino", in_openvino)):
    for folder in (snapshot, followed):
        try:
            result = "loads" if np.array_equal(load(str(folder / "model.onnx")), weights) else "other values"
        except Exception as e:
            result = f"refuses ({type(e).__name__})"
        seen[name, folder.name] = result
        print(f"{name:12} {'snapshot of links' if folder is snapshot else 'links followed':18} {result}")
assert all(result == "loads" for (_, folder), result in seen.items() if folder == "followed")
assert seen["onnxruntime", "0123abcd"] == "loads"
assert seen["onnx", "0123abcd"].startswith("refuses")
assert seen["openvino", "0123abcd"].startswith("refuses")
PY
