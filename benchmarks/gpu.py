"""Reduced precisions against fp32 on one device, in torch and in ONNX Runtime: time, accuracy and energy, as dated tables.

Two times are measured of each precision. *Transformer*: token ids are on the device already, and the outputs stay there.
*Gate*: token ids are in host memory, and one vector a text is fetched, as the latency gate times it. Arms take turns in random
order, every run is waited for, a ratio is fp32 over the arm within one round, and medians over rounds are printed. The gate's
ratio is over fp32 of the same runtime, the other one over fp32 in torch. Accuracy is that of the gate, against the recorded
golden. Energy is that of the whole card by NVML, while the gate's run is repeated. What cannot be measured is said in words.

usage: python benchmarks/gpu.py [--device cuda|cpu] [--quick] [--compile] [--tf32] [--energy]
                               [--precisions fp16,bf16,int8,fp16@onnx-cuda] [--shapes 64x32,128x256] [--threads N]
                               [--config FOLDER] [--model NAME] [--suite NAME]
A precision without a runtime is torch's. With --device cpu, NAME@onnx stands in for NAME@onnx-cuda.
"""

from __future__ import annotations

import argparse
import datetime
import random
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qguard.config import load_config
from qguard.encoders import open_runtime
from qguard.errors import QguardError, first_line
from qguard.families import measure
from qguard.judging.session import Session
from qguard.latency.check import Bucket, fingerprint
from qguard.metrics import Comparison
from qguard.precisions import Precision, fp32_of, parse_precision
from qguard.suites import Suite

ROOT = Path(__file__).parent.parent
ROUNDS = 25
TEXTS_QUICK = 60
SHAPES = {"cpu": "16x1,64x1,128x1,16x32,64x32,128x32", "cuda": "16x1,64x1,128x1,16x32,64x32,128x32,64x256,128x256,128x1024"}
METRICS = ("embedding.cosine_mean", "embedding.cosine_p01", "embedding.cosine_min", "ranking.overlap@10", "ranking.top1")
CLAIM = (0.20, 0.50)  # share of fp32's time that fp16 is said to save on a GPU
BASE = "fp32@torch"
SECONDS = 4.0  # of one measurement of energy: NVML's counter moves every 20 to 100 ms
SAMPLE = 0.02  # seconds between two readings of power
Run = Callable[[], Any]


class LeftOut(Exception):
    """Why an arm, or energy, cannot be measured here."""


class Arm:
    """One precision on the device.

    Args:
        harness: The project.
        precision: What it is.
        args: Of the command line.

    Raises:
        QguardError: where it cannot be made or opened.
    """

    def __init__(self, harness: Session, precision: Precision, args: argparse.Namespace) -> None:
        self.name = f"{precision.name}@{precision.runtime}"
        self.base = f"fp32@{fp32_of(precision.runtime).runtime}"
        self.precision, self.device, self.compiled = precision, args.device, False
        artifact = harness.artifact(precision, args.model)
        how = args.threads, args.device, artifact.feeding
        self.runtime = open_runtime(precision.runtime, artifact.runs, precision.name, *how)

    @property
    def torch(self) -> bool:
        """Whether torch computes it."""
        return self.precision.runtime == "torch"

    def transformer(self, batch: Any) -> Run:
        """One run whose inputs are on the device, and whose outputs stay there.

        Args:
            batch: input_ids, attention_mask and, of pairs, token_type_ids, each int64 (batch, tokens).
        """
        return self._in_torch(batch) if self.torch else self._in_onnx(batch)

    def gate(self, batch: Any) -> Run:
        """One run as the latency gate times it: one vector a text fetched on CUDA."""
        fetch = getattr(self.runtime, "first_tokens", self.runtime)  # ONNX Runtime on the CPU has them in host memory anyway
        if not self.torch:
            return lambda: fetch(*batch)

        def run() -> None:
            self._step()
            fetch(*batch)

        return run

    def _step(self) -> None:
        import torch

        torch.compiler.cudagraph_mark_step_begin()  # the outputs of the call before are no longer needed

    def _in_torch(self, batch: Any) -> Run:
        import torch

        names = ("input_ids", "attention_mask", "token_type_ids")
        given = {name: torch.from_numpy(a).to(self.device) for name, a in zip(names, batch, strict=False)}

        def run() -> None:
            self._step()
            with torch.inference_mode():
                self.runtime.model(**given)
            if self.device == "cuda":
                torch.cuda.synchronize()  # a call returns when its kernels are queued, not when they are done

        return run

    def _in_onnx(self, batch: Any) -> Run:
        import onnxruntime as ort

        session, interface = self.runtime.session, self.runtime.interface
        binding = session.io_binding()
        for name, value in interface.feeds(*batch).items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, self.device, 0))
        binding.bind_output(interface.output.port.name, self.device)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


