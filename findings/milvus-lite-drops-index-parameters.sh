#!/usr/bin/env bash
# pymilvus 3.0.2, milvus-lite 3.2.2: add_index(params={"nlist": 4}), the form of Milvus' own guides, builds an IVF_FLAT of milvus-lite
# with its default of 128 lists. The parameter is dropped without a word, and describe_index says "Finished". It arrives as
# params={"params": {"nlist": 4}}. The search that looks at one list then finds the nearest row more often.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pymilvus==3.0.2 milvus-lite==3.2.2 faiss-cpu==1.15.1
"$work/venv/bin/python" - "$work/milvus.db" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from pymilvus import DataType, MilvusClient

print("pymilvus", version("pymilvus"), "milvus-lite", version("milvus-lite"))
random = np.random.default_rng(0)
rows, queries = (random.standard_normal((n, 16)).astype(np.float32) for n in (1000, 64))
nearest = (queries @ rows.T).argmax(1)
client, found, described = MilvusClient(uri=sys.argv[1]), {}, {}
for name, params in (("flat", {"nlist": 4}), ("nested", {"params": {"nlist": 4}})):
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=16)
    client.create_collection(name, schema=schema)
    client.insert(name, [{"id": i, "vector": v} for i, v in enumerate(rows)])
    client.flush(name)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="IVF_FLAT", metric_type="IP", index_name="vector", params=params)
    client.create_index(name, index)
    client.release_collection(name)
    client.load_collection(name)
    described[name] = client.describe_index(name, "vector")
    hits = client.search(name, list(queries), limit=1, search_params={"metric_type": "IP", "params": {"nprobe": 1}})
    found[name] = float(np.mean([bool(h) and h[0]["id"] == n for h, n in zip(hits, nearest)]))
    print(f"{name:7} {params}: {described[name]}; one list finds {found[name]:.2f} of the nearest rows")
assert described["flat"]["state"] == "Finished" and "nlist" not in str(described["flat"]), "the behavior changed"
assert "nlist" in str(described["nested"]) and found["nested"] > found["flat"], "the behavior changed"
PY
