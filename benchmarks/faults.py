"""The faults of ``qguard selftest`` through other tests on the same arrays: what each detects, and its false alarms.

usage: qguard selftest --precision int8 --json selftest.json; python benchmarks/faults.py selftest.json [CLEAN]

- `allclose`: a hand-written golden test, ``np.testing.assert_allclose(candidate, golden, rtol=1e-2)``; and with the
  smallest multiple of 0.01 as ``atol`` that lets the sound artifact pass
- `embed-parity`: the thresholds that this package publishes for a served model against its reference: mean cosine 0.999,
  lowest cosine 0.990, Spearman of pairwise similarities 0.995, top-1, top-5 and top-10 overlap 0.95, alone against in a
  batch 0.999, norms within 5 %
- `qguard`: the gate's own verdicts, read from selftest.json

The arrays are those that a test without qguard would have: what the artifact's own files give, token ids unchecked, and the
vectors that the golden's data file holds, its hashes unchecked. A file that cannot be opened is caught by all. Nobody but
qguard times anything. CLEAN (default 40): repeats of the sound artifact under other batches, threads and orders.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from qguard.config import load_config
from qguard.console.progress import progress
from qguard.encoders.tokenizer import TextTokenizer
from qguard.faults import FAULTS, runner
from qguard.faults.judging import Judge
from qguard.faults.repeats import Condition, judge_under
from qguard.faults.site import Candidate, FaultSite
from qguard.judging.session import Session, Target
from qguard.machine.cpu import cores
from qguard.metrics import Comparison
from qguard.precisions import parse_precision

MODEL, SUITE, ALONE = "minilm", "core", 64
TESTS = ("allclose", "allclose, atol", "embed-parity")


def stored(root: Path) -> np.ndarray:
    """The vectors in a golden's data file, whatever its manifest says."""
    from safetensors.numpy import load

    (path,) = (root / MODEL / SUITE).glob("golden-*.safetensors")
    return load(path.read_bytes())["vectors"]


def arrays(judge: Judge, candidate: Candidate) -> tuple[np.ndarray, np.ndarray, float]:
    """Golden, candidate, and the lowest cosine of a text alone to the same in its batch."""
    plan, sound = runner.worker()
    golden = stored(candidate.golden or sound.config.golden_root)
    encoder, suite = judge.encoder(plan.precision, MODEL), judge.suite(SUITE)
    artifact = judge.artifact(plan.precision, MODEL)
    ids = TextTokenizer.open(artifact.folder / artifact.pipeline.transformer, artifact.pipeline)(suite.texts, suite.roles)
    found = encoder.encode_ids(ids)
    rows = list(range(0, len(ids), len(ids) // ALONE))
    alone = encoder.encode_batches([ids[r] for r in rows], [[i] for i in range(len(rows))])
    batch = float(cosines(alone, found[rows]).min())
    if candidate.stored is not None:
        target = Target(parse_precision(f"{plan.precision}+int8"), MODEL, SUITE)
        comparison = Comparison.of(suite, golden, found).quantize("int8", sound.calibration(target).ranges)
        found = candidate.stored(comparison).candidate.astype(np.float32)
    return golden, found, batch


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row with the row beside it, NaN where there is none."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def embed_parity(golden: np.ndarray, found: np.ndarray, batch: float) -> str:
    """The first threshold that does not hold, empty where all do; NaN holds nowhere."""
    cosine = cosines(golden, found)
    norms = np.abs(np.linalg.norm(found, axis=1) / np.linalg.norm(golden, axis=1) - 1)
    facts = [("mean cosine", cosine.mean(), 0.999), ("min cosine", cosine.min(), 0.99)]
    if np.isfinite(found).all():
        scores = []
        for v in (golden, found):
            u = v / np.linalg.norm(v, axis=1, keepdims=True)
            scores.append(u @ u.T)
        upper = np.triu_indices(len(found), 1)
        facts.append(("Spearman", np.corrcoef(*(rankdata(s[upper]) for s in scores))[0, 1], 0.995))
        for s in scores:
            np.fill_diagonal(s, -np.inf)
        order = [np.argsort(-s, axis=1, kind="stable")[:, :10] for s in scores]
        for k in (1, 5, 10):
            shared = np.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(*order, strict=True)])
            facts.append((f"top-{k}", shared, 0.95))
    facts += [("batch", batch, 0.999), ("norms", 1 - norms.max(), 0.95)]
    return next((f"{name} {value:.4f}" for name, value, bound in facts if not value >= bound), "")


