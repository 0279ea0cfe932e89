"""The latency of servers on a quiet machine: loads, error rates of the paired rule, and what a stall looks like in both loops.

All servers are the application of ``qguard serve``, each in a process of its own, on loopback. The slower one does real work
after each request: matrix products worth 10 % of its own time.

usage: python benchmarks/endpoint_latency.py [NULL] [SLOWER]    trials of each kind: 100 50. It runs for about 20 minutes.
"""

import math
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from qguard.config import load_config
from qguard.endpoints.settings import Endpoint
from qguard.judging.load import cut_to
from qguard.judging.session import Session
from qguard.latency.decision import FAIL, PASS, Rule, quantile
from qguard.latency.load import CLOSED, CONNECTIONS, CONSTANT, OPEN, Plan, run_load
from qguard.latency.served import ServedSpec
from qguard.latency.trial import run_trial
from qguard.precisions import parse_precision

MODEL, TOKENS, LIMIT = "minilm", 64, math.log(1.05)
STALL = 0.3


class Slower:
    """A served model that works longer by a share of its own time, or stalls once, two seconds after the first request."""

    def __init__(self, model, share: float, stall: float) -> None:
        """See the class."""
        self._model, self._share, self._stall, self._first = model, share, stall, 0.0

    def __getattr__(self, name):
        """All else is the model's."""
        return getattr(self._model, name)

    def vectors(self, *args, **options):
        """As the model's, later."""
        begin = time.perf_counter()
        found = self._model.vectors(*args, **options)
        end = begin + (time.perf_counter() - begin) * (1 + self._share)
        a = np.ones((96, 96), np.float32)
        while time.perf_counter() < end:
            a @ a
        self._first = self._first or begin
        if self._stall and begin - self._first > 2:
            time.sleep(self._stall)
            self._stall = 0.0
        return found


def serve(precision: str, share: float, stall: float) -> None:
    """One server in this process."""
    from qguard.serving.app import application
    from qguard.serving.listening import listen, run, url
    from qguard.serving.model import ServedModel

    session, wanted = Session(load_config(Path())), parse_precision(precision)
    model = ServedModel(MODEL, precision, session.encoder(wanted, MODEL), session.artifact(wanted, MODEL).pipeline)
    listening = listen("127.0.0.1", 0)
    print(url(listening), flush=True)
    run(application(Slower(model, share, stall) if share or stall else model), listening, sys.stdin)


@contextmanager
def served(precision: str = "int8", share: float = 0.0, stall: float = 0.0, clients: int = 1):
    """A server in a process of its own."""
    command = [sys.executable, __file__, "--serve", precision, str(share), str(stall)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield ServedSpec(Endpoint(precision, process.stdout.readline().strip()), model=MODEL, clients=clients)
        process.stdin.close()


def texts(session: Session):
    """Requests of one text of 64 tokens."""
    tokenizer = session.tokenizer(parse_precision("int8"), MODEL)
    return tuple((t,) for t in cut_to(session.suite("core").texts, TOKENS, 256, lambda some: map(len, tokenizer(some))))


def load(spec: ServedSpec, batch, plan: Plan):
    """One load."""
    requests = spec.requests(batch, CONNECTIONS)
    try:
        return run_load(requests, plan)
    finally:
        requests.close()


def trials(name: str, baseline: ServedSpec, candidate: ServedSpec, batch, count: int) -> None:
    """A row of the table of error rates."""
    rule, outcomes, seconds, ratios = replace(Rule(LIMIT), redrawn=False), [], [], []
    for seed in range(count):
        found = run_trial(baseline.arm(batch), candidate.arm(batch), rule, tokens=TOKENS, seed=seed)
        outcomes.append(found.look.outcome)
        seconds.append(found.seconds)
        ratios.append(math.exp(found.look.estimate))
    fails, passes = outcomes.count(FAIL), outcomes.count(PASS)
    print(
        f"| {name} | {count} | {fails} | {passes} | {count - fails - passes} | {statistics.median(seconds):.1f} "
        f"| {statistics.median(ratios):.3f} |",
        flush=True,
    )


def loads(batch) -> None:
    """The table of loads, and the one of a stall."""
    print("\n| precision | load | p50 ms | p95 ms | p99 ms | per second | requests | failed | first ms | lag ms | |")
    print("|---" * 11 + "|")
    for precision in ("int8", "fp32"):
        with served(precision) as spec:
            one = load(spec, batch, Plan(CLOSED, 10))
            half = round(one.throughput / 2)
            plans = [Plan(CLOSED, 10, clients=4), Plan(OPEN, 30, rate=half), Plan(OPEN, 30, rate=half, arrivals=CONSTANT)]
            for found in [one, *(load(spec, batch, plan) for plan in plans)]:
                row(precision, found)
    print(f"\nA server that stalls once for {STALL * 1000:.0f} ms:\n")
    print("| precision | load | p50 ms | p95 ms | p99 ms | per second | requests | failed | first ms | lag ms | |")
    print("|---" * 11 + "|")
    for plan in (Plan(CLOSED, 8), Plan(OPEN, 8, rate=50)):
        with served("int8", stall=STALL) as spec:
            row("int8", load(spec, batch, plan))


def row(precision: str, found) -> None:
    """One load."""
    p50, p95, p99 = (quantile(found.latencies, q) * 1000 for q in (0.5, 0.95, 0.99))
    print(
        f"| {precision} | {found.plan} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {found.throughput:.0f} | {len(found.latencies)} "
        f"| {found.failed} | {found.cold * 1000:.1f} | {found.lag * 1000:.1f} | {found.unmeasured or 'measured'} |",
        flush=True,
    )


def main() -> None:
    """Print all tables."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
        return
    null, slower = (int(a) for a in [*sys.argv[1:], *("100", "50")[len(sys.argv) - 1 :]])
    batch = texts(Session(load_config(Path())))
    loads(batch)
    print("\n| condition | trials | FAIL | PASS | undecided | median s | median ratio |")
    print("|---" * 7 + "|")
    for clients in (1, 4):
        with served(clients=clients) as a, served(clients=clients) as b, served(share=0.1, clients=clients) as c:
            trials(f"A against A, {clients} clients", a, b, batch, null)
            trials(f"A + 10 % against A, {clients} clients", a, c, batch, slower)
        with served("fp32", clients=clients) as a, served(clients=clients) as b:
            trials(f"int8 against fp32, {clients} clients", a, b, batch, 5)


if __name__ == "__main__":
    main()
