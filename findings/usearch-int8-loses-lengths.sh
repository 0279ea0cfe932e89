#!/usr/bin/env bash
# usearch 2.26.6: an index with dtype="i8" and the metric "ip" or "l2sq" answers as one of cosines, even with exact=True. Vectors of
# other lengths than 1 are scaled to one length before they are rounded, without a word. bf16 and 8-bit floats keep lengths.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q usearch==2.26.6 numpy==2.2.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

print("usearch", version("usearch"))
random = np.random.default_rng(0)
rows = (random.standard_normal((2000, 64)) * random.uniform(0.5, 2, (2000, 1))).astype(np.float32)
queries = random.standard_normal((50, 64)).astype(np.float32)
products = queries @ rows.T
scores = {
    "ip": products,
    "l2sq": 2 * products - (rows**2).sum(1),
    "cosine": products / np.linalg.norm(rows, axis=1),
}
best = {name: np.argsort(-s, axis=1)[:, :10] for name, s in scores.items()}


def shared(a, b):
    return float(np.mean([len(set(x.tolist()) & set(y.tolist())) / 10 for x, y in zip(a, b)]))


for metric in ("ip", "l2sq"):
    for dtype in ("f32", "bf16", "e4m3", "i8"):
        index = Index(ndim=64, metric=metric, dtype=dtype)
        index.add(np.arange(len(rows)), rows)
        found = index.search(queries, 10, exact=True).keys
        own, cosine = shared(found, best[metric]), shared(found, best["cosine"])
        print(f"{metric:4} {dtype:4} of the 10 nearest by {metric} {own:.2f} are found, of those by cosine {cosine:.2f}")
        assert (cosine > 0.9 > 0.5 > own) if dtype == "i8" else own > 0.9, "the behavior changed"
PY