def verdicts(golden: np.ndarray, found: np.ndarray, batch: float, atol: float) -> dict[str, str]:
    """What each test finds, empty where it passes."""
    out = {}
    for name, absolute in zip(TESTS, (0, atol), strict=False):
        try:
            np.testing.assert_allclose(found, golden, rtol=1e-2, atol=absolute)
            out[name] = ""
        except AssertionError:
            out[name] = f"off by {np.abs(found - golden).max():.3f}" if found.shape == golden.shape else "shape"
    return {**out, TESTS[2]: embed_parity(golden, found, batch)}


def faulty(case: tuple[str, str, float]) -> dict[str, str]:
    """What each test finds of a fault, its severity and atol."""
    name, severity, atol = case
    plan, sound = runner.worker()
    with tempfile.TemporaryDirectory() as work:
        candidate = FAULTS[name].inject(FaultSite(sound, plan.precision, MODEL, plan.suites, Path(work)), severity)
        try:
            found = arrays(Judge.on(sound, candidate), candidate)
        except Exception:  # no test has arrays to compare
            return dict.fromkeys(TESTS, "cannot be opened")
        return verdicts(*found, atol)


def clean(case: tuple[int, float]) -> dict[str, str]:
    """What each test finds of a clean repeat."""
    number, atol = case
    plan, sound = runner.worker()
    judge = judge_under(sound, plan.precision, MODEL, Condition.of(number))
    return verdicts(*arrays(judge, Candidate()), atol)


def widest(_: int) -> float:
    """The atol at which the sound artifact just passes."""
    _, sound = runner.worker()
    golden, found, _ = arrays(Judge.on(sound, Candidate()), Candidate())
    return float((np.abs(found - golden) - 1e-2 * np.abs(golden)).max())


def main() -> None:
    """Print both tables."""
    report = json.loads(Path(sys.argv[1]).read_text())
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    own = [r for r in report["results"] if r["status"] != "not applicable"]
    harness = Session(load_config(Path()).select([MODEL], [SUITE]))
    plan = runner.planned(harness, parse_precision(report["precision"]))
    with progress("faults", len(own) + repeats) as advance, runner.processes(plan, cores()) as pool:
        atol = math.ceil(next(runner.each(pool, widest, {0: 0}, lambda: None))[1] * 100) / 100
        timed = [i for i, r in enumerate(own) if FAULTS[r["fault"]].part == "latency"]
        cases = {i: (r["fault"], r["severity"], atol) for i, r in enumerate(own) if i not in timed}
        found = dict(runner.each(pool, faulty, cases, advance)) | {i: dict.fromkeys(TESTS, "") for i in timed}
        sound = dict(runner.each(pool, clean, {i: (i, atol) for i in range(repeats)}, advance))
    heads = ["allclose rtol 0.01", f"allclose rtol 0.01, atol {atol:g}", "embed-parity", "qguard"]
    ours = ["caught" if r["status"] == "caught" else "" for r in own]
    columns = [[found[i][name] for i in range(len(own))] for name in TESTS] + [ours]
    full = [i for i, r in enumerate(own) if i + 1 == len(own) or own[i + 1]["fault"] != r["fault"]]
    print("| | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    rows = {"all cases": range(len(own)), "faults in full": full, "less than full": set(range(len(own))) - set(full)}
    for label, of in rows.items():
        print(f"| {label} | " + " | ".join(f"{sum(bool(c[i]) for i in of)} of {len(of)}" for c in columns) + " |")
    alarms = [sum(bool(v[name]) for v in sound.values()) for name in TESTS]
    cells = [f"{n} of {repeats}" for n in alarms] + [f"{report['false_alarms']} of {len(report['repeats'])}"]
    print("| false alarms, sound artifact | " + " | ".join(cells) + " |\n")
    print("| fault | severity | " + " | ".join(heads) + " |\n|---|---|" + "---|" * len(heads))
    for i, r in enumerate(own):
        print(f"| {r['fault']} | {r['severity']} | " + " | ".join(c[i] or "-" for c in columns) + " |")


if __name__ == "__main__":
    main()
