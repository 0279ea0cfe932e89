"""What the last bit of a float is worth: one weight of LayerNorm moved by 1e-7 of itself, on one CPU.

Rounding to integers turns a difference that floats would forget into one step, and each layer passes it on. CPUs whose kernels
add floats in another order differ by as much, however exact their integer products are.

usage: python benchmarks/last_bit.py ARTIFACT... [--texts N]     as of benchmarks/emulated_cpus.py, such as int8 int8-dynamic
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from emulated_cpus import opened

from qguard.encoders import Encoder
from qguard.encoders.onnx import OnnxRuntime
from qguard.judging.cpus import parse_texts, sample
from qguard.judging.session import Session, Target
from qguard.onnx.edit import Graph
from qguard.vectors.cosine import cosine

SIZE = 1e-7


def moved(session: Session, target: Target) -> tuple[str, OnnxRuntime]:
    """The artifact with the first float weight of LayerNorm moved, and its name."""
    import onnxruntime as ort

    file = session.artifact(target.precision, target.model).file
    assert file is not None
    graph = Graph.read(file)
    name = next(n for n, t in graph.initializers.items() if n.endswith("output.LayerNorm.weight") and t.data_type == 1)
    values = graph.array(name)
    noise = np.random.default_rng(0).standard_normal(values.shape)
    other = graph.put(f"{name}/moved", (values * (1 + SIZE * noise)).astype(np.float32))
    for node in graph.nodes:
        for i, given in enumerate(node.input):
            if given == name:
                graph.set_input(node, i, other)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    runtime = OnnxRuntime(file)
    runtime.session = graph.session(options)
    return name, runtime


def main() -> None:
    """A row a precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    parser.add_argument("--texts", default=None)
    args = parser.parse_args()
    print("| artifact | lowest cosine | mean |\n|---|---|---|")
    for given in args.artifacts:
        name, _, where = given.rpartition("=")
        session, target = opened(Path(), where, (), parse_texts(args.texts))
        before, ids = sample(session, target), session.token_ids(target)
        encoder = session.encoder(target.precision, target.model)
        _, runtime = moved(session, target)
        near = cosine(before.vectors, Encoder(encoder.tokenizer, runtime, encoder.head).encode_ids([ids[i] for i in before.rows]))
        print(f"| {name or where} | {near.min():.6f} | {near.mean():.6f} |", flush=True)


if __name__ == "__main__":
    main()
