#!/usr/bin/env bash
# onnxconverter-common 1.16.0, onnx 1.23.2, ONNX Runtime 1.32.0: convert_float_to_float16 leaves a Cast of the model's own at float32 and
# declares its output as float16. onnx's checker accepts the file, ONNX Runtime does not load it. Every BERT export has such a Cast,
# of the attention mask, so the float16 of all-MiniLM-L6-v2 does not load either. With the Cast's type set to float16 it loads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxconverter_common.float16 import convert_float_to_float16

print(*(f"{name} {version(name)}" for name in ("onnxconverter-common", "onnx", "onnxruntime")))
nodes = [helper.make_node("Cast", ["mask"], ["kept"], "cast", to=TensorProto.FLOAT)]
nodes += [helper.make_node("Mul", ["rows", "kept"], ["out"], "mul")]
names = {"rows": TensorProto.FLOAT, "mask": TensorProto.INT64, "out": TensorProto.FLOAT}
rows, mask, out = (helper.make_tensor_value_info(name, kind, ["batch", "tokens"]) for name, kind in names.items())
graph = helper.make_graph(nodes, "g", [rows, mask], [out])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loads(model):
    onnx.checker.check_model(model)
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as e:
        return str(e).splitlines()[0]
    return "loads"


found = {"float32": loads(model)}
for keep in (True, False):
    half = convert_float_to_float16(model, keep_io_types=keep)
    found[f"float16, keep_io_types={keep}"] = loads(half)
    (cast,) = (n for n in half.graph.node if n.name == "cast")
    cast.attribute[0].i = TensorProto.FLOAT16
    found[f"float16, keep_io_types={keep}, the Cast mended"] = loads(half)
print(*(f"{name}: {what}" for name, what in found.items()), sep="\n")
refused = [name for name, what in found.items() if "does not match expected type" in what]
assert refused == ["float16, keep_io_types=True", "float16, keep_io_types=False"], "the behavior changed"
assert [name for name, what in found.items() if what == "loads"] == [n for n in found if n not in refused], "the behavior changed"
PY
