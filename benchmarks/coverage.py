"""How often a nominal 95 % interval of a metric holds the true value, on simulated items whose truth is known.

usage: OMP_NUM_THREADS=1 python benchmarks/coverage.py [SIMULATIONS [WORD]]    default 2000 of each case whose name holds WORD

Each case draws n items from a population again and again. "held" is the share of the intervals of qguard.metrics.bootstrap
that hold the population's value; "low" and "high" the share whose lower end was above it and whose upper end was below;
"none" the share of samples that give no interval, which count for neither; "percentile" what the plain percentile interval of
the same resamples would have held. True values come from a formula or from four million items.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from qguard.metrics.bootstrap import replicates, uncertainty
from qguard.metrics.statistics import Absolute, Mean, Quantile, Ratio, Share, Spearman

LARGE = 4_000_000


def overlaps(rng: Any, n: int, lost: float) -> Any:
    """Overlap@10 of n queries, each a multiple of 0.1: every query has its own chance of losing a neighbor."""
    return 1 - rng.binomial(10, rng.beta(0.6, 0.6 / lost - 0.6, n))[:, None] / 10


def first_hits(rng: Any, n: int, lost: float) -> Any:
    """Whether the first hit stays, 0 or 1."""
    return (rng.random(n) >= lost).astype(float)[:, None]


def cosines(rng: Any, n: int) -> Any:
    """Cosines to fp32 with a long tail downwards: 1 less a Weibull variable of shape 0.7."""
    return 1 - 0.002 * rng.weibull(0.7, n)[:, None]


def lowest(q: float) -> float:
    """The true quantile of :func:`cosines`."""
    return float(1 - 0.002 * (-np.log(q)) ** (1 / 0.7))


def errors(rng: Any, n: int) -> Any:
    """Signed similarity errors with a small bias and heavy tails."""
    return 0.0004 + 0.005 * rng.standard_t(4, n)[:, None]


def scores(rng: Any, n: int) -> Any:
    """nDCG of fp32 and of the candidate on n queries: equal for most, both 0 for some, correlated for the rest."""
    fp32 = np.where(rng.random(n) < 0.15, 0.0, rng.beta(2, 1, n))
    moved = (rng.random(n) < 0.3) * rng.normal(-0.02, 0.1, n)
    return np.stack([fp32, np.clip(fp32 + moved, 0, 1)], axis=1)


def graded(rng: Any, n: int) -> Any:
    """Human grades 0 to 5, cosines of fp32 that follow them (rho about .85), and those of the candidate."""
    truth = rng.random(n)
    fp32 = truth + 0.18 * rng.normal(size=n)
    return np.stack([np.round(5 * truth), fp32, fp32 + 0.02 * rng.standard_t(4, n)], axis=1)


def inversions(rng: Any, n: int) -> Any:
    """Flipped pairs and clear pairs of each query: most flip none."""
    clear = rng.integers(10, 45, n)
    return np.stack([rng.binomial(clear, rng.beta(0.3, 60, n)), clear], axis=1).astype(float)


@dataclass(frozen=True)
class Case:
    """A statistic of items from a population; ``truth`` is ``None`` where it is computed from many items."""

    name: str
    n: int
    draw: Callable[..., Any]
    reduce: Any
    args: tuple[float, ...] = ()
    truth: float | None = None


def difference(rows: Any) -> Any:
    """Candidate less fp32, of each item."""
    return rows[..., 1] - rows[..., 0]


def loss(rows: Any) -> Any:
    """The size of a similarity error."""
    return np.abs(rows[..., 0])


RETENTION = Ratio(Spearman(2, 0), Spearman(1, 0))
SIZES = (60, 127, 400)
CASES = [
    *(Case(f"mean overlap@10 {1 - p:.2f}", n, overlaps, Mean(0, best=1.0), (p,), 1 - p) for p in (0.03, 0.1) for n in SIZES),
    *(Case(f"top-1 {1 - p:.2f}", n, first_hits, Share(0), (p,), 1 - p) for p in (0.05, 0.2) for n in SIZES),
    *(Case("nDCG, difference to fp32", n, scores, Mean(difference)) for n in SIZES),
    *(Case("nDCG, retention", n, scores, Ratio(Mean(1), Mean(0))) for n in SIZES),
    Case("Spearman with fp32", 412, graded, Spearman(1, 2)),
    Case("Spearman with grades", 412, graded, Spearman(2, 0)),
    Case("Spearman with grades, retention", 412, graded, RETENTION),
    Case("inversions", 1440, inversions, Ratio(Mean(0), Mean(1), empty=0.0)),
    Case("similarity bias", 412, errors, Absolute(Mean(0)), (), 0.0004),
    Case("similarity error, p99", 412, errors, Quantile(loss, 0.99)),
    Case("mean cosine", 1440, cosines, Mean(0)),
    Case("cosine p01", 1440, cosines, Quantile(0, 0.01), (), lowest(0.01)),
    Case("cosine p01", 412, cosines, Quantile(0, 0.01), (), lowest(0.01)),
]  # fmt: skip


def simulate(case: Case, truth: float, seeds: range) -> Any:
    """Per simulation: lower end above the truth, upper end below it, no interval, and whether percentiles hold it."""
    out = np.zeros((len(seeds), 4))
    for i, seed in enumerate(seeds):
        rows = case.draw(np.random.default_rng(seed), case.n, *case.args)
        found = uncertainty(case.reduce, rows, seed)
        if found.interval is None:
            out[i] = 0, 0, 1, np.nan
            continue
        low, high = found.interval
        out[i] = low > truth, high < truth, 0, np.nan
        if not isinstance(case.reduce, Quantile):
            a, b = np.quantile(replicates(case.reduce, rows, seed), [0.025, 0.975])
            out[i, 3] = a <= truth <= b
    return out


def main() -> None:
    """Simulate all cases and print the table."""
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(f"{simulations} simulations of each case; nominal 95 %")
    print("| statistic | n | held | low | high | none | percentile |\n|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(2) as pool:
        for case in CASES:
            if not any(word in case.name for word in sys.argv[2:] or [""]):
                continue
            truth = case.truth
            if truth is None:
                truth = float(case.reduce(case.draw(np.random.default_rng(2**40), LARGE, *case.args)))
            parts = [range(start, min(start + 100, simulations)) for start in range(0, simulations, 100)]
            found = np.concatenate(list(pool.map(simulate, [case] * len(parts), [truth] * len(parts), parts)))
            given = found[found[:, 2] == 0]
            low, high = given[:, :2].mean(0) if len(given) else (np.nan, np.nan)
            plain = given[:, 3]
            shares = [1 - low - high, low, high, found[:, 2].mean(), plain.mean()]
            print(
                "|".join(["", f" {case.name} ", f" {case.n} ", *("" if np.isnan(s) else f" {s:.1%} " for s in shares), ""]),
                flush=True,
            )


if __name__ == "__main__":
    main()
