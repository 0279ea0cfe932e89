"""A release of ONNX Runtime that changed what a file computes, found by ``qguard bisect``; timed without and with environments.

MiniLM's matrices are stored in 8 bits, one scale a column, and become floats again by ``DequantizeLinear``: weight-only, as
several tools write it. The command of docs/bisect.md then judges it with releases from 1.24.4 to 1.32.0.

usage: python benchmarks/bisection.py OUT
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "bisect --package onnxruntime --good 1.24.4 --bad 1.32.0 --metric ranking.overlap@10 --precision int8-weight"


def dequantized(source: Path, target: Path) -> int:
    """Write a file whose matrices are 8-bit with ``DequantizeLinear`` in front of their ``MatMul``; returns how many."""
    model = onnx.load(source)
    weights = {x.name: x for x in model.graph.initializer}
    nodes, made = [], 0
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 2:
            values = numpy_helper.to_array(weight)
            scale = (np.abs(values).max(0) / 127).astype(np.float32)
            name = f"{node.name}/weight"
            model.graph.initializer.extend([
                numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}/int8"),
                numpy_helper.from_array(scale, f"{name}/scale"),
            ])  # fmt: skip
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}/int8", f"{name}/scale"], [name], name, axis=1))
            node.input[1] = name
            made += 1
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [x for x in model.graph.initializer if x.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, target)
    return made


def main() -> None:
    """Make the file, then run the command twice with a cache of its own."""
    from qguard.config import load_config
    from qguard.judging.session import Session
    from qguard.precisions import parse_precision

    out = Path(sys.argv[1]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(load_config(ROOT))
    # its attention is not fused, so that every projection is a MatMul
    source = parse_precision("fp32@openvino").build(session.model("minilm")).file
    assert source is not None
    file = out / "model.onnx"
    print(f"{dequantized(source, file)} matrices of 8 bits in {file.name}, {file.stat().st_size / 1e6:.0f} MB")
    environment = os.environ | {"QGUARD_CACHE": str(out / "cache")}
    for told in ("without environments", "with environments in the cache"):
        start = time.monotonic()
        command = [sys.executable, "-m", "qguard.cli", *COMMAND.split(), f"--artifact={file}", f"--json={out / 'bisect.json'}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        print(f"\n{told}: {time.monotonic() - start:.1f} s, exit code {done.returncode}\n{done.stderr}{done.stdout}")


if __name__ == "__main__":
    main()
