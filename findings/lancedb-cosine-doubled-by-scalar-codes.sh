#!/usr/bin/env bash
# lancedb 0.40.0: with the metric cosine, _distance of an IVF_SQ or HNSW_SQ index is twice the cosine distance that IVF_FLAT and a
# search without an index give for the same rows. It is right for l2 and dot. A threshold that was set on one index, as with
# distance_range(), keeps other rows on the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q lancedb==0.40.0 numpy==2.2.6
LANCEDB_LOG=error "$work/venv/bin/python" - "$work" <<'PY'
import sys
from importlib.metadata import version

import lancedb
import numpy as np
import pyarrow

print("lancedb", version("lancedb"))
random = np.random.default_rng(0)
rows = random.standard_normal((2000, 32)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
query = rows[0] + 0.5 * rows[1]
vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 32)
ratios = {}
for metric in ("cosine", "l2", "dot"):
    for kind in ("IvfFlat", "IvfSq", "HnswSq"):
        base = lancedb.connect(f"{sys.argv[1]}/{metric}-{kind}")
        table = base.create_table("a", pyarrow.table({"id": np.arange(len(rows)), "vector": vectors}))
        table.create_index("vector", config=getattr(lancedb.index, kind)(distance_type=metric, num_partitions=4))
        found = table.search(query).distance_type(metric).nprobes(4).limit(20).to_arrow()
        near = rows[found["id"].to_numpy()]
        cosine = near @ query / np.linalg.norm(query)
        true = {"cosine": 1 - cosine, "l2": ((near - query) ** 2).sum(1), "dot": 1 - near @ query}[metric]
        kept = table.search(query).distance_type(metric).nprobes(4).distance_range(upper_bound=0.6).limit(2000).to_arrow()
        ratios[metric, kind] = float(np.median(found["_distance"].to_numpy() / true))
        print(f"{metric:6} {kind:7} _distance is {ratios[metric, kind]:.2f} x the distance; below 0.6 lie {len(kept)} rows")
for (metric, kind), ratio in ratios.items():
    wanted = 2 if metric == "cosine" and kind != "IvfFlat" else 1
    assert abs(ratio - wanted) < 0.05, f"the behavior changed: {metric} {kind} {ratio}"
PY
