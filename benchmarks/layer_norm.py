"""ONNX Runtime's LayerNorm kernels against RMSNorm(x - mean(x)), the same formula, on one thread."""

import time

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

SHAPE = (4, 128, 384)
ort.set_default_logger_severity(3)
rng = np.random.default_rng(0)
feeds = {k: rng.normal(size=SHAPE).astype(np.float32) for k in "xy"}
weights = [numpy_helper.from_array(rng.normal(size=SHAPE[-1]).astype(np.float32), k) for k in ("gamma", "beta")]
node = helper.make_node
total = node("Add", ["x", "y"], ["sum"])
forms = {
    "SkipLayerNormalization": [
        node("SkipLayerNormalization", ["x", "y", "gamma", "beta"], ["z"], domain="com.microsoft", epsilon=1e-12)
    ],
    "LayerNormalization": [total, node("LayerNormalization", ["sum", "gamma", "beta"], ["z"], epsilon=1e-12)],
    "RMSNorm(x - mean(x))": [
        total,
        node("ReduceMean", ["sum"], ["mean"], axes=[-1]),
        node("Sub", ["sum", "mean"], ["centred"]),
        node("SimplifiedLayerNormalization", ["centred", "gamma"], ["normed"], epsilon=1e-12, axis=-1),
        node("Add", ["normed", "beta"], ["z"]),
    ],
}
options = ort.SessionOptions()
options.intra_op_num_threads = 1
outputs = []
for name, nodes in forms.items():
    ends = [helper.make_tensor_value_info(k, 1, SHAPE) for k in "xyz"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:2], ends[2:], weights),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9,
    )  # fmt: skip
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        (z,) = session.run(None, feeds)
        best = min(best, time.perf_counter() - start)
    outputs.append(z)
    print(f"{name:<24} {best * 1e9 / z.size:5.2f} ns/element, largest difference {np.abs(z - outputs[0]).max():.1e}")
