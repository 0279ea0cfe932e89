"""The latency gate on the real model: slower artifacts fail, equal ones pass, and pytest-benchmark's options work."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest

from qguard.config import load_config
from qguard.errors import MeasurementProblem
from qguard.judging import latency
from qguard.judging.session import Session
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, PlannedTrial, interval_text, same_outputs, spec_of
from qguard.precisions import parse_precision
from qguard.report.terminal import latency_text
from tests.processes import qguard, run_pytest

# A wide margin: at 5 % about one trial in a hundred of equal artifacts ends undecided, which no test may depend on.
# Short texts and a short budget, where neither is the point.
SETTINGS = 'tokens = [32]\nbatches = [1]\nregression = "<= 1.25"\nbudget = 5'
# A bound that a model which is compared with itself meets on a busy machine too: there 1.25 may end undecided
WIDER = ("<= 1.25", "<= 4")
# pygal imports importlib_metadata, which takes the standard library's finder away: it is only asked for
PYGAL = importlib.util.find_spec("pygal") is not None

timing = pytest.mark.timing  # by test: the others may run beside anything


def _runner(folder: Path):
    """pytest in a project."""

    def call(*args: str, precision: str = "int8") -> tuple[int, str]:
        return run_pytest(folder, "--pyargs", "qguard.gate", "--precision", precision, *args)

    call.path = folder  # type: ignore[attr-defined]
    return call


def decided(call, *args: str) -> tuple[int, str]:
    """The same until the trials told yes or no, three times at most: a busy machine may leave one undecided, as it should."""
    for _ in range(3):
        code, out = call(*args)
        if not re.search("INCONCLUSIVE|RUNNER UNFIT", out):
            break
    return code, out


def _configure(folder: Path, old: str, new: str) -> None:
    file = folder / "pyproject.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def run(tmp_path, small, int8):
    """pytest in the small project, with one latency bucket."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    _configure(tmp_path, '[tool.qguard.latency]\nmode = "off"', f"[tool.qguard.latency]\n{SETTINGS}")
    return _runner(tmp_path)


@pytest.fixture
def run64(run):
    """The same with longer texts: below, regressions are not gated, and a model may by luck be slower than itself."""
    _configure(run.path, "tokens = [32]", "tokens = [64]")
    return run


@pytest.fixture
def deployed(run64):
    """The same where the speedup, which is timed too, holds."""
    _configure(run64.path, "tokens = [64]", 'tokens = [64]\nspeedup = ">= 0.1"')
    return run64


@pytest.fixture(scope="module")
def timed(small, int8, tmp_path_factory):
    """One run of the whole gate that writes all it can, and its code and output: several tests look at it."""
    folder = tmp_path_factory.mktemp("timed") / "p"
    shutil.copytree(small, folder)
    _configure(folder, '[tool.qguard.latency]\nmode = "off"', f"[tool.qguard.latency]\n{SETTINGS}")
    more = ["--benchmark-histogram=h"] if PYGAL else []
    run = _runner(folder)
    return folder, *decided(run, "--qguard-report=r.json", "--benchmark-json=b.json", "--benchmark-save=one", *more)


@pytest.fixture
def again(timed, tmp_path):
    """pytest in a copy of the project that was timed."""
    shutil.copytree(timed[0], tmp_path, dirs_exist_ok=True)
    return _runner(tmp_path)


