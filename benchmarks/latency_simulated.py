"""Errors of the latency rule in simulated trials, beside another commit's rule on the same noise. Needs no model.

usage: python benchmarks/latency_simulated.py [TRIALS] [REV]        (default: 10000 6ad15be)

Each row is a kind of noise and a true ratio. `equal` compares an artifact with itself at a margin of 5 %; `at the limit` is an
artifact exactly as slow as the bound allows, where the rule promises at most 0.5 % FAIL and 1 % PASS; `2 x` is twice as fast as
a bound of 1. The noise of a block is the same in both rules' trials, block by block.
"""

from __future__ import annotations

import importlib.util
import math
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import numpy as np

import qguard.latency.decision
import qguard.latency.trial

RUN = 0.02  # seconds of a run of the baseline
BUDGET = 10.0
LIMIT = math.log(1.05)


def rule_of(rev: str) -> tuple[ModuleType, ModuleType]:
    """``qguard.latency.decision`` and ``qguard.latency.trial`` of a commit, beside those of today."""
    loaded = {}
    name = "qguard.latency.decision"
    today = sys.modules[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for module in ("decision", "trial"):
                source = subprocess.run(
                    ["git", "show", f"{rev}:qguard/latency/{module}.py"], check=True, capture_output=True
                ).stdout
                file = Path(folder, f"{module}.py")
                file.write_bytes(source)
                spec = importlib.util.spec_from_file_location(f"then_{module}", file)
                assert spec is not None
                assert spec.loader is not None
                loaded[module] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(loaded[module])
                sys.modules[name] = loaded["decision"]  # which the trial imports
        finally:
            sys.modules[name] = today
    return loaded["decision"], loaded["trial"]


def independent(rng: np.random.Generator, count: int) -> Any:
    """2 % a block."""
    return 0.02 * rng.normal(size=count)


def autocorrelated(rng: np.random.Generator, count: int) -> Any:
    """4 % a block, correlated by .8 with the block before."""
    noise = 0.04 * rng.normal(size=count)
    for i in range(1, count):
        noise[i] = 0.8 * noise[i - 1] + 0.6 * noise[i]
    return noise


def drifting(rng: np.random.Generator, count: int) -> Any:
    """2 % a block, and a clock that slows by 0.1 % a block."""
    return 0.02 * rng.normal(size=count) + 0.001 * np.arange(count)


def heavy(rng: np.random.Generator, count: int) -> Any:
    """Student's t with 2 degrees of freedom, 2 % a block; no block is twice as fast as it should be, whatever it draws."""
    return np.clip(0.02 * rng.standard_t(2, size=count), -math.log(2), 3)


def neighbor(rng: np.random.Generator, count: int) -> Any:
    """A neighbor that slows blocks by half, in stretches of 5 on average, a third of the time; nothing interrupts a run."""
    on, out = rng.random() < 1 / 3, np.empty(count)
    for i in range(count):
        on = rng.random() < (0.8 if on else 0.1)
        out[i] = math.log(1.5) if on else 0.0
    return out + 0.01 * rng.normal(size=count)


def coin(rng: np.random.Generator, count: int) -> Any:
    """Each block twice as slow with a probability of one half: the worst case of the early look."""
    return math.log(2) * (rng.random(count) < 0.5)


KINDS: tuple[Callable[[np.random.Generator, int], Any], ...] = (independent, autocorrelated, drifting, heavy, neighbor, coin)


EFFECTS = (("equal", 1.0, LIMIT), ("at the limit", 1.05, LIMIT), ("+10 %", 1.1, LIMIT), ("2 x", 0.5, 0.0))


class World:
    """Simulated time and the noise of each block, which depends on nothing but the seed."""

    def __init__(self, kind: Callable[[np.random.Generator, int], Any], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.noise, self.luck = kind(rng, 800).tolist(), (0.01 / math.sqrt(2) * rng.normal(size=80)).tolist()
        self.now, self.blocks, self.sessions = 0.0, 0, 0


class Simulated:
    """An arm of that world.

    Args:
        world: Whose time passes.
        seconds: Of a run.
    """

    def __init__(self, world: World, seconds: float) -> None:
        self.world, self.seconds, self.luck = world, seconds, 0.0

    def open(self) -> None:
        """Draw the luck of a session."""
        self.luck = self.world.luck[self.world.sessions % 80]
        self.world.sessions += 1

    def close(self) -> None:
        """Nothing is kept."""

    def block(self, discard: int, timed: int) -> list[tuple[int, int]]:
        """Let the time of the runs pass; those that are timed are equal."""
        world = self.world
        took = self.seconds * math.exp(self.luck + world.noise[world.blocks % 800])
        world.blocks += 1
        world.now += (discard + timed) * took
        return [(int(took * 1e9), int(took * 1e9))] * timed


def main() -> None:
    """Simulate and print the table."""
    count, rev = int((sys.argv[1:] or ["10000"])[0]), (sys.argv[2:] or ["6ad15be"])[0]
    rules = {"now": (qguard.latency.decision, qguard.latency.trial), rev: rule_of(rev)}
    print(f"{count} trials a row; FAIL and PASS in %, mean pairs\n")
    print("| noise | true ratio | " + " | ".join(f"{name}: FAIL | PASS | pairs" for name in rules) + " |")
    print("|---|---|" + "---|---|---|" * len(rules))
    for kind in KINDS:
        for what, ratio, limit in (
            ("equal", 1.0, LIMIT),
            ("at the limit", 1.05, LIMIT),
            ("+10 %", 1.1, LIMIT),
            ("2 x", 0.5, 0.0),
        ):
            cells = []
            for decision, trial in rules.values():
                found, pairs = Counter[str](), []
                for seed in range(count):
                    world = World(kind, seed)
                    arms = Simulated(world, RUN), Simulated(world, RUN * ratio)
                    options = {"tokens": 64, "budget": BUDGET, "seed": random.Random(seed).randrange(2**32)}
                    one = trial.run_trial(*arms, decision.Rule(limit), clock=lambda world=world: world.now, **options)
                    found[one.look.outcome] += 1
                    pairs.append(one.look.pairs)
                cells += [f"{100 * found['fail'] / count:.2f}", f"{100 * found['pass'] / count:.2f}", f"{mean(pairs):.0f}"]
            print(f"| {kind.__name__} | {what} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
