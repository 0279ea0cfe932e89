"""How much of fp32's time are the products with weights: what is left for graphs and encoders to save.

The same batches through the artifact and through a graph of its weight matrices alone, each multiplied with random tokens;
one thread a batch, as many batches at once as there are cores, arms taking turns; medians over rounds.

usage: python benchmarks/products.py FILE.jsonl [FILE.jsonl …]   1,000 of their different texts (benchmarks/texts.py)
"""

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from texts import texts_of

from qguard.config import load_config
from qguard.encoders import length_batches, padded
from qguard.judging.session import Session
from qguard.machine.cpu import cores
from qguard.precisions import parse_precision

ROUNDS = 7
harness = Session(load_config(Path()))
encoder = harness.encoder(parse_precision("fp32"), "minilm")
ids = encoder.tokenizer(texts_of(sys.argv[1:])[:1000])
graph = onnx.load(str(harness.fp32("minilm", "onnx").file)).graph
stored = {t.name: t for t in graph.initializer}
weights = [stored[n.input[1]] for n in graph.node if n.op_type in ("MatMul", "Attention") and n.input[1] in stored]
nodes, outputs = [], []
for i, weight in enumerate(weights):
    # a row of each product is given back, so that no product can be left out
    nodes.append(helper.make_node("MatMul", [f"x{weight.dims[0]}", weight.name], [f"product{i}"]))
    nodes.append(helper.make_node("Gather", [f"product{i}", "first"], [f"row{i}"], axis=0))
    outputs.append(helper.make_tensor_value_info(f"row{i}", 1, [weight.dims[1]]))
widths = sorted({w.dims[0] for w in weights})
inputs = [helper.make_tensor_value_info(f"x{width}", 1, ["tokens", width]) for width in widths]
made = helper.make_graph(nodes, "products", inputs, outputs, [*weights, numpy_helper.from_array(np.array(0), "first")])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
batches = [padded([ids[k] for k in rows]) for rows in length_batches(list(map(len, ids)), encoder.runtime.batch_tokens)]
random = np.random.default_rng(0)
tokens = {f"x{width}": random.normal(size=(max(b.size for b, _ in batches), width)).astype(np.float32) for width in widths}
arms = {
    "fp32": lambda batch: encoder.runtime(*batch),
    "products alone": lambda batch: session.run(None, {name: x[: batch[0].size] for name, x in tokens.items()}),
}
times: dict[str, list[float]] = {name: [] for name in arms}
with ThreadPoolExecutor(cores()) as pool:
    for turn in range(ROUNDS + 1):
        for name, run in arms.items():
            start = time.perf_counter()
            list(pool.map(run, batches))
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
count = sum(b.size for b, _ in batches)
operations = 2 * count * sum(w.dims[0] * w.dims[1] for w in weights)
print(f"{len(ids)} texts, {count} tokens with padding, {len(weights)} matrices, {cores()} cores")
for name, seconds in times.items():
    middle = statistics.median(seconds)
    share = statistics.median(b / a for a, b in zip(times["fp32"], seconds, strict=True))
    print(f"{name:16} {middle:6.2f} s  {operations / middle / 1e9:6.0f} GFLOP/s of weights  {share:.2f} of fp32's time")
