"""Exact top 10 of 1,000 queries over 1,000,000 vectors of 384 values: qguard from a file against peers that hold them in memory.

Each arm runs in a process of its own, in turn, several times; the peak resident memory is that of the process. The arms'
top-10 sets are compared. faiss (pip install faiss-cpu) and sentence-transformers are left out where they are not installed. The
OpenBLAS that faiss brings picks slow kernels on some CPUs, so faiss has a second arm that tells it which to use.

usage: python benchmarks/search.py [DOCUMENTS] [ROUNDS]
"""

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qguard.machine.cpu import cpu

DIM, QUERIES, K = 384, 1000, 10
TUNED = "faiss, AVX-512 kernels"


def blocks(total: int):  # type: ignore[no-untyped-def]
    """Unit vectors around 1,000 centers, as embeddings of texts on many subjects are, in blocks."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(1000, DIM)).astype(np.float32)
    for start in range(0, total, 50_000):
        n = min(50_000, total - start)
        x = centers[rng.integers(0, 1000, n)] + 1.2 * rng.standard_normal((n, DIM), np.float32)
        yield (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def arm(name: str, folder: Path, total: int) -> None:
    """Search once after a small search that warms up; print seconds, peak MB and the found sets' file."""
    queries = np.fromfile(folder / "queries.f32", np.float32).reshape(-1, DIM)
    if name == "qguard":
        from qguard.vectors.search import VectorFile, top_k

        documents = VectorFile(folder / "documents.f32", total, DIM)
        top_k(queries[:10], VectorFile(folder / "documents.f32", 5000, DIM), K)
        start = time.perf_counter()
        found, _ = top_k(queries, documents, K)
    else:
        held = np.fromfile(folder / "documents.f32", np.float32).reshape(-1, DIM)
        if name.startswith("faiss"):
            import faiss

            index = faiss.IndexFlatIP(DIM)
            index.add(held)
            index.search(queries[:10], K)
            start = time.perf_counter()
            _, found = index.search(queries, K)
        else:
            import torch
            from sentence_transformers.util import semantic_search

            a, b = torch.from_numpy(queries), torch.from_numpy(held)
            semantic_search(a[:10], b[:5000], top_k=K)
            start = time.perf_counter()
            found = np.array([[h["corpus_id"] for h in hits] for hits in semantic_search(a, b, top_k=K)])
    seconds = time.perf_counter() - start
    np.save(folder / f"{name}.npy", np.sort(found, axis=1))
    print(json.dumps({"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Write the vectors, run the arms in turn, print a table."""
    total, rounds = (int(given or default) for given, default in zip([*sys.argv[1:], None, None], (1_000_000, 3), strict=False))
    peers = {"faiss": "faiss", "semantic_search": "sentence_transformers"}
    names = ["qguard", *(n for n, module in peers.items() if importlib.util.find_spec(module))]
    if "faiss" in names and "avx512f" in cpu()[1]:
        names.insert(2, TUNED)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with (folder / "documents.f32").open("wb") as f:
            for block in blocks(total):
                block.tofile(f)
        first = np.fromfile(folder / "documents.f32", np.float32, QUERIES * DIM).reshape(-1, DIM)
        noisy = first + 0.05 * np.random.default_rng(1).standard_normal(first.shape, np.float32)
        (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32).tofile(folder / "queries.f32")
        found: dict[str, list[dict[str, float]]] = {n: [] for n in names}
        for _ in range(rounds):
            for name in names:
                command = [sys.executable, __file__, "--arm", name, place, str(total)]
                env = os.environ | ({"OPENBLAS_CORETYPE": "SkylakeX"} if name == TUNED else {})
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(
            "| search | seconds (median) | all rounds | peak memory, MB | top-10 sets equal to qguard's |\n|---|---|---|---|---|"
        )
        own = np.load(folder / "qguard.npy")
        for name, runs in found.items():
            seconds = [r["seconds"] for r in runs]
            equal = (np.load(folder / f"{name}.npy") == own).all(1).mean()
            every = " ".join(f"{s:.2f}" for s in seconds)
            print(
                f"| {name} | {statistics.median(seconds):.2f} | {every} | {max(r['mb'] for r in runs):.0f} | {equal:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        arm(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
