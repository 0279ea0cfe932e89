#!/usr/bin/env bash
# Transformers.js 4.3.1: a dtype that it does not know, such as "INT8" or "int4", loads model.onnx in Node.js without a word: the fp32
# file of most models. (In browsers it loads model_quantized.onnx.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q onnx==1.23.2
npm init -y > /dev/null
npm install --silent --ignore-scripts @huggingface/transformers@4.3.1
mkdir -p model/onnx
venv/bin/python - <<'PY'
import json

from onnx import TensorProto, helper, save

info = helper.make_tensor_value_info
for name in ("model", "model_int8"):
    given, made = info("input_ids", TensorProto.INT64, ["batch", "length"]), info(name, TensorProto.INT64, ["batch", "length"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], [name])], "g", [given], [made])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), f"model/onnx/{name}.onnx")
json.dump({"model_type": "bert"}, open("model/config.json", "w"))
PY
cat > dtype.mjs <<'JS'
import { AutoModel, env } from "@huggingface/transformers";
env.allowRemoteModels = false;
env.localModelPath = process.cwd() + "/";
const found = {};
for (const dtype of ["int8", "INT8", "int4"]) {
  const model = await AutoModel.from_pretrained("model", { dtype });
  found[dtype] = model.sessions.model.outputNames[0]; // each file's output is named after it
  console.log(`dtype ${JSON.stringify(dtype)} loads ${found[dtype]}.onnx`);
}
if (JSON.stringify(found) !== '{"int8":"model_int8","INT8":"model","int4":"model"}') throw new Error("the behavior changed");
JS
node dtype.mjs
