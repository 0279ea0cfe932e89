"""Encoding throughput of fp32 and int8 ONNX against SentenceTransformer.encode (fp32, default batch size), in turn.

usage: python benchmarks/throughput.py FILE.jsonl [FILE.jsonl …]   an equal share of each file's "text", 1,000 in all
"""

import json
import statistics
import sys
import time
from pathlib import Path

import onnxruntime  # noqa: F401 - before torch, as the gate loads it
from sentence_transformers import SentenceTransformer

from qguard.config import load_config
from qguard.harness import Harness
from qguard.precisions import parse_precision

files = [Path(f) for f in sys.argv[1:]]
share = -(-1000 // len(files))
rows = [[json.loads(line) for line in f.read_text(encoding="utf-8").split("\n") if line][:share] for f in files]
texts = [r.get("text") or r["text_a"] for part in rows for r in part][:1000]
harness = Harness(load_config(Path()))
arms = {n: harness.encoder(parse_precision(n), "minilm").encode for n in ("fp32", "int8")}
reference = SentenceTransformer(str(harness.model("minilm").folder), device="cpu")
arms = {"sentence-transformers": lambda t: reference.encode(list(t)), **arms}
times: dict[str, list[float]] = {n: [] for n in arms}
for repeat in range(4):
    for name, encode in arms.items():
        start = time.perf_counter()
        encode(texts)
        if repeat:
            times[name].append(time.perf_counter() - start)
base = statistics.median(times["sentence-transformers"])
for name, seconds in times.items():
    print(f"{name:<22} {len(texts)} texts  {statistics.median(seconds):6.2f} s  {base / statistics.median(seconds):.2f} x")
