"""Many vectors into a store in bounded memory: filled, killed half-way, resumed, proved and searched; seconds and peak memory.

usage: python benchmarks/large_index.py ROWS FOLDER [--store lancedb] [--type IVF_SQ8] [--dim 256] [--pgvector ADDRESS]
       [--param nlist=1024] [--search nprobe=32]

The vectors are drawn around 1,000 centers and lie in a file, so that no model takes time or memory. Each step is a process of its
own: `write` makes the file, `fill, killed` is killed when half of the rows are in, and `resume and measure` goes on, builds the
index, proves it and searches it with 200 queries. Their exact neighbors come from qguard's own search of the file. Peak memory is
that of the process, as the kernel reports it; a store that lives in the process is a part of it, a server is not.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from qguard.indexes.collection import Collection
from qguard.indexes.fill import fill, name_of
from qguard.indexes.measures import Searches, measure
from qguard.indexes.settings import Index
from qguard.indexes.stored import BLOCK, Rows, buckets_of
from qguard.indexes.stores import open_collection
from qguard.indexes.truth import Exact
from qguard.vectors.quantized import unit
from qguard.vectors.search import VectorFile

CENTERS, QUERIES, SPREAD = 1000, 200, 0.6


def drawn(random: np.random.Generator, centers: np.ndarray, count: int) -> np.ndarray:
    """Rows of unit length around centers, float32 (count, dim)."""
    noise = random.standard_normal((count, centers.shape[1]), np.float32)
    return unit(centers[random.integers(0, len(centers), count)] + SPREAD * noise / np.sqrt(centers.shape[1]))


def searches(rows: int, dim: int, folder: Path) -> Searches:
    """What the file holds, and queries like its rows."""
    random = np.random.default_rng(0)
    centers = unit(random.standard_normal((CENTERS, dim), np.float32))
    path = folder / f"vectors-{rows}-{dim}"
    if not path.exists():
        with path.with_suffix(".part").open("wb") as f:
            for start in range(0, rows, BLOCK):
                f.write(drawn(random, centers, min(BLOCK, rows - start)).tobytes())
        path.with_suffix(".part").rename(path)
    queries = drawn(np.random.default_rng(1), centers, QUERIES)
    own, file = np.full(QUERIES, -1), VectorFile(path, rows, dim)
    exact = Exact(queries, file, "dot", own)
    kept = exact.neighbours(100)
    buckets = buckets_of([str(i) for i in range(rows)])
    texts = tuple(map(str, range(QUERIES)))
    return Searches(Rows(file, "float32", buckets), queries, "dot", own, exact, None, (kept.rows, kept.scores), texts)


class Killed:
    """A collection whose process ends without a word when so many rows are in."""

    def __init__(self, collection: Collection, rows: int) -> None:
        self._collection, self._rows = collection, rows

    def rows(self) -> int:
        """As the collection says."""
        return self._collection.rows()

    def insert(self, start: int, vectors: np.ndarray, buckets: np.ndarray) -> None:
        """As the collection does, and then the end."""
        self._collection.insert(start, vectors, buckets)
        if start + len(vectors) >= self._rows:
            os.kill(os.getpid(), signal.SIGKILL)


def step(name: str, index: Index, rows: int, dim: int, folder: Path) -> str:
    """Run one step; what was found."""
    s = searches(rows, dim, folder)
    if name == "write":
        return f"{rows} x {dim} float32"
    if name == "fill, killed":
        collection = open_collection(index, name_of(index, s.rows, "dot"), dim, "float32", "dot")
        fill(Killed(collection, rows // 2), index, s.rows)  # type: ignore[arg-type]
    found = measure(index, s)
    filters = ", ".join(f"{share:.1%} {i.rows[:, 0].mean():.3f}" for share, i in found.filtered.items())
    assert found.filled is not None
    return (
        f"{found.filled.resumed} rows were there; recall@10 {found.items.rows[:, 0].mean():.4f}; under filters {filters}; p50 "
        f"{found.p50:.1f} ms; built in {found.filled.build_seconds:.0f} s; {(found.bytes or 0) / 1e6:.0f} MB; {found.proof.words}"
    )


def pairs(given: list[str]) -> dict[str, int]:
    """Parameters of ``name=number``."""
    return {name: int(value) for name, value in (p.split("=") for p in given)}


def main() -> None:
    """Run the steps as processes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", default="lancedb")
    parser.add_argument("--type", default="IVF_SQ8")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--pgvector", default="")
    parser.add_argument("--param", action="append", default=[])
    parser.add_argument("--search", action="append", default=[])
    parser.add_argument("--step")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    uri = given.pgvector or str(given.folder / ("store.db" if given.store == "milvus" else given.store))
    index = Index("large", given.store, given.type, uri, params=pairs(given.param), search=pairs(given.search))
    if given.step:
        print(step(given.step, index, given.rows, given.dim, given.folder))
        return
    print("| step | minutes | peak memory, MB | |\n|---|--:|--:|---|", flush=True)
    for name in ("write", "fill, killed", "resume and measure"):
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--step", name], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        words = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        words = words or ("killed" if code == -signal.SIGKILL else f"exit code {code}")
        print(f"| {name} | {(time.perf_counter() - start) / 60:.1f} | {usage.ru_maxrss / 1024:.0f} | {words} |", flush=True)


if __name__ == "__main__":
    main()
