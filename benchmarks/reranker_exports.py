"""A cross-encoder's int8 by qguard beside sentence-transformers' own quantized export: accuracy, size and latency, in one run.

Accuracy is against the fp32 golden of the configured cross-encoder on the first configured suite. Latency is the time of fp32 in
ONNX Runtime over the file's, one thread, for one pair and for 100 candidates of 64 tokens: the median of ten rounds in which all
files take turns.

usage: python benchmarks/reranker_exports.py --config FOLDER [--make MODEL] [--peer NAME=FILE.onnx …] [--precisions int8,int4]
With --make, FOLDER is filled first: every fourth query of core with its candidates, every sixth of its pairs, and the golden of
MODEL. "per tensor" is what ONNX Runtime's dynamic quantization writes with one scale a matrix.
FOLDER holds a pyproject.toml with one cross-encoder and its golden; benchmarks/peer_exports.py writes the peers' files.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from qguard.config import load_config
from qguard.goldens import record
from qguard.judging.session import Session, Target
from qguard.latency.check import Bucket, spec_of
from qguard.precisions import Precision, parse_precision
from qguard.precisions.dynamic import quantize
from qguard.suites import BUILTIN

BUCKETS = (Bucket(64, 1), Bucket(64, 100))
ROUNDS = 10
SHOWN = (
    "order.tau", "order.overlap@5", "order.top1", "order.inversions", "score.p99_error", "score.max_error",
    "score.bias", "task.ndcg@10_retention", "artifact.size_ratio", "artifact.granularity",
)  # fmt: skip


def measured(session: Session, target: Target) -> tuple[dict[str, float], list[str]]:
    """What the gate measures of a file, and the checks that do not hold."""
    found = [c for family in ("artifact", "score", "order", "task") for c in session.checks(target, family)]
    return {c.name: c.value for c in found if c.slice is None}, [c.label for c in found if c.outcome == "fail"]


def make(folder: Path, model: str) -> None:
    """A configuration of one cross-encoder, a part of the suite core, and the golden of it."""
    part = folder / "part"
    part.mkdir(parents=True)

    def rows(name: str) -> list[Any]:
        return [json.loads(line) for line in (BUILTIN["core"] / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]

    candidates = {row["query"]: row for row in rows("candidates")}
    queries = [row for row in rows("queries") if row["_id"] in candidates][::4]
    parts = {
        "queries": queries,
        "corpus": rows("corpus"),
        "candidates": [candidates[row["_id"]] for row in queries],
        "pairs": rows("pairs")[::6],
    }
    for name, some in parts.items():
        (part / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["part"]\n[tool.qguard.models]\nreranker = {{ ref = {json.dumps(model)}, threshold = 0.5 }}\n'
        '[tool.qguard.suite.part]\npath = "part"\n',
        encoding="utf-8",
    )
    session = Session(load_config(folder))
    record(session.model("reranker"), session.suite_of("part", "reranker"), session.config.golden_root, "benchmark")


def times(specs: dict[str, Any], batch: Any) -> dict[str, float]:
    """Median seconds of one run of each file, all in turn."""
    arms = {name: spec.arm(batch) for name, spec in specs.items()}
    for arm in arms.values():
        arm.open()
        arm.block(2, 0)
    seen: dict[str, list[int]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            seen[name] += [wall for wall, _ in arm.block(1, 3)]
    return {name: statistics.median(values) / 1e9 for name, values in seen.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--precisions", default="int8,int8-dynamic")
    parser.add_argument("--make", metavar="MODEL")
    args = parser.parse_args()
    if args.make:
        make(args.config, args.make)
    config = load_config(args.config)
    (model,), suite = config.models, config.suites[0]
    judged: list[tuple[str, Session, Precision]] = [
        (name, Session(config), parse_precision(name)) for name in args.precisions.split(",")
    ]
    for given in args.peer:
        name, _, file = given.partition("=")
        judged.append((name, Session(config, artifact_path=Path(file)), parse_precision("int8-dynamic")))
    own = Session(config)
    coarse, fp32 = args.config / "per-tensor.onnx", own.fp32(model, "onnx").file
    assert fp32 is not None
    quantize(fp32, coarse, per_channel=False)
    judged.append(("per tensor", Session(config, artifact_path=coarse), parse_precision("int8-dynamic")))
    specs = {"fp32": spec_of(own.fp32(model, "onnx"), Precision("fp32", "onnx"), 1)}
    rows = {}
    for name, session, precision in judged:
        target = Target(precision, model, suite)
        rows[name] = *measured(session, target), session.artifact(precision, model).bytes
        specs[name] = spec_of(session.artifact(precision, model), precision, 1)
    print("| |", " | ".join(rows), "|")
    print("|---|" + "--:|" * len(rows))
    for metric in SHOWN:
        print(f"| `{metric}` |", " | ".join(f"{v[metric]:.4f}" if metric in v else "" for v, _, _ in rows.values()), "|")
    print("| MB |", " | ".join(f"{size / 1e6:.1f}" for _, _, size in rows.values()), "|")
    for bucket in BUCKETS:
        seconds = times(specs, bucket.fill(own.golden(model, suite).token_ids))
        print(
            f"| speed {bucket}, fp32 = 1 |",
            " | ".join(f"{seconds['fp32'] / seconds[name]:.2f}" for name in rows),
            "|",
            flush=True,
        )
    print("| verdict |", " | ".join("fail" if failed else "pass" for _, failed, _ in rows.values()), "|")
    for name, (_, failed, _) in rows.items():
        print(f"{name}: {', '.join(failed) or 'all hold'}")


if __name__ == "__main__":
    main()
