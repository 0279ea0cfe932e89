#!/usr/bin/env bash
# onnxruntime-web 1.31.0-dev.20260914 (that of Transformers.js 4.3.1) has no kernel for GatherBlockQuantized on WebAssembly, which
# onnxruntime-node 1.30.0 and Python have: a model whose embedding table is in 8 bits by it loads there and not in a browser.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q onnx==1.23.2 numpy==2.4.6
npm init -y > /dev/null
npm install --silent --ignore-scripts onnxruntime-web@1.31.0-dev.20260914-8d85527a0 onnxruntime-node@1.30.0
venv/bin/python - <<'PY'
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

info = helper.make_tensor_value_info
stored = {"table": np.full((4, 128), 130, np.uint8), "scale": np.full((4, 1), 0.5, np.float32)}
node = helper.make_node(
    "GatherBlockQuantized", ["table", "ids", "scale"], ["rows"], domain="com.microsoft", bits=8, block_size=128, gather_axis=0, quantize_axis=1
)
given, made = info("ids", TensorProto.INT64, ["n"]), info("rows", TensorProto.FLOAT, ["n", 128])
graph = helper.make_graph([node], "g", [given], [made], [numpy_helper.from_array(v, k) for k, v in stored.items()])
sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
save(helper.make_model(graph, opset_imports=sets, ir_version=8), "m.onnx")
PY
cat > load.mjs <<'JS'
import fs from "node:fs";
import * as node from "onnxruntime-node";
import * as web from "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";
const found = {};
web.env.wasm.numThreads = 1;
for (const [name, ort, providers] of [["node", node, ["cpu"]], ["web", web, ["wasm"]]]) {
  try {
    const session = await ort.InferenceSession.create(fs.readFileSync("m.onnx"), { executionProviders: providers });
    const { rows } = await session.run({ ids: new ort.Tensor("int64", [2n], [1]) });
    found[name] = String(rows.data[0]);
  } catch (error) {
    found[name] = String(error.message);
  }
  console.log(`onnxruntime-${name}: ${found[name]}`);
}
if (found.node !== "1" || !found.web.includes("Could not find an implementation for GatherBlockQuantized")) throw new Error("the behavior changed");
JS
node load.mjs