def slowed(source: Path, target: Path, products: int) -> None:
    """The same file with useless matrix products whose result is multiplied by zero and added."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    last = graph.node[-1]
    out = graph.output[0].name
    last.output[0] = "hidden"
    rng = np.random.default_rng(0)
    at = "hidden"
    for i in range(products):
        graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.05, (384, 384)).astype(np.float32), f"w{i}"))
        graph.node.append(helper.make_node("MatMul", [at, f"w{i}"], [f"h{i}"], f"useless{i}"))
        at = f"h{i}"
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    graph.node.append(helper.make_node("Mul", [at, "zero"], ["nothing"]))
    graph.node.append(helper.make_node("Add", ["hidden", "nothing"], [out]))
    onnx.save(model, str(target))


@timing
def test_int8_is_faster_and_the_timings_reach_pytest_benchmark(timed):
    import onnxruntime

    folder, code, out = timed
    assert code == 0, out
    assert "ok   latency.speedup[32x1]" in out
    (latency,) = json.loads((folder / "r.json").read_text())["runs"][0]["latency"]
    assert latency["ratio"] > 1
    low, high = latency["interval"]  # a trial that is sure at once knows one end
    assert (low or 0) <= latency["ratio"] <= (high or math.inf)
    assert low or high
    stored = json.loads((folder / "b.json").read_text())
    (row,) = stored["benchmarks"]
    assert row["stats"]["median"] * 1000 == pytest.approx(latency["candidate_ms"], rel=0.2)
    assert row["extra_info"]["qguard"][0]["bucket"] == "32x1"
    assert stored["machine_info"]["qguard"] == latency["fingerprint"]
    assert latency["fingerprint"]["onnxruntime"] == onnxruntime.__version__


@timing
def test_an_artifact_that_is_slower_than_fp32_fails_with_the_figures(run64, int8):
    slowed(int8.file, run64.path / "slow.onnx", 150)  # more than int8 saves on a CPU with AMX
    code, out = decided(run64, "--artifact=slow.onnx", "-k", "latency")
    assert code == 1, out
    assert "int8 latency.speedup[64x1] 0." in out
    for part in ("gate >= 1: FAIL", "baseline ", "candidate ", "ratio 0.", "confirmed in a fresh process"):
        assert part in out
    assert re.search(r"\d+ pairs in \d+ sessions", out)  # how many depends on the machine's noise


@timing
def test_torch_fp16_fails_where_a_speed_is_promised_that_no_cpu_gives_it(run):
    """Without the gate's own processes, each of which would import torch. Sessions of torch take seconds of the budget."""
    _configure(run.path, SETTINGS, SETTINGS.replace("32", "16").replace("= 5", "= 30") + '\nspeedup = ">= 20"')
    (target,) = (project := Session(load_config(run.path))).targets([parse_precision("fp16@torch")])
    (bucket,) = latency.buckets(project, target.precision)
    ((check, facts, _),) = latency.trials(project, target, bucket, 1)
    assert check.outcome == facts["outcome"] == "fail", facts
    assert "fp16 latency.speedup[16x1]" in (text := latency_text("fp16", [check]))
    assert "gate >= 20: FAIL" in text


@timing
def test_a_regression_against_the_deployed_artifact_fails_and_none_passes(deployed, int8):
    slowed(int8.file, deployed.path / "slow.onnx", 60)
    code, out = decided(deployed, "--artifact=slow.onnx", f"--baseline-artifact={int8.folder}", "-k", "latency")
    assert code == 1, out
    assert "gate <= 1.25: FAIL" in out
    _configure(deployed.path, *WIDER)
    code, out = decided(deployed, f"--baseline-artifact={int8.folder}", "-k", "latency")
    assert "ok   latency.regression[64x1]" in out, out


@timing
def test_the_baseline_may_run_in_another_interpreter(deployed):
    _configure(deployed.path, *WIDER)
    _, out = decided(deployed, f"--baseline-python={sys.executable}", "-k", "latency")
    assert "ok   latency.regression[64x1]" in out, out
    project = Session(load_config(deployed.path), baseline_python="/no/such/python")
    (target,) = project.targets([parse_precision("int8")])
    with pytest.raises(MeasurementProblem, match="cannot start the interpreter python"):
        latency.trials(project, target, *latency.buckets(project, target.precision), 1)


@pytest.mark.parametrize("extra", [["--benchmark-disable"], ["-n", "2"]])
def test_a_disabled_benchmark_is_unmeasured_and_strict_fails_it(run, extra):
    code, out = run(*extra)
    assert code == 0
    assert "qguard: UNMEASURED" in out
    assert "not measured: test_latency[32x1]" in out
    code, out = run(*extra, "--qguard-strict", "-k", "latency")
    assert code == 1
    assert "benchmarks are disabled" in out


@timing
def test_without_pytest_benchmark_latency_is_measured_all_the_same(run):
    code, out = decided(run, "-p", "no:benchmark", "--strict-markers", "-k", "latency")
    assert code == 0, out
    assert "ok   latency.speedup[32x1]" in out


