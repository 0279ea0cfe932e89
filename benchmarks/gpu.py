"""Reduced precisions in torch against fp32 on one device: time and accuracy, as dated Markdown tables.

Times are of the transformer alone, with token ids already on the device: arms take turns in random order, every run is
waited for (torch.cuda.synchronize on CUDA), a ratio is fp32 over the arm within one round, and medians over rounds are
printed. Accuracy is that of the gate, against the recorded golden.

usage: python benchmarks/gpu.py [--device cuda|cpu] [--quick] [--compile] [--tf32]
                               [--precisions fp16,bf16,int8] [--shapes 64x32,128x256] [--threads N]
"""

from __future__ import annotations

import argparse
import datetime
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from qguard.config import load_config
from qguard.encoders import open_runtime
from qguard.errors import QguardError
from qguard.families import measure
from qguard.judging.session import Session
from qguard.latency.check import Bucket, fingerprint
from qguard.metrics import Comparison
from qguard.precisions import Precision, parse_precision
from qguard.suites import Suite

ROUNDS = 25
TEXTS_QUICK = 60
SHAPES = {"cpu": "16x1,64x1,128x1,16x32,64x32,128x32", "cuda": "16x1,64x1,128x1,16x32,64x32,128x32,64x256,128x256,128x1024"}
METRICS = ("embedding.cosine_mean", "embedding.cosine_p01", "embedding.cosine_min", "ranking.overlap@10", "ranking.top1")
CLAIM = (0.20, 0.50)  # share of fp32's time that fp16 is said to save on a GPU


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Reduced precisions in torch against fp32 on one device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="two small shapes, few rounds and texts: shows that it works")
    parser.add_argument("--compile", action="store_true", help="torch.compile every arm; on CUDA a call is then one CUDA graph")
    parser.add_argument("--tf32", action="store_true", help="let fp32 use the tensor cores (torch's default is not to)")
    parser.add_argument("--shapes", help="tokens x batch, such as 64x32,128x256")
    parser.add_argument("--precisions", default="fp16,bf16,int8", help="names, all in torch")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's own)")
    args = parser.parse_args(argv)
    shapes = "16x1,16x4" if args.quick else args.shapes or SHAPES[args.device]
    buckets = [Bucket(*(int(n) for n in shape.split("x"))) for shape in shapes.split(",")]
    harness = Session(load_config(Path(__file__).parent.parent).model_copy(update={"device": args.device}))
    names = ["fp32", *(n.strip() for n in args.precisions.split(",") if n.strip() != "fp32")]
    precisions = [parse_precision(f"{n}@torch") for n in names]
    runtimes = {p.name: open_torch(harness, p, args) for p in precisions}
    machine = fingerprint(args.threads or 0, args.device)
    print(f"Measured {datetime.datetime.now(datetime.UTC).date()} on {machine.get('device', machine['cpu'])}, ", end="")
    how = f"{'compiled' if args.compile else 'eager'}{', fp32 by TF32' * args.tf32}{', quick: no figure to quote' * args.quick}"
    print(f"torch {machine['torch']}, {how}.\n")
    if args.tf32:
        import torch

        torch.set_float32_matmul_precision("high")
    accuracy(harness, precisions, args.quick)
    print("\n| precision | tokens x batch | fp32 ms | ms | fp32 / it | middle half | time saved |\n|---|---|---|---|---|---|---|")
    saved: dict[str, list[float]] = {n: [] for n in names}
    if args.compile:
        compile_all(runtimes, len(buckets), args.device)
    token_ids = harness.golden("minilm", "core").token_ids
    for bucket in buckets:
        times = take_turns(runtimes, bucket.fill(token_ids), args.device, 2 if args.quick else ROUNDS)
        fp32 = times["fp32"]
        for name in names[1:]:
            ratios = sorted(a / b for a, b in zip(fp32, times[name], strict=True))
            low, ratio, high = (ratios[int(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
            saved[name].append(1 - 1 / ratio)
            ms = [f"{statistics.median(t) * 1000:.2f}" for t in (fp32, times[name])]
            print(
                f"| {name} | {bucket} | {ms[0]} | {ms[1]} | {ratio:.2f} | {low:.2f} to {high:.2f} | {1 - 1 / ratio:.0%} |",
                flush=True,
            )
    if "fp16" in names:
        inside = sum(CLAIM[0] <= s <= CLAIM[1] for s in saved["fp16"])
        print(f"\nClaim: fp16 saves {CLAIM[0]:.0%} to {CLAIM[1]:.0%} of fp32's time. Found {min(saved['fp16']):.0%} to ", end="")
        print(f"{max(saved['fp16']):.0%}; {inside} of {len(saved['fp16'])} shapes lie within the claim.")


def open_torch(harness: Session, precision: Precision, args: argparse.Namespace) -> Any:
    """The torch runtime of one precision's artifact, on the device."""
    path = harness.artifact(precision, "minilm").runs
    return open_runtime("torch", path, precision.name, args.threads, args.device)


def compile_all(runtimes: dict[str, Any], shapes: int, device: str) -> None:
    """Have every shape compiled by itself; the time of that is not counted.

    On CUDA a small model's time is that of launching its kernels, one by one; a graph launches them together.
    """
    import torch

    torch._dynamo.config.recompile_limit = 2 * shapes * len(runtimes)
    mode = "reduce-overhead" if device == "cuda" else "max-autotune-no-cudagraphs"
    for runtime in runtimes.values():
        runtime.model = torch.compile(runtime.model, mode=mode, dynamic=False)


def accuracy(harness: Session, precisions: list[Precision], quick: bool) -> None:
    """The gate's own metrics, always uncompiled; ``quick`` judges the first texts only."""
    suite, golden = harness.suite("core"), harness.golden("minilm", "core")
    count = TEXTS_QUICK if quick else len(suite.texts)
    if quick:
        suite = Suite("quick", suite.texts[:count], suite.slices[:count])
    print(f"| precision | size | {' | '.join(m.partition('.')[2] for m in METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
    base = harness.artifact(precisions[0], "minilm").bytes
    for precision in precisions:
        vectors = harness.encoder(precision, "minilm").encode_ids(golden.token_ids[:count])
        comparison = Comparison.of(suite, golden.vectors[:count], vectors)
        found = {m.name: m.value for f in ("embedding", "ranking") for m in measure(comparison, f) if m.slice is None}
        size = harness.artifact(precision, "minilm").bytes / base
        print(f"| {precision.name} | {size:.1%} | {' | '.join(f'{found[m]:.5f}' for m in METRICS)} |")


def take_turns(runtimes: dict[str, Any], batch: Any, device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of one run, a median for each round and arm.

    Args:
        runtimes: Arms by name.
        batch: input_ids and attention_mask, int64 (batch, tokens).
        device: Where they run.
        rounds: How often every arm has its turn, after one that warms up.
    """
    import torch

    ids, mask = (torch.from_numpy(a).to(device) for a in batch)
    pick, times = random.Random(0), {name: list[float]() for name in runtimes}

    def run(name: str) -> float:
        torch.compiler.cudagraph_mark_step_begin()  # the outputs of the call before are no longer needed
        start = time.perf_counter()
        runtimes[name].model(input_ids=ids, attention_mask=mask)
        if device == "cuda":
            torch.cuda.synchronize()  # a call returns when its kernels are queued, not when they are done
        return time.perf_counter() - start

    with torch.inference_mode():
        for number in range(rounds + 1):
            for name in pick.sample(list(runtimes), len(runtimes)):
                first = run(name)  # brings weights back into the caches
                spent = [run(name) for _ in range(max(1, min(20, int(0.05 / first))))]
                if number:
                    times[name].append(statistics.median(spent))
    return times


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except QguardError as e:
        print(f"gpu.py: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
