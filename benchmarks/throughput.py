"""Encoding throughput of fp32 and int8 ONNX against SentenceTransformer.encode (fp32, default batch size).

All arms use every core of this process and take turns; ratios are medians over rounds.

usage: python benchmarks/throughput.py FILE.jsonl [FILE.jsonl …]   1,000 of their different texts (benchmarks/texts.py)
"""

import statistics
import sys
import time
from pathlib import Path

import onnxruntime  # noqa: F401 - before torch, as the gate loads it
from texts import texts_of

from qguard.config import load_config
from qguard.goldens.reference import open_fp32
from qguard.judging.session import Session
from qguard.machine.cpu import cores
from qguard.precisions import parse_precision

ROUNDS = 5
texts = texts_of(sys.argv[1:])[:1000]
harness = Session(load_config(Path()))
encoders = {n: harness.encoder(parse_precision(n), "minilm") for n in ("fp32", "int8")}
reference = open_fp32(harness.model("minilm"))
arms = {"sentence-transformers": lambda t: reference.encode(list(t)), **{n: e.encode for n, e in encoders.items()}}
lengths = sorted(map(len, encoders["fp32"].tokenizer(texts)))
print(f"{len(texts)} texts, {sum(lengths)} tokens (median {lengths[len(texts) // 2]}, longest {lengths[-1]}), {cores()} cores")
times: dict[str, list[float]] = {n: [] for n in arms}
for repeat in range(ROUNDS + 1):
    for name, encode in arms.items():
        start = time.perf_counter()
        encode(texts)
        if repeat:  # the first round warms everything up
            times[name].append(time.perf_counter() - start)
for name, seconds in times.items():
    ratios = sorted(a / b for a, b in zip(times["sentence-transformers"], seconds, strict=True))
    print(
        f"{name:<22} {statistics.median(seconds):6.2f} s  {len(texts) / statistics.median(seconds):5.0f} texts/s  "
        f"{statistics.median(ratios):.2f} x  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