@timing
def test_benchmark_only_and_skip_leave_a_part_unmeasured(run):
    code, out = decided(run, "--benchmark-only", "--qguard-strict")
    assert code == 1
    assert "not measured: test_golden_is_current" in out
    assert "ok   latency.speedup[32x1]" in out
    code, out = run("--benchmark-skip", "--qguard-strict")
    assert code == 1
    assert "not measured: test_latency[32x1]" in out


@timing
def test_save_compare_and_max_time(timed, again):
    assert "Saved benchmark data" in timed[2], timed[2]
    code, out = decided(
        again, "--benchmark-compare=0001", "--benchmark-compare-fail=median:900%", "--benchmark-max-time=4", "-k", "latency"
    )
    assert "(0001_one)" in out, out
    assert code == 0, out


@timing
@pytest.mark.skipif(not PYGAL, reason="needs pygal")
def test_histogram(timed):
    assert list(timed[0].glob("h*.svg"))


def test_latency_off_leaves_no_test_behind(run):
    code, out = run("--qguard-latency=off")
    assert code == 0
    assert "6 passed" in out
    assert "skipped" not in out


@timing
def test_report_mode_never_fails(run, int8):
    slowed(int8.file, run.path / "slow.onnx", 60)
    code, out = run("--artifact=slow.onnx", "--qguard-latency=report", "-k", "latency")
    assert code == 0, out
    assert "latency.speedup[32x1]" in out


def test_an_interval_may_have_one_end():
    assert interval_text([1.234, 2]) == "1.23 to 2.00"
    assert interval_text([1.5, None]) == "at least 1.50"
    assert interval_text([None, 1.5]) == "at most 1.50"
    assert interval_text([None, None]) == "no bound"


def test_buckets_are_filled_with_real_tokens():
    rows = [[1, 5, 6, 7, 2], [1, *range(10, 20), 2], [1, 2]]
    ids, mask = Bucket(8, 3).fill(rows)
    assert ids.tolist() == [[1, 10, 11, 12, 13, 14, 15, 2]] * 3
    assert mask.all()
    joined, _ = Bucket(40, 1).fill(rows)
    assert joined.shape == (1, 40)
    assert set(joined[0].tolist()) <= {t for row in rows for t in row}
    with pytest.raises(MeasurementProblem, match="no text"):
        Bucket(8, 1).fill([[1, 2]])


def test_what_is_timed_must_compute_what_was_judged(harness, int8, fp32_onnx, tmp_path):
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(fp32_onnx))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("LayerNorm.weight"))
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, str(tmp_path / "other.onnx"))
    encoder = harness.encoder(parse_precision("fp32"), "minilm")
    batch = Bucket(16, 2).fill(harness.golden("minilm", "core").token_ids)
    same_outputs(ArmSpec("onnx", str(fp32_onnx), "fp32").open_runtime(), batch, encoder)
    with pytest.raises(MeasurementProblem, match="not those of the accuracy run"):
        same_outputs(ArmSpec("onnx", str(tmp_path / "other.onnx"), "fp32").open_runtime(), batch, encoder)


def test_buckets_share_the_first_sessions_and_no_later_ones(fp32_onnx):
    """A second session of a trial is another one: the same file loaded twice may differ in speed."""
    import numpy as np

    opened: list[ArmSpec] = []
    kept: dict[ArmSpec, object] = {}

    def first(spec: ArmSpec) -> object:
        opened.append(spec)
        return kept.setdefault(spec, spec.open_runtime())

    spec = ArmSpec("onnx", str(fp32_onnx), "fp32")
    batch = tuple(np.ones((1, 8), np.int64) for _ in range(2))
    arms = [arm for _ in range(2) for arm in PlannedTrial("latency.speedup", None, spec, spec, first).arms(batch)]
    for arm in arms:
        arm.open()
    assert all(arm._runtime is kept[spec] for arm in arms)
    arms[0].close()
    arms[0].open()
    assert arms[0]._runtime is not kept[spec]
    assert len(opened) == 4
    assert len(arms[0].block(0, 1)) == 1