class Meter:
    """The card's energy by NVML.

    Attributes:
        how: By its counter or by sampled power, in words.

    Raises:
        LeftOut: without ``nvidia-ml-py``, a card, or what it would measure.
    """

    def __init__(self, device: str) -> None:
        from qguard.machine.cuda import card

        if device != "cuda":
            raise LeftOut("a CUDA device is measured, and this run is on the CPU")
        try:
            import pynvml
        except ImportError:
            raise LeftOut("nvidia-ml-py is not installed; run: pip install nvidia-ml-py") from None
        found = card()
        if found is None:
            raise LeftOut("the driver finds no CUDA device")
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # by its address: NVML counts cards in another order than CUDA
            self._handle = pynvml.nvmlDeviceGetHandleByPciBusId(found.bus.encode())
            self.how = self._choose()
        except pynvml.NVMLError as e:
            raise LeftOut(f"NVML does not tell it: {first_line(e)}") from e

    def _choose(self) -> str:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:
            self._nvml.nvmlDeviceGetPowerUsage(self._handle)
            self.counts = False
            return f"power sampled every {SAMPLE * 1000:.0f} ms"
        self.counts = True
        return "its energy counter"

    def joules(self, run: Run, seconds: float) -> tuple[float, float, int]:
        """Energy of repeated runs.

        Args:
            run: Is waited for when it returns.
            seconds: At least so long.

        Returns:
            Joules, seconds and the number of runs.
        """
        energy = self._counted if self.counts else self._sampled
        return energy(lambda: repeat(run, seconds))

    def _counted(self, work: Callable[[], tuple[float, int]]) -> tuple[float, float, int]:
        def read() -> float:  # mJ since the driver was loaded
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000

        before = read()
        spent, runs = work()
        return read() - before, spent, runs

    def _sampled(self, work: Callable[[], tuple[float, int]]) -> tuple[float, float, int]:
        watts, done = list[float](), threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLE):
                watts.append(self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            spent, runs = work()
        finally:
            done.set()
            thread.join()
        if not watts:
            raise LeftOut("no reading of power fell into the run")
        return statistics.mean(watts) * spent, spent, runs


def repeat(run: Run, seconds: float) -> tuple[float, int]:
    """Run for at least so many seconds; gives the seconds and the number of runs."""
    start, runs = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        run()
        runs += 1
    return spent, runs


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Reduced precisions against fp32 on one device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="two small shapes, few rounds and texts: shows that it works")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile torch's arms; on CUDA a call is then one CUDA graph"
    )
    parser.add_argument("--tf32", action="store_true", help="let torch's fp32 use the tensor cores (its default is not to)")
    parser.add_argument("--energy", action="store_true", help="joules for 1,000 texts, by NVML")
    parser.add_argument("--shapes", type=shapes, help="tokens x batch, such as 64x32,128x256")
    parser.add_argument("--precisions", default="fp16,bf16,int8", help="names, in torch where no runtime is named")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's own)")
    parser.add_argument("--config", type=Path, default=ROOT, help="folder of a project (default: qguard's own)")
    parser.add_argument("--model", help="of the project (default: its first)")
    parser.add_argument("--suite", help="of the project, with a golden (default: its first)")
    args = parser.parse_args(argv)
    buckets = args.shapes or shapes("16x1,16x4" if args.quick else SHAPES[args.device])
    harness = Session(load_config(args.config).model_copy(update={"device": args.device}))
    args.model, args.suite = args.model or next(iter(harness.config.models)), args.suite or next(iter(harness.config.suites))
    golden = harness.golden(args.model, args.suite)
    if args.tf32:
        import torch

        torch.set_float32_matmul_precision("high")
    arms, refused = opened(harness, args)
    print(f"Measured {datetime.datetime.now(datetime.UTC).date()} on {heading(args, golden.vectors.shape[1])}.\n")
    for line in refused:
        print(f"Not measured: {line}\n")
    accuracy(harness, arms, args)
    if args.compile:
        compile_all(arms, len(buckets), args.device)
    head = f"precision | tokens x batch | {BASE} ms | ms | {BASE} / it | middle half | time saved"
    print(f"\n| {head} | gate: fp32 ms | gate: ms | gate: fp32 / it |\n|{'---|' * 10}")
    saved, energies = list[float](), list[str]()
    for bucket in buckets:
        batch = bucket.fill(golden.token_ids)
        saved += times(arms, bucket, batch, 2 if args.quick else ROUNDS)
        energies += energy(arms, bucket, batch, args) if args.energy else []
    if energies:
        print("\n" + "\n".join(energies))
    if saved:
        inside = sum(CLAIM[0] <= s <= CLAIM[1] for s in saved)
        print(f"\nClaim: fp16 saves {CLAIM[0]:.0%} to {CLAIM[1]:.0%} of fp32's time. Found {min(saved):.0%} to ", end="")
        print(f"{max(saved):.0%}; {inside} of {len(saved)} shapes lie within the claim.")


