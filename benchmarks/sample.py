"""What a stratified sample is worth: its estimates of int8's loss on a whole corpus, beside those of a simple random sample.

    python -m benchmarks.sample DATA --vectors FILE.npz     # accuracy of estimates; DATA holds the published data sets
    python -m benchmarks.sample --lines 1000000             # time and memory of a large source

The corpus is a mixture: tweets, sentences of STS-B, spans of contracts and abstracts of SciFact. Its texts are encoded once by
fp32 and by int8, which FILE.npz keeps. The truth is each text's search in the whole corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from qguard.config import load_config
from qguard.gates.check import Check
from qguard.hunting.hunt import encoder_of
from qguard.hunting.pairs import unit
from qguard.judging.session import Session
from qguard.metrics.bootstrap import uncertainty
from qguard.metrics.statistics import Mean
from qguard.planning.plan import plan
from qguard.precisions import parse_precision
from qguard.sampling import survey as surveying
from qguard.sampling.draw import Settings, draw
from qguard.sampling.lengths import tokens
from qguard.sampling.production import Production
from qguard.sampling.topics import gaps
from qguard.suites.source import Source

ABSTRACTS = 800
SENTENCES = 4000
K = 10
LEAST = 50  # texts of the rare slice


def corpus(data: Path) -> list[str]:
    """Distinct texts of the mixture."""

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").split("\n")[:-1]]

    texts = [r["text"] for r in rows("tweeteval/texts.jsonl")]
    texts += [r[side] for r in rows("stsb_en/pairs.jsonl") for side in ("text_a", "text_b")][:SENTENCES]
    texts += [r["text"] for r in rows("legal_texts/texts.jsonl")]
    texts += [f"{r['title']} {r['text']}".strip() for r in rows("scifact/corpus.jsonl")[:ABSTRACTS]]
    return list({" ".join(t.casefold().split()): t for t in reversed(texts) if t.strip()}.values())[::-1]


def encoded(texts: list[str], file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of fp32 and int8 (n, dim)."""
    if file.is_file():
        found = np.load(file)
        return found["fp32"], found["int8"]
    session = Session(load_config(Path(__file__).parent.parent))
    encode = encoder_of(session, parse_precision("int8"), "minilm")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    both = [encode([texts[i] for i in order[start : start + 512]]) for start in range(0, len(order), 512)]
    fp32, int8 = (np.empty((len(texts), both[0][0].shape[1]), np.float32) for _ in range(2))
    fp32[order], int8[order] = (unit(np.concatenate([b[side] for b in both])) for side in (0, 1))
    np.savez(file, fp32=fp32, int8=int8)
    return fp32, int8


def overlaps(fp32: np.ndarray, int8: np.ndarray) -> np.ndarray:
    """The share of its ten nearest texts in fp32 that each text (n,) finds in int8, among the same texts."""
    out = np.empty(len(fp32))
    for start in range(0, len(fp32), 512):
        found = []
        for vectors in (fp32, int8):
            scores = vectors[start : start + 512] @ vectors.T
            scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
            found.append(np.argpartition(-scores, K - 1, axis=1)[:, :K])
        out[start : start + 512] = (found[0][:, :, None] == found[1][:, None, :]).any(2).mean(1)
    return out


def quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """The least value that weights of at least ``q`` lie at or below."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(upto, q)])


def estimates(data: Path, vectors: Path, sizes: list[int], repeats: int) -> None:
    """Errors of estimates, as a table."""
    texts = corpus(data)
    fp32, int8 = encoded(texts, vectors)
    overlap, cosine = overlaps(fp32, int8), (fp32.astype(np.float64) * int8).sum(1)
    place = {t: i for i, t in enumerate(texts)}
    truth = {"overlap@10": overlap.mean(), "cosine_p01": quantile(cosine, np.ones(len(texts)), 0.01)}
    print(f"{len(texts)} texts; int8: overlap@10 {truth['overlap@10']:.4f}, cosine_p01 {truth['cosine_p01']:.5f}")
    for near, far in ((1, 2), (10, 11), (5, 15)):
        whole = gaps(fp32, near=near, far=far)
        thirds = np.array_split(np.argsort(whole, kind="stable"), 3)
        transferred = [
            np.corrcoef(gaps(fp32[at], near=near, far=far), overlap[at])[0, 1]
            for at in (np.random.default_rng(s).choice(len(texts), 1500, replace=False) for s in range(10))
        ]
        print(
            f"gap of neighbors {near} and {far}: overlap@10 of its thirds",
            *(f"{overlap[t].mean():.4f}" for t in thirds),
            f"correlation in the whole {np.corrcoef(whole, overlap)[0, 1]:.3f},",
            f"of that in 1,500 texts {np.mean(transferred):.3f}",
        )
    for pilot in (100, 300, 1000):
        power(overlap, pilot)
    counted = tokens(Session(load_config(Path(__file__).parent.parent)).reference_tokenizer("minilm"))
    known = dict(zip(texts, counted(texts), strict=True))
    surveying.personal = cache(lambda text, region: [])  # the truth is of all texts
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "corpus.jsonl"
        file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
        source = Production("c", Source(str(file)))
        whole = draw(source, Settings(len(texts)), lambda t: [known[x] for x in t])
        stratum = np.asarray([d.stratum.slice for d in sorted(whole.drawn, key=lambda d: place[d.unit.text])])
        names, counts = np.unique(stratum, return_counts=True)
        print("strata:", ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True)))
        rare = names[np.argmin(np.where(counts >= LEAST, counts, len(texts)))]
        for n in sizes:
            designs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
            for seed in range(repeats):
                drawn = rng.choice(len(texts), n, replace=False)
                designs.setdefault("simple random", []).append((drawn, np.ones(n)))
                for name, encode in (
                    ("stratified, words", None),
                    ("stratified, fp32", lambda t, roles: fp32[[place[x] for x in t]]),
                ):
                    found = draw(source, Settings(n, seed), lambda t: [known[x] for x in t], encode)
                    at = np.asarray([place[d.unit.text] for d in found.drawn])
                    designs.setdefault(name, []).append((at, np.asarray([d.weight for d in found.drawn])))
            print(f"\nn = {n}, {repeats} samples; the slice is {rare}, overlap@10 {overlap[stratum == rare].mean():.4f}")
            print(
                "| sample | overlap@10: bias | error | cosine_p01: bias | error | texts of the slice | error of its overlap@10 |"
            )
            print("|---|--:|--:|--:|--:|--:|--:|")
            for name, samples in designs.items():
                for weighted in (True, False) if name != "simple random" else (True,):
                    label = name + ("" if weighted else ", weights ignored")
                    print(f"| {label} | " + " | ".join(row(samples, weighted, overlap, cosine, truth, stratum == rare)) + " |")
            own = [overlaps(fp32[at], int8[at]).mean() for at, _ in designs["stratified, fp32"]]
            print(f"overlap@10 of the sample as a suite of its own, where texts search the sample alone: {np.mean(own):.4f}")


def power(overlap: np.ndarray, pilot: int, drop: float = 0.01, plans: int = 200, trials: int = 400) -> None:
    """What plans from suites of so many real texts are worth: their sizes, and the share of worse models that a gate stops."""
    rng = np.random.default_rng(0)
    needed, stopped, alarms = [], [], []
    for _ in range(plans):
        rows = rng.choice(overlap, pilot, replace=False)[:, None]
        found = uncertainty(Mean(0, best=1.0), rows, 0, "texts")
        value = float(rows.mean())
        one = Check("ranking.overlap@10", "c", None, value, None, "reported", None, pilot, interval_note=found.note,
                    detectable=found.detectable)  # fmt: skip
        (need,) = plan([one], drop)
        assert need.needed is not None
        needed.append(need.needed)
        bound = overlap.mean() - NormalDist().inv_cdf(0.95) * overlap.std() / need.needed**0.5
        drawn = rng.choice(overlap, (trials, need.needed))
        worse = drawn - 0.1 * (rng.random(drawn.shape) < drop / 0.1)
        alarms.append((drawn.mean(1) < bound).mean())
        stopped.append((worse.mean(1) < bound).mean())
    low, middle, high = np.quantile(needed, [0.1, 0.5, 0.9])
    spread = f"{middle:.0f} texts ({low:.0f} to {high:.0f} of 8 in 10)"
    print(
        f"plans for a drop of {drop:g} from {pilot} texts: {spread}; with so many the gate stops the worse model in "
        f"{np.mean(stopped):.1%} of trials, and the same model in {np.mean(alarms):.1%}"
    )


def row(
    samples: list[tuple[np.ndarray, np.ndarray]], weighted: bool, overlap: np.ndarray, cosine: np.ndarray,
    truth: dict[str, float], part: np.ndarray,
) -> list[str]:  # fmt: skip
    """Bias and error of both estimates, and of the mean of a slice."""
    used = [(at, w if weighted else np.ones(len(at))) for at, w in samples]
    got = [(np.average(overlap[at], weights=w), quantile(cosine[at], w, 0.01)) for at, w in used]
    off = np.asarray(got) - list(truth.values())
    bias, error = off.mean(0), np.sqrt((off**2).mean(0))
    inside = [overlap[at][part[at]] for at, _ in samples]
    lost = [(of.mean() - overlap[part].mean()) ** 2 for of in inside if len(of)]
    texts, slice_error = np.mean([len(of) for of in inside]), np.sqrt(np.mean(lost))
    numbers = [f"{bias[0]:+.5f}", f"{error[0]:.5f}", f"{bias[1]:+.6f}", f"{error[1]:.6f}", f"{texts:.1f}", f"{slice_error:.4f}"]
    return numbers


def large(lines: int, model: bool) -> None:
    """Time and peak memory of the command on a file of so many lines."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(20_000)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for i in range(lines):
                text = " ".join(rng.choices(words, k=rng.choice((4, 8, 12, 20, 40))))
                out.write(json.dumps({"text": text + (f" call +41 44 668 {i % 90 + 10} 00" if i % 1000 == 0 else "")}) + "\n")
        print(f"{lines:,} lines, {file.stat().st_size / 1e6:.0f} MB, {'with' if model else 'without'} a model")
        args = ["sample", "--from", str(file), "--n", "1000", "--out", f"{folder}/s", *(() if model else ("--no-model",))]
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "qguard.cli", *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        told = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        peak = usage.ru_maxrss / 1024
        print(told)
        took = time.monotonic() - start
        print(f"exit {os.waitstatus_to_exitcode(status)}, {took:.0f} s, CPU {usage.ru_utime:.0f} s, peak {peak:.0f} MB")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--vectors", type=Path, default=Path("vectors.npz"))
    parser.add_argument("--n", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--with-model", action="store_true")
    args = parser.parse_args()
    if args.lines:
        large(args.lines, args.with_model)
    if args.data:
        estimates(args.data, args.vectors, args.n, args.repeats)


if __name__ == "__main__":
    main()
