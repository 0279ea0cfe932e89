"""What `qguard tune` finds, beside NNCF's accuracy control and a grid of exports: minutes, speed, overlap@10.

All use the same half of the suite to choose, and are judged on the other half; all are timed beside fp32 in ONNX Runtime.

usage: python benchmarks/tune_peers.py PROJECT OUT [--minutes N] [--exports FOLDER] [--drop X] [--skip tune|nncf]

PROJECT has one model and one suite of a golden. --exports is a folder that benchmarks/peer_exports.py wrote (of
sentence-transformers); how long that took is not known here, so that only judging it counts. --drop is what NNCF may lose of
overlap@10 (default 0.04, the gate of int8).
NNCF's search is `nncf.quantize_with_accuracy_control` on the OpenVINO model, with the calibration texts of int8.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from qguard.config import load_config
from qguard.encoders import Encoder, padded
from qguard.encoders.onnx import OnnxRuntime
from qguard.encoders.openvino import import_openvino
from qguard.encoders.pooling import Head
from qguard.encoders.runtimes import RUNTIMES
from qguard.families import measure
from qguard.judging.compare import BUCKETS, timed_ratio
from qguard.judging.session import Session, Target
from qguard.latency.arms import LocalArm
from qguard.latency.check import spec_of
from qguard.metrics import Comparison
from qguard.precisions import Precision, parse_precision
from qguard.precisions.integer import token_ids
from qguard.tuning.halves import halves
from qguard.tuning.measured import judged_on
from qguard.tuning.search import Search
from qguard.tuning.space import usual

INT8 = parse_precision("int8")


class Compiled:
    """A compiled OpenVINO model as a runtime of an encoder."""

    def __init__(self, model: Any, hint: str = "f32") -> None:
        core = import_openvino().Core()
        self.batch_tokens, self.workers, self.room = RUNTIMES["openvino"].batch, 1, None
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint, "ENABLE_CPU_PINNING": False}
        self._compiled = core.compile_model(model, "CPU", options)
        self._names = [i.get_any_name() for i in self._compiled.inputs]

    def __call__(self, ids: Any, mask: Any, types: Any = None) -> Any:
        """Hidden states."""
        return np.array(self._compiled(feeds(self._names, ids, mask))[0])


def feeds(names: list[str], ids: Any, mask: Any) -> dict[str, Any]:
    """Inputs by name."""
    known = {"input_ids": ids, "attention_mask": mask}
    return {n: known.get(n, np.zeros_like(ids)) for n in names}


class Spec:
    """What :func:`qguard.judging.compare.timed_ratio` times: a runtime that is open already."""

    threads, device = 1, "cpu"

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def open_runtime(self) -> Any:
        """The same."""
        return self.runtime

    def arm(self, batch: Any) -> LocalArm:
        """The arm."""
        return LocalArm(self, batch)  # type: ignore[arg-type]


class Judge:
    """The suite's halves, and fp32 to be timed beside."""

    def __init__(self, session: Session) -> None:
        (self.model,), (self.suite,) = session.config.models, session.config.suites
        self.session, self.base = session, session.model(self.model)
        self.golden = session.golden(self.model, self.suite)
        self.choosing, self.judging = halves(session.suite(self.suite, self.model))
        tokenizer = session.reference_tokenizer(self.model)
        self.encoder = lambda runtime: Encoder(tokenizer, runtime, Head.open(self.base.folder, self.base.pipeline))
        self.fp32 = spec_of(session.fp32(self.model, "onnx"), Precision("fp32", "onnx"), 1)

    def overlap(self, runtime: Any, rows: list[int]) -> float:
        """overlap@10 with fp32 among these texts."""
        found = self.encoder(runtime).encode_ids([self.golden.token_ids[i] for i in rows])
        suite = self.session.suite(self.suite, self.model)
        part = suite.without(set(range(len(suite.texts))) - set(rows))
        compared = Comparison.of(part, self.golden.vectors[rows], found, self.session.similarity(self.model))
        return next(m.value for m in measure(compared, "ranking") if m.name == "ranking.overlap@10" and m.slice is None)

    def speed(self, runtime: Any) -> list[float]:
        """Of both buckets."""
        return [timed_ratio(self.fp32, Spec(runtime), b.fill(self.golden.token_ids), b.tokens)[0] for b in BUCKETS]  # type: ignore[arg-type]

    def row(self, name: str, minutes: float, runtime: Any) -> None:
        """Print what was found."""
        speeds = " | ".join(f"{s:.2f}" for s in self.speed(runtime))
        print(f"| {name} | {minutes:.1f} | {speeds} | {self.overlap(runtime, self.judging):.4f} |", flush=True)