@pytest.mark.parametrize("kind", ["dense", "cross-encoder", "sparse", "multi-vector"])
def test_what_is_timed_of_each_kind_is_what_was_judged(judged, kind):
    """The head of a multi-vector model asks which tokens of a text count."""
    session, int8 = Session(load_config(judged(kind))), parse_precision("int8")
    batch = Bucket(6, 2).fill(session.golden("tiny", "own").token_ids)
    candidate = spec_of(session.artifact(int8, "tiny"), int8, 1)
    same_outputs(candidate.open_runtime(), batch, session.encoder(int8, "tiny"))


@timing
def test_memory_is_reported_and_gated_where_configured(timed, again):
    report = json.loads((timed[0] / "r.json").read_text())
    (check,) = [c for c in report["runs"][0]["checks"] if c["name"] == "memory.ratio"]
    assert check["outcome"] == "reported"
    assert 0.2 < check["value"] < 1
    assert "MB against" in check["worst"][0]
    with (again.path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates.int8]\n"memory.ratio" = "<= 0.1"\n')
    code, out = again("-k", "latency")
    assert code == 1
    assert "int8 memory.ratio" in out


@timing
def test_calibrate_says_what_this_machine_can_tell_apart(run):
    _configure(run.path, "budget = 5", "budget = 1")
    code, out = qguard(run.path, "calibrate", "--minutes", "0.01")
    assert code in (0, 1), out  # 1: too noisy for this budget, which it then says
    assert "luck of one pair of sessions" in out
    assert ("Settings for this machine" in out) == (code == 0)
    code, out = qguard(run.path, "calibrate", "--minutes", "0.01", "--tokens", "1")
    assert code == 2
    assert "Traceback" not in out


@timing
def test_a_ratio_that_moves_from_the_accepted_one_is_reported_and_gated_where_configured(timed, again):
    assert timed[1] == 0
    assert qguard(again.path, "accept", "r.json")[0] == 2  # no reason
    assert qguard(again.path, "accept", "pyproject.toml", "--reason", "x")[0] == 2
    code, out = qguard(again.path, "accept", "r.json", "--reason", "new runner")
    assert code == 0
    assert "minilm/own int8@onnx latency.speedup[32x1]" in out
    stored = again.path / "golden" / "minilm" / "own" / "accepted.json"
    value = json.loads(stored.read_text())
    value["latency"][0]["ratio"] *= 4  # as if it had been so much faster when it was accepted; by a third a busy machine moves it
    stored.write_text(json.dumps(value))
    code, out = again("-k", "latency")
    assert code == 0, out
    assert "moved by more than 10% on an equal machine" in out
    _configure(again.path, "batches = [1]", 'batches = [1]\ntrend = "<= 1.2"')
    code, out = again("-k", "latency")
    assert code == 1
    assert re.search(r"int8 latency\.trend\[32x1\] [2-9]\.\d+, gate <= 1\.2", out), out
    value["latency"][0]["fingerprint"]["cpu"] = "another"
    stored.write_text(json.dumps(value))
    assert again("-k", "latency")[0] == 0


@timing  # xdist, whose workers the process would take itself for one of, times nothing
@pytest.mark.parametrize(("strict", "code"), [("", 0), ("true", 1)])
def test_a_machine_that_is_too_busy_fails_strict_runs_alone_and_never_accuracy(run, strict, code):
    """As where every run is interrupted. Without CI the artifact is not counted as failed; the verdict is no plain pass."""
    (run.path / "conftest.py").write_text(
        "from qguard.latency import trial\ntrial.block_time = lambda timings, threads: (None, len(timings))\n"
    )
    _configure(run.path, "budget = 5", "budget = 0.1")
    found, out = run_pytest(run.path, "--pyargs", "qguard.gate", "--precision=int8", "-p", "no:randomly", CI=strict)
    assert found == code, out
    assert "speed: not measured, machine too busy" in out
    assert "qguard: UNMEASURED" in out
    said = " ".join(out.split())
    assert "Accuracy holds. Precision holds. Size holds. Speed not measured: machine too busy." in said
    assert "FAIL int8" not in out
