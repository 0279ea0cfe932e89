"""How many of MiniLM's 72 attention heads can be zeroed, one at a time, before the gate sees it: in fp32 and in int8.

usage: python benchmarks/zeroed_heads.py [STEP]    every STEP-th head (1: all of them)
"""

import sys
import tempfile
from pathlib import Path

import onnx
from onnx import numpy_helper

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize

HEADS, SIZE, WIDTH = 12, 32, 384
step = int(sys.argv[1]) if len(sys.argv) > 1 else 1
config = load_config(Path())
file = Session(config).artifact(parse_precision("fp32"), "minilm").file
caught: dict[str, list[str]] = {"fp32": [], "int8": []}
missed: dict[str, list[str]] = {"fp32": [], "int8": []}
with tempfile.TemporaryDirectory() as work:
    for number in range(0, 6 * HEADS, step):
        layer, head = divmod(number, HEADS)
        model = onnx.load(str(file))
        node = [n for n in model.graph.node if n.op_type == "Attention"][layer]
        for tensor in model.graph.initializer:
            if tensor.name in node.input[1:3]:  # packed Q, K and V; zero this head's V
                value = numpy_helper.to_array(tensor).copy()
                value[..., 2 * WIDTH + SIZE * head : 2 * WIDTH + SIZE * (head + 1)] = 0
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        paths = {"fp32": Path(work, "fp32.onnx"), "int8": Path(work, "int8.onnx")}
        onnx.save(model, str(paths["fp32"]))
        quantize(paths["fp32"], paths["int8"], per_channel=True)
        for name, path in paths.items():
            harness = Session(config, path)
            (target,) = harness.targets([parse_precision(name)])
            failed = [c for f in ("embedding", "similarity", "ranking") for c in harness.checks(target, f) if c.outcome == "fail"]
            (caught if failed else missed)[name].append(f"{layer}.{head}")
        print(
            f"layer {layer} head {head}: "
            + ", ".join(f"{n} {'caught' if c[-1:] == [f'{layer}.{head}'] else 'missed'}" for n, c in caught.items()),
            flush=True,
        )
for name, seen in caught.items():
    print(f"{name}: {len(seen)} of {len(seen) + len(missed[name])} caught; missed: {', '.join(missed[name]) or 'none'}")