def tune(judge: Judge, out: Path, minutes: float) -> None:
    """Our own search."""
    start = time.monotonic()
    search = Search(judge.session, judge.model, judge.suite, INT8, out, say=lambda line: print(f"  {line}", flush=True))
    found = search.run(usual(), minutes)
    took = (time.monotonic() - start) / 60
    assert found.chosen is not None, found.checks
    precision, row = found.chosen
    artifact = judge.session.artifact(precision, judge.model)
    target = Target(precision, judge.model, judge.suite)
    checks = judged_on(judge.session, target, judge.judging, INT8)
    overlap = next(c.value for c in checks if c.name == "ranking.overlap@10" and c.slice is None)
    spec = spec_of(artifact, precision, 1)
    speeds = [timed_ratio(judge.fp32, spec, b.fill(judge.golden.token_ids), b.tokens)[0] for b in BUCKETS]
    listed = " | ".join(f"{s:.2f}" for s in speeds)
    print(f"| qguard tune: {row.words} | {took:.1f} | {listed} | {overlap:.4f} |", flush=True)


def nncf_control(judge: Judge, drop: float) -> None:
    """NNCF's accuracy control on the OpenVINO model."""
    import nncf
    import openvino as ov

    start = time.monotonic()
    file = judge.session.fp32(judge.model, "openvino").file
    assert file is not None
    model = ov.Core().read_model(str(file))
    names = [i.get_any_name() for i in model.inputs]
    sample = INT8.sample
    assert sample is not None
    calibration = [feeds(names, *padded([ids])[:2]) for ids in token_ids(judge.base, sample)]

    def validate(compiled: Any, _: Any) -> tuple[float, None]:
        runtime = Compiled.__new__(Compiled)
        runtime.batch_tokens, runtime.workers, runtime.room = RUNTIMES["openvino"].batch, 1, None
        runtime._compiled, runtime._names = compiled, names
        return judge.overlap(runtime, judge.choosing), None

    made = nncf.quantize_with_accuracy_control(
        model, nncf.Dataset(calibration), nncf.Dataset([0]), validate, max_drop=drop,
        drop_type=nncf.DropType.ABSOLUTE, model_type=nncf.ModelType.TRANSFORMER,
    )  # fmt: skip
    took = (time.monotonic() - start) / 60
    for hint in ("f32", "bf16"):
        judge.row(f"NNCF {nncf.__version__}, accuracy control, {hint}", took, Compiled(made, hint))


def grid(judge: Judge, folder: Path) -> None:
    """Every export, and which of them hold the gates on the half that chooses."""
    for file in sorted(folder.glob("onnx/*.onnx")):
        start = time.monotonic()
        session = Session(judge.session.config, artifact_path=file)
        checks = judged_on(session, Target(INT8, judge.model, judge.suite), judge.choosing, INT8)
        failed = [c for c in checks if c.outcome == "fail"]
        said = "holds" if not failed else f"fails {failed[0].label} {failed[0].value:.4f} (+{len(failed) - 1})"
        judge.row(f"sentence-transformers {file.stem}: {said}", (time.monotonic() - start) / 60, OnnxRuntime(file, threads=1))


def main() -> None:
    """Run what is not skipped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--exports", type=Path)
    parser.add_argument("--drop", type=float, default=0.04)
    parser.add_argument("--skip", action="append", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judge = Judge(Session(load_config(args.project)))
    print("| search | minutes | 64 x 1 | 64 x 32 | overlap@10 held out |\n|---|---|---|---|---|", flush=True)
    if "tune" not in args.skip:
        tune(judge, args.out, args.minutes)
    if args.exports:
        grid(judge, args.exports)
    if "nncf" not in args.skip:
        nncf_control(judge, args.drop)


if __name__ == "__main__":
    main()