def shapes(text: str) -> list[Bucket]:
    """Buckets as they are typed, ``TOKENSxBATCH`` separated by commas."""
    found = [re.fullmatch(r"(\d+)x([1-9]\d*)", part.strip()) for part in text.split(",")]
    if not all(m and int(m[1]) >= 3 for m in found):  # two special tokens and one of text
        raise argparse.ArgumentTypeError(f"expected tokens x batch from 3x1 on, such as 64x32,128x256, found {text!r}")
    return [Bucket(int(m[1]), int(m[2])) for m in found if m]


def heading(args: argparse.Namespace, width: int) -> str:
    """The machine, the libraries, the model and how it was run."""
    machine = fingerprint(args.threads or 0, args.device)
    device = machine.get("device", machine["cpu"])
    cuda = f" (CUDA {machine['cuda']})" if machine.get("cuda") else ""
    how = f"{'compiled' if args.compile else 'eager'}{', fp32 of torch by TF32' * args.tf32}"
    libraries = f"torch {machine['torch']}{cuda}, onnxruntime {machine['onnxruntime']}"
    return f"{device}, {libraries}, {args.model} ({width} wide), {how}{', quick: no figure to quote' * args.quick}"


def opened(harness: Session, args: argparse.Namespace) -> tuple[list[Arm], list[str]]:
    """Every arm that can be opened here, fp32 of each of their runtimes first; and of the others why not.

    Raises:
        QguardError: for an unknown precision, and where fp32 in torch cannot be opened.
    """
    names, refused = list[str](), list[str]()
    for text in (n.strip() for n in args.precisions.split(",")):
        name = text if "@" in text else f"{text}@torch"
        if args.device == "cpu":
            name = name.replace("@onnx-cuda", "@onnx")
        names += [f"fp32@{fp32_of(parse_precision(name).runtime).runtime}", name]
    found = [Arm(harness, parse_precision(BASE), args)]
    for name in dict.fromkeys(names):
        if name == BASE:
            continue
        try:
            found.append(Arm(harness, parse_precision(name), args))
        except QguardError as e:
            refused.append(f"{name}: {e}")
    have = {arm.name for arm in found}
    refused += [f"{arm.name}: its {arm.base} cannot be opened" for arm in found if arm.base not in have]
    return [arm for arm in found if arm.base in have], refused


def compile_all(arms: list[Arm], shapes: int, device: str) -> None:
    """Have every shape of torch's arms compiled by itself; the time of that is not counted.

    On CUDA a small model's time is that of launching its kernels, one by one; a graph launches them together.
    """
    import torch

    torch._dynamo.config.recompile_limit = 4 * shapes * len(arms)
    mode = "reduce-overhead" if device == "cuda" else "max-autotune-no-cudagraphs"
    for arm in arms:
        if arm.torch:
            arm.runtime.model, arm.compiled = torch.compile(arm.runtime.model, mode=mode, dynamic=False), True


