"""What a precision loses in each domain, with intervals: the domains are the slices of one suite.

usage: python benchmarks/slices.py PRECISION legal=FILE.jsonl[,FILE.jsonl] social=FILE.jsonl …   texts as in benchmarks/domains.py

2,000 distinct texts of each domain; every text looks for its neighbors among those of all. fp32 is run here, in ONNX Runtime.
"""

import json
import sys
import tempfile
from pathlib import Path

from texts import texts_of

from qguard.config import load_config
from qguard.families import measure, sampled
from qguard.judging.session import Session
from qguard.metrics import Comparison
from qguard.precisions import parse_precision
from qguard.suites.reader import read_suite

TEXTS = 2000
SHOWN = ("embedding.cosine_mean", "embedding.cosine_p01", "ranking.overlap@10", "ranking.top1", "ranking.inversions")


def main() -> None:
    """Encode in both precisions, and print a row per metric and a column per domain."""
    harness = Session(load_config(Path()))
    rows = []
    for part in sys.argv[2:]:
        name, _, files = part.partition("=")
        texts = texts_of(files.split(","))
        if len(texts) < TEXTS:
            sys.exit(f"{name}: expected {TEXTS} distinct texts, found {len(texts)}")
        rows += [{"text": text, "slice": name} for text in texts[:TEXTS]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "domains.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        suite = read_suite("domains", file)
    golden, candidate = (
        harness.encoder(parse_precision(p), "minilm").encode(suite.texts) for p in ("fp32", sys.argv[1])
    )  # fmt: skip
    comparison = Comparison.of(suite, golden, candidate)
    found = {(m.name, m.slice): m for family in sampled(comparison.suite) for m in measure(comparison, family)}
    print(f"| {sys.argv[1]} | all | " + " | ".join(suite.slice_names) + " |\n" + "|---" * (2 + len(suite.slice_names)) + "|")
    for metric in SHOWN:
        cells = []
        for part in (None, *suite.slice_names):
            m = found[metric, part]
            interval = m.uncertainty().interval if m.uncertainty else None
            cells.append(f"{m.value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""))
        print(f"| {metric} | " + " | ".join(cells) + " |")


main()
