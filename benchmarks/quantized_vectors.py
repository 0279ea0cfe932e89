"""What quantized vectors keep of fp32's neighbors on core, by the precision of the model that made them.

The last rows are sentence-transformers' formula with one range for all dimensions, symmetric about 0, of the fp32 model.

usage: python benchmarks/quantized_vectors.py [PRECISION,…]    default fp32,int8
"""

import sys
from pathlib import Path

import numpy as np

from qguard.config import load_config
from qguard.families import measure
from qguard.judging.session import Session, Target
from qguard.metrics import Comparison
from qguard.precisions import parse_precision
from qguard.vectors.quantized import KINDS, SCALAR

NAMES = ("overlap@10", "top1", "rescored_overlap@10", "rescored_top1")
harness = Session(load_config(Path()))


def row(name: str, comparison: Comparison) -> None:
    """One line of the table."""
    found = {m.name: m.value for f in ("ranking", "embedding", "similarity") for m in measure(comparison, f) if m.slice is None}
    ratio = found.get("embedding.size_ratio", 1.0)
    cells = [f"{found[f'ranking.{n}']:.3f}" if f"ranking.{n}" in found else "-" for n in NAMES]
    cells += [f"{found['embedding.cosine_mean']:.4f}", f"{found['similarity.spearman']:.4f}", f"{4 * ratio * 384:.0f}"]
    print("| " + " | ".join([name, *cells]) + " |")


print("| precision | " + " | ".join(NAMES) + " | cosine_mean | spearman | bytes |")
print("|---|" + "---|" * (len(NAMES) + 3))
for name in (sys.argv[1] if len(sys.argv) > 1 else "fp32,int8").split(","):
    for kind in ("", *KINDS):
        target = Target(parse_precision(f"{name}+{kind}" if kind else name), "minilm", "core")
        row(str(target.precision), harness.comparison(target))
golden, suite = harness.golden("minilm", "core").vectors, harness.suite("core")
end = np.abs(golden[list(suite.documents)]).max()
ranges = np.stack([np.full(golden.shape[1], -end), np.full(golden.shape[1], end)]).astype(np.float32)
for kind in SCALAR:
    row(f"fp32+{kind}, one range", Comparison.of(suite, golden, golden).quantize(kind, ranges))