def accuracy(harness: Session, arms: list[Arm], args: argparse.Namespace) -> None:
    """The gate's own metrics, always uncompiled; ``--quick`` judges the first texts only."""
    suite, golden = harness.suite(args.suite, args.model), harness.golden(args.model, args.suite)
    count = min(TEXTS_QUICK, len(suite.texts)) if args.quick else len(suite.texts)
    if args.quick:
        suite = Suite("quick", suite.texts[:count], suite.slices[:count])
    print(f"| precision | size | {' | '.join(m.partition('.')[2] for m in METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
    base = harness.artifact(arms[0].precision, args.model).bytes
    for arm in arms:
        vectors = harness.encoder(arm.precision, args.model).encode_ids(golden.token_ids[:count])
        comparison = Comparison.of(suite, golden.vectors[:count], vectors)
        found = {m.name: m.value for f in ("embedding", "ranking") for m in measure(comparison, f) if m.slice is None}
        size = harness.artifact(arm.precision, args.model).bytes / base
        print(f"| {arm.name} | {size:.1%} | {' | '.join(f'{found[m]:.5f}' for m in METRICS)} |", flush=True)


def times(arms: list[Arm], bucket: Bucket, batch: Any, rounds: int) -> list[float]:
    """One row for each arm but fp32 in torch; gives the share of time that fp16 in torch saves, where it was measured."""
    inside = take_turns({arm.name: arm.transformer(batch) for arm in started(arms, bucket, batch)}, rounds)
    outside = take_turns({arm.name: arm.gate(batch) for arm in arms if arm.name in inside}, rounds)
    saved = []
    for arm in arms:
        if arm.name not in inside or arm.name == BASE or BASE not in inside:
            continue
        low, ratio, high = ratios(inside[BASE], inside[arm.name])
        row = [arm.name, str(bucket), ms(inside[BASE]), ms(inside[arm.name]), f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"]
        row += [f"{1 - 1 / ratio:.0%}", ms(outside.get(arm.base, [])), ms(outside[arm.name])]
        own = arm.base != arm.name and arm.base in outside
        row.append(f"{ratios(outside[arm.base], outside[arm.name])[1]:.2f}" if own else "")
        print(f"| {' | '.join(row)} |", flush=True)
        saved += [1 - 1 / ratio] if arm.name == "fp16@torch" else []
    return saved


def started(arms: list[Arm], bucket: Bucket, batch: Any) -> list[Arm]:
    """The arms whose first runs succeed on a shape, which is also when torch compiles them; the others are said."""
    found = []
    for arm in arms:
        try:
            arm.transformer(batch)()
            arm.gate(batch)()
        except Exception as e:  # torch's compiler and the device raise many kinds
            what = "it fails when compiled" if arm.compiled else "it fails"
            words = f"not measured: {what}: {first_line(e).replace('|', '/')}"
            print(f"| {arm.name} | {bucket} | {words} |{' |' * 7}", flush=True)
        else:
            found.append(arm)
    return found


def ratios(fp32: list[float], other: list[float]) -> tuple[float, float, float]:
    """fp32 over the other within each round: the ends of the middle half, and the median between."""
    found = sorted(a / b for a, b in zip(fp32, other, strict=True))
    low, median, high = (found[int(q * (len(found) - 1))] for q in (0.25, 0.5, 0.75))
    return low, median, high


def ms(seconds: list[float]) -> str:
    """The median in milliseconds."""
    return f"{statistics.median(seconds) * 1000:.2f}" if seconds else ""


def take_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of one run, a median for each round and arm.

    Args:
        runs: One run of each arm, by name; it is waited for when it returns.
        rounds: How often every arm has its turn, after one that warms up.
    """
    pick, found = random.Random(0), {name: list[float]() for name in runs}

    def timed(name: str) -> float:
        start = time.perf_counter()
        runs[name]()
        return time.perf_counter() - start

    for number in range(rounds + 1):
        for name in pick.sample(list(runs), len(runs)):
            first = timed(name)  # brings weights back into the caches
            spent = [timed(name) for _ in range(max(1, min(20, int(0.05 / first))))]
            if number:
                found[name].append(statistics.median(spent))
    return found


def energy(arms: list[Arm], bucket: Bucket, batch: Any, args: argparse.Namespace) -> list[str]:
    """Lines of a table: the energy of the gate's run, and how much of it is more than the idle card takes."""
    seconds = 0.3 if args.quick else SECONDS
    try:
        meter = Meter(args.device)
        spent, over, _ = meter.joules(lambda: time.sleep(SAMPLE), seconds)
    except LeftOut as e:
        return [f"Energy was not measured for {bucket}: {e}."]
    idle, texts = spent / over, int(np.shape(batch[0])[0])
    lines = [
        f"Energy of {bucket} by {meter.how}, of all that runs on the card; idle {idle:.0f} W.\n",
        "| precision | tokens x batch | texts a second | W | J for 1,000 texts | of it above idle |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        try:
            joules, over, runs = meter.joules(arm.gate(batch), seconds)
        except Exception as e:  # NVML and the device raise many kinds
            lines.append(f"| {arm.name} | {bucket} | not measured: {first_line(e)} | | | |")
            continue
        count = runs * texts
        each = [joules * 1000 / count, (joules - idle * over) * 1000 / count]
        lines.append(f"| {arm.name} | {bucket} | {count / over:.0f} | {joules / over:.0f} | {each[0]:.2f} | {each[1]:.2f} |")
    return [*lines, ""]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except QguardError as e:
        print(f"gpu.py: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
