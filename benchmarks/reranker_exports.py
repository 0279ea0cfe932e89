"""A cross-encoder's int8 by qguard beside sentence-transformers' own quantized export: accuracy, size and latency, in one run.

Accuracy is against the fp32 golden of the configured cross-encoder on the first configured suite. Latency is the time of fp32 in
ONNX Runtime over the file's, one thread, for one pair and for 100 candidates of 64 tokens: the median of ten rounds in which all
files take turns.

usage: python benchmarks/reranker_exports.py --config FOLDER --peer NAME=FILE.onnx [--peer …] [--precisions int8,int8-dynamic]
FOLDER holds a pyproject.toml with one cross-encoder and its golden; benchmarks/peer_exports.py writes the peers' files.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from qguard.config import load_config
from qguard.judging.session import Session, Target
from qguard.latency.check import Bucket, spec_of
from qguard.precisions import Precision, parse_precision

BUCKETS = (Bucket(64, 1), Bucket(64, 100))
ROUNDS = 10
SHOWN = (
    "order.tau", "order.overlap@5", "order.top1", "order.inversions", "score.p99_error", "score.max_error",
    "task.ndcg@10_retention", "artifact.granularity",
)  # fmt: skip


def measured(session: Session, target: Target) -> tuple[dict[str, float], list[str]]:
    """What the gate measures of a file, and the checks that do not hold."""
    found = [c for family in ("artifact", "score", "order", "task") for c in session.checks(target, family)]
    return {c.name: c.value for c in found if c.slice is None}, [c.label for c in found if c.outcome == "fail"]


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
    args = parser.parse_args()
    config = load_config(args.config)
    (model,), suite = config.models, config.suites[0]
    judged: list[tuple[str, Session, Precision]] = [
        (name, Session(config), parse_precision(name)) for name in args.precisions.split(",")
    ]
    for given in args.peer:
        name, _, file = given.partition("=")
        judged.append((name, Session(config, artifact_path=Path(file)), parse_precision("int8-dynamic")))
    own = Session(config)
    specs = {"fp32": spec_of(own.fp32(model, "onnx"), Precision("fp32", "onnx"), 1)}
    rows = {}
    for name, session, precision in judged:
        target = Target(precision, model, suite)
        rows[name] = *measured(session, target), session.artifact(precision, model).bytes
        specs[name] = spec_of(session.artifact(precision, model), precision, 1)
    took = {b: times(specs, b.fill(own.golden(model, suite).token_ids)) for b in BUCKETS}
    print("| |", " | ".join(rows), "|")
    print("|---|" + "--:|" * len(rows))
    for metric in SHOWN:
        print(f"| `{metric}` |", " | ".join(f"{values[metric]:.4f}" for values, _, _ in rows.values()), "|")
    print("| MB |", " | ".join(f"{size / 1e6:.1f}" for _, _, size in rows.values()), "|")
    for bucket, seconds in took.items():
        print(f"| speed {bucket}, fp32 = 1 |", " | ".join(f"{seconds['fp32'] / seconds[name]:.2f}" for name in rows), "|")
    print("| verdict |", " | ".join("fail" if failed else "pass" for _, failed, _ in rows.values()), "|")
    for name, (_, failed, _) in rows.items():
        print(f"{name}: {', '.join(failed) or 'all hold'}")


if __name__ == "__main__":
    main()
