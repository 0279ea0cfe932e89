"""False alarms and power of the latency rule on real int8 MiniLM at 64 tokens, beside two other rules on the same timings.

Four conditions: A against A and A against A made 10 % slower (extra real work in the arm), each alone and beside a process
that burns a core a third of the time. The other rules see the same blocks: pytest-benchmark's median:5% compares the medians
of two halves in time (a stored run and a new one); the t-test takes the interleaved pairs and is looked at as often as ours.

usage: python benchmarks/latency_power.py [NULL] [SLOWER] [LOADED]    trials of each kind: 300 100 100
"""

import math
import multiprocessing
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy import stats

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.latency.arms import ArmSpec, LocalArm
from qguard.latency.decision import Rule
from qguard.latency.trial import run_trial
from qguard.precisions import parse_precision

TOKENS, LIMIT = 64, math.log(1.05)


class Slower(LocalArm):
    """The same artifact with extra real work after each run: matrix products worth a share of its own time."""

    share = 0.1

    def open(self) -> None:
        """Open the session and find out how much work the share is."""
        super().open()
        rng = np.random.default_rng(0)
        a = rng.normal(size=(96, 96)).astype(np.float32)
        base = statistics.median(w for w, _ in super().block(3, 15))
        start = time.perf_counter_ns()
        for _ in range(300):
            a @ a
        one = (time.perf_counter_ns() - start) / 300
        run, count = self._runtime, max(1, round(self.share * base / one))

        def slower(ids: object, mask: object) -> object:
            out = run(ids, mask)
            for _ in range(count):
                a @ a
            return out

        self._runtime = slower


def burn() -> None:
    """A third of a core, in bursts of 5 to 50 ms."""
    pick = random.Random(1)
    while True:
        burst = pick.uniform(0.005, 0.05)
        end = time.perf_counter() + burst
        while time.perf_counter() < end:
            pass
        time.sleep(2 * burst)


def main() -> None:
    """Run the four conditions and print the table."""
    null, slower, loaded = (int(a) for a in [*sys.argv[1:], *("300", "100", "100")[len(sys.argv) - 1 :]])
    harness = Session(load_config(Path()))
    artifact = harness.artifact(parse_precision("int8"), "minilm")
    spec = ArmSpec("onnx", str(artifact.file), "int8")
    suite = harness.suite("core")
    ids = next(
        i[: TOKENS - 1] + i[-1:]
        for i in harness.encoder(parse_precision("int8"), "minilm").tokenizer(suite.texts)
        if len(i) >= TOKENS
    )
    batch = np.array([ids]), np.ones((1, TOKENS), np.int64)
    rule = Rule(LIMIT)
    print(f"{'condition':<34}{'trials':>7}{'FAIL':>7}{'PASS':>7}{'incon.':>7}{'median s':>9}{'median:5%':>11}{'t-test':>8}")
    for name, arm, count, neighbour in (
        ("A against A", LocalArm, null, False),
        ("A + 10 % against A", Slower, slower, False),
        ("A against A, busy neighbor", LocalArm, loaded, True),
        ("A + 10 % against A, busy neighbor", Slower, loaded, True),
    ):
        if not count:
            continue
        process = multiprocessing.Process(target=burn, daemon=True)
        if neighbour:
            process.start()
        outcomes, seconds, stored, tests = [], [], 0, 0
        for seed in range(count):
            found = run_trial(LocalArm(spec, batch), arm(spec, batch), rule, tokens=TOKENS, seed=seed)
            outcomes.append(found.look.outcome)
            seconds.append(found.seconds)
            a, b = (np.asarray(t) for t in found.times)
            half = len(a) // 2
            stored += np.median(b[half:]) > 1.05 * np.median(a[:half])
            d = np.log(b / a)
            looks = [d[: 16 * n] for n in range(2, len(d) // 16 + 1)] or [d]
            tests += any(stats.ttest_1samp(x, LIMIT, alternative="greater").pvalue < 0.005 for x in looks)
        if neighbour:
            process.terminate()
            process.join()
        share = {k: outcomes.count(k) for k in ("fail", "pass", "inconclusive")}
        print(
            f"{name:<34}{count:>7}{share['fail']:>7}{share['pass']:>7}{share['inconclusive']:>7}{statistics.median(seconds):>9.1f}"
            f"{stored / count:>11.1%}{tests / count:>8.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
