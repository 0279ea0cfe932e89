"""How often `qguard history` reports a change where there is none, and how often it finds one that was planted. Needs no model.

usage: python benchmarks/history_simulated.py [HISTORIES] [SEED]        (default: 200 1)

Each history has 30 to 60 reports of 249 series: accuracy of a suite and of its slices, and speed. The kinds are

  equal       the same file at every step: accuracy is constant, speed has noise of 3 %; what is planted comes with other files
  white       another file at every step: independent noise in every value
  ar          the same with an autocorrelation of .5
  ar7         the same with one of .7, more than the test reckons with; counted by itself
  heavy       noise of Student's t with 3 degrees of freedom, and speeds of which one in thirty is half as high
  discrete    values that are shares of a few items, nearly always the same
  hosts       three kinds of machines in turn or at random, each with a level of its own, and noise
  moving      the suite, the golden, gates and versions change on the way, values with them

A change is false if any of the series has one in a history without a change. What is planted, in the same noise: a rot of ten
steps, each of .8 standard deviations, the same with its tenth step in the newest report (`now`), and a jump of eight.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from qguard.trend.changes import SLOW, Change
from qguard.trend.history import History, history
from qguard.trend.source import Past, Step

Rng = np.random.Generator
KINDS = ("equal", "white", "ar", "heavy", "discrete", "hosts", "moving")
PHI = {"ar": 0.5, "ar7": 0.7}
METRICS = {
    "embedding.cosine_mean": (0.999, 4e-5), "embedding.cosine_p01": (0.995, 3e-4), "similarity.spearman": (0.998, 2e-4),
    "similarity.p99_error": (0.02, 6e-4), "ranking.overlap@10": (0.972, 2e-3), "ranking.top1": (0.951, 5e-3),
    "ranking.rbo": (0.96, 2e-3), "ranking.inversions": (0.012, 7e-4), "task.ndcg@10_retention": (0.997, 2e-3),
}  # fmt: skip
SLICES = (None, *(f"part{i:02d}" for i in range(26)))
BUCKETS = ("16x1", "64x1", "128x1", "16x32", "64x32", "128x32")
ITEMS = 400
HOSTS = tuple(
    {"cpu": cpu, "class": kind, "cores": 2, "system": "Linux", "python": "3.12", "versions": {}}
    for cpu, kind in (("A", "x86_64 avx2"), ("B", "x86_64 avx2 avx512_vnni"), ("C", "aarch64 i8mm"))
)


def noise(rng: Rng, kind: str, steps: int, series: int) -> Any:
    """Noise (series, steps) of standard deviation 1, or nearly."""
    if kind == "heavy":
        return rng.standard_t(3, (series, steps)) / 3**0.5
    out = rng.standard_normal((series, steps + 30))
    if phi := PHI.get(kind):
        for i in range(1, steps + 30):
            out[:, i] = phi * out[:, i - 1] + (1 - phi * phi) ** 0.5 * out[:, i]
    return out[:, 30:]


def values(rng: Rng, kind: str, steps: int) -> dict[tuple[str, str | None], Any]:
    """Each series (steps,) without a change: accuracy with half of the noise that its items have, speed with 3 %."""
    out: dict[tuple[str, str | None], Any] = {}
    drawn = noise(rng, kind, steps, len(METRICS) * len(SLICES))
    for i, (metric, part) in enumerate((m, s) for m in METRICS for s in SLICES):
        level, error = METRICS[metric]
        items = ITEMS if part is None else ITEMS // 20
        if kind == "discrete":
            flips = rng.random(steps) < rng.choice([0.02, 0.1, 0.3])
            out[metric, part] = np.round(level * items) / items - flips * rng.choice([0.1, 1, 2]) / items
        elif kind == "equal":
            out[metric, part] = np.full(steps, level)
        else:
            out[metric, part] = level + drawn[i] * error / 2
    timed = noise(rng, "ar" if kind == "equal" else kind, steps, len(BUCKETS)) * 0.03
    for i, bucket in enumerate(BUCKETS):
        slow = (rng.random(steps) < 1 / 30) * np.log(0.5) if kind == "heavy" else 0
        out["latency.speedup", bucket] = np.exp(np.log(2.2) + timed[i] + slow)
    return out


def reports(rng: Rng, kind: str, steps: int, plant: Callable[[dict[tuple[str, str | None], Any]], None] = lambda _: None) -> Past:
    """A history of reports; ``plant`` may change the values."""
    found = values(rng, kind, steps)
    plant(found)
    if kind == "hosts":
        hosts = rng.integers(0, 3, steps) if rng.random() < 0.5 else np.arange(steps) * 3 // steps
        offset = {key: rng.normal(0, 1, 3) for key in found}
    turn = sorted(rng.choice(np.arange(3, steps - 3), 4, replace=False).tolist())
    shift = {key: rng.normal(0, 1) for key in found}
    out = []
    for i in range(steps):
        host = HOSTS[int(hosts[i]) if kind == "hosts" else 0]
        moved = kind == "moving"
        checks = []
        for (metric, part), v in found.items():
            value = float(v[i])
            error = 0.03 if metric.startswith("latency") else METRICS[metric][1] * (1 if part is None else 20**0.5)
            if kind == "hosts":
                value += float(offset[metric, part][int(hosts[i])]) * error * 5
            if moved:
                value += shift[metric, part] * error * 5 * ((i >= turn[0]) + (i >= turn[1]))
            bound = {"op": ">=", "number": 0.9 if not moved or i < turn[2] else 0.8, "text": ""}
            checks.append({
                "name": metric, "slice": part, "value": value, "bound": bound if part is None else None, "outcome": "pass",
                "items": 12 + i % 5 if metric.startswith("latency") else ITEMS if part is None else ITEMS // 20,
                "interval": [value - 1.96 * error, value + 1.96 * error], "accepted": None, "detectable": None,
            })  # fmt: skip
        file = "0" if kind == "discrete" or (moved and i < turn[3]) else str(i)
        if kind == "equal":  # another file where accuracy is another
            file = str([float(v[i]) for (metric, _), v in found.items() if not metric.startswith("latency")])
        run = {
            "model": "m", "suite": "s", "precision": "int8", "runtime": "onnx", "vectors": "float32", "host": host,
            "scope": {"golden": {"suite": str(moved and i >= turn[0]), "weights": "w"}, "machine": host["class"]},
            "details": {"provenance": {"golden": {"data_sha256": str(moved and i >= turn[1])}, "versions": {}}},
            "artifact": {"sha256": file, "bytes": 1}, "checks": checks, "left_out": [],
        }  # fmt: skip
        out.append(Step(f"r{i}", {"qguard": "0", "verdict": "pass", "runs": [run]}))
    return Past(tuple(out), "simulation")


def changes(h: History) -> list[Change]:
    """All that were found."""
    return [c for j in h.judged for c in j.changes]


def rot(key: tuple[str, str | None], sd: float, first: int, share: float = 0.8) -> Callable[[dict[Any, Any]], None]:
    """Ten steps down, each of ``share`` standard deviations."""

    def plant(found: dict[Any, Any]) -> None:
        fall = np.clip(np.arange(len(found[key])) - first + 1, 0, 10) * share * sd
        found[key] = found[key] * np.exp(-fall) if key[0].startswith("latency") else found[key] - fall

    return plant


def jump(key: tuple[str, str | None], size: float, first: int) -> Callable[[dict[Any, Any]], None]:
    """One step down."""

    def plant(found: dict[Any, Any]) -> None:
        fall = (np.arange(len(found[key])) >= first) * size
        found[key] = found[key] * np.exp(-fall) if key[0].startswith("latency") else found[key] - fall

    return plant


def stable(rng: Rng, histories: int, kinds: Sequence[str] = KINDS) -> Iterable[tuple[str, int, list[Change]]]:
    """Kind, number of series and false changes of each of several histories without a change."""
    for i in range(histories):
        kind = kinds[i % len(kinds)]
        h = history(reports(rng, kind, int(rng.integers(30, 61))))
        yield kind, len(h.judged), changes(h)


def planted(rng: Rng, kind: str, what: str, key: tuple[str, str | None], sd: float, trials: int) -> dict[str, float]:
    """Shares of trials in which the change was found, at the right place, as what it is; and false changes beside it."""
    tally: Counter[str] = Counter()
    for _ in range(trials):
        steps = int(rng.integers(40, 61))
        first = steps - 10 if what == "now" else int(rng.integers(12, steps - 20))
        plant = jump(key, 8 * sd, first) if what == "jump" else rot(key, sd, first)
        h = history(reports(rng, kind, steps, plant))
        mine = [c for c in changes(h) if (c.line.name.metric, c.line.name.slice) == key]
        tally["false"] += len(changes(h)) - len(mine)
        if not mine:
            continue
        tally["found"] += 1
        c = mine[0]
        at = c.line.points[c.first].step
        tally["slow"] += c.kind == SLOW
        tally["exact"] += at == first
        tally["near"] += abs(at - first) <= (1 if what == "jump" else 3)
        tally["fails"] += bool(h.falls)
    return {k: tally[k] / trials for k in ("found", "fails", "exact", "near", "slow", "false")}


def _shown(name: str, rows: list[tuple[str, int, list[Change]]]) -> None:
    print(f"{name:<26}{len(rows):>9}{sum(r[1] for r in rows):>8}{sum(bool(r[2]) for r in rows):>21}", flush=True)


def main() -> None:
    """Both tables."""
    count, seed = int((sys.argv[1:] or ["200"])[0]), int((sys.argv[2:] or ["1"])[0])
    rng = np.random.default_rng(seed)
    print("stable histories          histories   lines  with a false change", flush=True)
    for name, kinds, many in (("all", KINDS, count), ("", ("ar7",), count // len(KINDS))):
        rows = list(stable(rng, many, kinds))
        for kind in kinds:
            _shown(kind, [r for r in rows if r[0] == kind])
        if name:
            _shown(name, rows)
    print("\nplanted                                          found  fails  exact  near  as slow  false beside it")
    overlap, speed = ("ranking.overlap@10", None), ("latency.speedup", "64x1")
    overlap_sd, trials = METRICS[overlap[0]][1] / 2, max(5, count // 8)
    for kind in ("equal", "white", "ar", "heavy"):
        for what in ("rot", "jump"):
            for key, sd in ((overlap, overlap_sd), (speed, 0.03)):
                _planted(kind, what, key, planted(rng, kind, what, key, sd, trials))
    rng = np.random.default_rng(seed + 10)
    for kind in ("white", "ar"):
        _planted(kind, "now", overlap, planted(rng, kind, "now", overlap, overlap_sd, trials))


def _planted(kind: str, what: str, key: tuple[str, str | None], found: dict[str, float]) -> None:
    row = "".join(f"{found[k]:>7.0%}" for k in ("found", "fails", "exact", "near", "slow"))
    print(f"{kind:<8}{what:<6}{key[0]:<34}{row}{found['false']:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
