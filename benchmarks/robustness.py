"""The worst of each property over generated texts, by precision: what the default gates are set from.

Run in the project's root: python benchmarks/robustness.py int8,fp16@torch,… [SEEDS] [EXAMPLES]; nothing is gated or kept.
"""

import sys
import time
from functools import partial
from pathlib import Path

from qguard.config import load_config
from qguard.judging.robustness import probe_of
from qguard.judging.session import Session
from qguard.precisions import parse_precisions
from qguard.robustness.features import describe
from qguard.robustness.metrics import COSINE, PROPERTIES, reduced
from qguard.robustness.search import search

names = sys.argv[1] if len(sys.argv) > 1 else "fp32,int8"
seeds, examples = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((2, 5), (3, 100)))
harness = Session(load_config(Path()))
model = next(iter(harness.config.models))
short = [name.removeprefix("robustness.").removesuffix("_min") for name in PROPERTIES]
print("| precision | seeds | texts | " + " | ".join(short) + " | s a seed |")
print("|---" * (len(short) + 4) + "|")
for precision in parse_precisions(names, (), harness.config.own_precisions):
    probe = probe_of(harness, precision, model)
    probe(["warm"])
    tried, start = [], time.monotonic()
    lows = []
    for seed in range(seeds):
        found = search(probe, [], examples, seed)
        tried += found.tried
        lows.append(min(t.values[COSINE] for t in found.tried))
    seconds = (time.monotonic() - start) / seeds
    values = {m.name: m for m in reduced(tried, partial(describe, tokenizer=probe.tokenizer))}
    cells = [f"{values[name].value:.6g}" if name in values else "" for name in PROPERTIES]
    print(f"| {precision} | {seeds} | {values[COSINE].items} | " + " | ".join(cells) + f" | {seconds:.1f} |", flush=True)
    print(f"{precision}: lowest cosine by seed " + " ".join(f"{x:.4f}" for x in lows), file=sys.stderr)
    for words in values[COSINE].worst[:3]:
        print(f"    {words}", file=sys.stderr, flush=True)
