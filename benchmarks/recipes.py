"""Every recipe side by side on one model: accuracy, invariance, size and speed; as a table and as a picture.

Accuracy is against the golden of the configured model on ``core``, and against fp32 on texts that nobody tuned on. Speed is
the time of fp32 in ONNX Runtime over the recipe's, all arms taking turns in one process (medians over rounds; for rounds of
new sessions and intervals see the latency gate). Artifacts of other tools join with --artifact NAME=FILE.onnx.

Half precision in torch is left out unless it is named.

usage: python benchmarks/recipes.py [--config FOLDER] [--model NAME] [--precisions a,b] [--artifact NAME=PATH …]
                                    [--fresh FILE.jsonl …] [--threads N] [--markdown OUT.md] [--picture OUT.svg] [--json OUT]
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from texts import texts_of

from qguard.config import load_config
from qguard.errors import QguardError
from qguard.harness import Harness, Target
from qguard.latency.check import Bucket, spec_of
from qguard.precisions import RECIPES, Precision, parse_precision

BUCKETS = (Bucket(64, 1), Bucket(64, 32))
ROUNDS = 9
COLUMNS = (
    ("recipe", "recipe"), ("cosine mean", "mean"), ("p01", "p01"), ("min", "min"), ("fresh p01", "fresh_p01"),
    ("fresh min", "fresh_min"), ("overlap@10", "overlap"), ("top-1", "top1"), ("invariance", "invariance"),
    ("size", "size"), ("64 x 1", "64x1"), ("64 x 32", "64x32"),
)  # fmt: skip


def accuracy(harness: Harness, target: Target, fresh: list[list[int]], truth: Any) -> dict[str, float]:
    """What the gate measures on core, and cosines on fresh texts."""
    found = {
        c.name: c.value
        for f in ("embedding", "ranking", "invariance", "artifact")
        for c in harness.checks(target, f)
        if not c.slice
    }
    row = {
        "mean": found["embedding.cosine_mean"], "p01": found["embedding.cosine_p01"], "min": found["embedding.cosine_min"],
        "overlap": found["ranking.overlap@10"], "top1": found["ranking.top1"], "invariance": found["invariance.batch_cosine_min"],
        "size": found["artifact.size_ratio"],
    }  # fmt: skip
    if fresh:
        vectors = harness.encoder(target.precision, target.model).encode_ids(fresh).astype(np.float64)
        cosine = (vectors * truth).sum(1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(truth, axis=1))
        row |= {"fresh_p01": float(np.quantile(cosine, 0.01)), "fresh_min": float(cosine.min())}
    return row


def speeds(specs: dict[str, Any], ids: list[list[int]], threads: int) -> dict[str, dict[str, float]]:
    """Per arm and bucket: time of ``fp32`` over its own, each round's medians paired."""
    out: dict[str, dict[str, float]] = {name: {} for name in specs}
    for bucket in BUCKETS:
        arms = {name: spec.arm(bucket.fill(ids)) for name, spec in specs.items()}
        for arm in arms.values():
            arm.open()
        times: dict[str, list[float]] = {name: [] for name in arms}
        discard, timed = (2, 9) if bucket.batch == 1 else (1, 1)
        for turn in range(ROUNDS):
            names = list(arms)
            random.Random(turn).shuffle(names)
            for name in names:
                times[name].append(statistics.median(wall for wall, _ in arms[name].block(discard, timed)))
        for name, arm in arms.items():
            out[name][str(bucket)] = statistics.median(a / b for a, b in zip(times["fp32"], times[name], strict=True))
            out[name][f"{bucket} ms"] = statistics.median(times[name]) / 1e6
            arm.close()
        gc.collect()
    return out


def picture(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Accuracy (overlap@10) against speed (batch 32), one point a recipe."""
    import pygal

    chart = pygal.XY(
        stroke=False, dots_size=5, title=title, x_title="times as fast as fp32 in ONNX Runtime, 64 tokens x 32",
        y_title="overlap@10 with fp32", legend_at_bottom=True, js=[],
    )  # fmt: skip
    for row in rows:
        chart.add(row["recipe"], [{"value": (round(row["64x32"], 2), round(row["overlap"], 4)), "label": row["recipe"]}])
    path.write_bytes(chart.render(disable_xml_declaration=False))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--precisions", help="default: every recipe that can run here")
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--fresh", nargs="+", default=[], type=Path, metavar="FILE.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = load_config(args.config)
    harness = Harness(config)
    model = harness.model(args.model)
    # torch's fp16 takes minutes on a CPU that has no kernels for it
    names = args.precisions.split(",") if args.precisions else [n for n in RECIPES if n != "fp16@torch"]
    texts = [t for file in args.fresh for t in texts_of([file])[: -(-600 // len(args.fresh))]]
    fp32 = harness.encoder(Precision("fp32", "onnx"), args.model)
    fresh = fp32.tokenizer(texts, [None] * len(texts)) if texts else []
    truth = fp32.encode_ids(fresh).astype(np.float64) if texts else None
    table, specs = (
        [],
        {"fp32": spec_of(harness.artifact(Precision("fp32", "onnx"), args.model), Precision("fp32", "onnx"), args.threads)},
    )
    todo: list[tuple[str, Harness, Precision]] = [(str(parse_precision(n)), harness, parse_precision(n)) for n in names]
    for entry in args.artifact:
        name, _, path = entry.partition("=")
        todo.append((name, Harness(config, Path(path)), parse_precision("int8" if "fp32" not in name else "fp32")))
    for name, own, precision in todo:
        try:
            start = time.perf_counter()
            row = {"recipe": name, **accuracy(own, Target(precision, args.model, "core"), fresh, truth)}
            specs[name] = spec_of(own.artifact(precision, args.model), precision, args.threads)
            table.append(row)
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        except QguardError as e:
            print(f"{name}: {e}", file=sys.stderr)
    found = speeds(specs, harness.golden(args.model, "core").token_ids, args.threads)
    table = [{**row, **found[row["recipe"]]} for row in table]
    lines = ["| " + " | ".join(h for h, _ in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in table:
        cells = [
            str(row[k]) if k == "recipe" else "" if k not in row else f"{row[k]:.0%}" if k == "size"
            else f"{row[k]:.2f}" if k.startswith("64") else f"{row[k]:.4f}"
            for _, k in COLUMNS
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if args.picture:
        picture(table, args.picture, f"{args.model}: {model.pipeline.transformer or 'transformer'} on core")


if __name__ == "__main__":
    main()
