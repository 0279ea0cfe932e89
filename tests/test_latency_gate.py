"""The latency gate on the real model: slower artifacts fail, equal ones pass, and pytest-benchmark's options work."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qguard.errors import MeasurementProblem
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, interval_text, same_outputs

# A wide margin: at 5 % about one trial in a hundred of equal artifacts ends undecided, which no test may depend on.
SETTINGS = 'tokens = [64]\nbatches = [1]\nregression = "<= 1.25"'

timing = pytest.mark.timing  # by test: the others may run beside anything


@pytest.fixture
def run(pytester, small, int8, monkeypatch):
    """pytest in the small project, with one latency bucket."""
    monkeypatch.setenv("QGUARD_CACHE", str(int8.folder.parent))  # pytester gives its runs a home of their own
    monkeypatch.delenv("CI", raising=False)  # strict only where a test says so
    shutil.copytree(small, pytester.path, dirs_exist_ok=True)
    file = pytester.path / "pyproject.toml"
    file.write_text(file.read_text().replace('[tool.qguard.latency]\nmode = "off"', f"[tool.qguard.latency]\n{SETTINGS}"))

    def call(*args: str, precision: str = "int8") -> tuple[int, str]:
        fixed = ("-p", "no:cacheprovider", "--pyargs", "qguard.gate", "--precision", precision)
        done = pytester.runpytest_subprocess(*fixed, *args)
        return int(done.ret), f"{done.stdout}\n{done.stderr}"

    call.path = pytester.path  # type: ignore[attr-defined]
    return call


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
def test_int8_is_faster_and_the_timings_reach_pytest_benchmark(run):
    import onnxruntime

    code, out = run("--qguard-report=r.json", "--benchmark-json=b.json", "-k", "latency")
    assert code == 0, out
    assert "ok   latency.speedup[64x1]" in out
    (latency,) = json.loads((run.path / "r.json").read_text())["runs"][0]["latency"]
    assert latency["ratio"] > 1.2
    assert latency["interval"][0] <= latency["ratio"] <= latency["interval"][1]
    stored = json.loads((run.path / "b.json").read_text())
    (row,) = stored["benchmarks"]
    assert row["stats"]["median"] * 1000 == pytest.approx(latency["candidate_ms"], rel=0.2)
    assert row["extra_info"]["qguard"][0]["bucket"] == "64x1"
    assert stored["machine_info"]["qguard"] == latency["fingerprint"]
    assert latency["fingerprint"]["onnxruntime"] == onnxruntime.__version__


@timing
def test_an_artifact_that_is_slower_than_fp32_fails_with_the_figures(run, int8):
    slowed(int8.file, run.path / "slow.onnx", 60)
    code, out = run("--artifact=slow.onnx", "-k", "latency")
    assert code == 1
    assert "int8 latency.speedup[64x1] 0." in out
    for part in ("gate >= 1: FAIL", "baseline ", "candidate ", "ratio 0.", "confirmed in a fresh process"):
        assert part in out
    assert re.search(r"\d+ pairs in \d+ sessions", out)  # how many depends on the machine's noise


@timing
def test_torch_fp16_is_slower_on_cpu_and_fails_where_speed_is_promised(run):
    file = run.path / "pyproject.toml"
    file.write_text(file.read_text() + 'speedup = ">= 1"\n')
    code, out = run("-k", "latency", precision="fp16@torch")
    assert code == 1
    assert "fp16 latency.speedup[64x1] 0." in out


@timing
def test_a_regression_against_the_deployed_artifact_fails_and_none_passes(run, int8):
    slowed(int8.file, run.path / "slow.onnx", 30)
    code, out = run("--artifact=slow.onnx", f"--baseline-artifact={int8.folder}", "-k", "latency")
    assert code == 1
    assert "gate <= 1.25: FAIL" in out
    code, out = run(f"--baseline-artifact={int8.folder}", "-k", "latency")
    assert "ok   latency.regression[64x1]" in out, out


@timing
def test_the_baseline_may_run_in_another_interpreter(run):
    code, out = run(f"--baseline-python={sys.executable}", "-k", "latency")
    assert "ok   latency.regression[64x1]" in out, out
    code, out = run("--baseline-python=/no/such/python", "-k", "latency")
    assert code == 1
    assert "cannot start the interpreter python" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("extra", [["--benchmark-disable"], ["-n", "2"]])
def test_a_disabled_benchmark_is_unmeasured_and_strict_fails_it(run, extra):
    code, out = run(*extra)
    assert code == 0
    assert "qguard: UNMEASURED" in out
    assert "not measured: test_latency[64x1]" in out
    code, out = run(*extra, "--qguard-strict")
    assert code == 1
    assert "benchmarks are disabled" in out


@timing
def test_without_pytest_benchmark_latency_is_measured_all_the_same(run):
    code, out = run("-p", "no:benchmark", "--strict-markers", "-k", "latency")
    assert code == 0, out
    assert "ok   latency.speedup[64x1]" in out


@timing
def test_benchmark_only_and_skip_leave_a_part_unmeasured(run):
    code, out = run("--benchmark-only", "--qguard-strict")
    assert code == 1
    assert "not measured: test_golden_is_current" in out
    assert "ok   latency.speedup[64x1]" in out
    code, out = run("--benchmark-skip", "--qguard-strict")
    assert code == 1
    assert "not measured: test_latency[64x1]" in out


@timing
def test_save_compare_and_max_time(run):
    code, out = run("--benchmark-save=one", "-k", "latency")
    assert "Saved benchmark data" in out, out
    code, out = run("--benchmark-compare=0001", "--benchmark-compare-fail=median:900%", "--benchmark-max-time=4", "-k", "latency")
    assert "(0001_one)" in out, out
    assert code == 0, out


@timing
# Not importorskip: pygal imports importlib_metadata, which takes the standard library's finder away, and pytester then
# takes away the backport's, so that every distribution of this process would be absent afterwards.
@pytest.mark.skipif(importlib.util.find_spec("pygal") is None, reason="needs pygal")
def test_histogram(run):
    run("--benchmark-histogram=h", "-k", "latency")
    assert list(run.path.glob("h*.svg"))


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
    assert "latency.speedup[64x1]" in out


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

    from qguard.precisions import parse_precision

    model = onnx.load(str(fp32_onnx))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("LayerNorm.weight"))
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, str(tmp_path / "other.onnx"))
    encoder = harness.encoder(parse_precision("fp32"), "minilm")
    batch = Bucket(16, 2).fill(harness.golden("minilm", "core").token_ids)
    same_outputs(ArmSpec("onnx", str(fp32_onnx), "fp32"), batch, encoder)
    with pytest.raises(MeasurementProblem, match="not those of the accuracy run"):
        same_outputs(ArmSpec("onnx", str(tmp_path / "other.onnx"), "fp32"), batch, encoder)


@timing
def test_memory_is_reported_and_gated_where_configured(run):
    file = run.path / "pyproject.toml"
    code, out = run("--qguard-report=r.json", "-k", "latency")
    assert code == 0, out
    (check,) = [c for c in json.loads((run.path / "r.json").read_text())["runs"][0]["checks"] if c["name"] == "memory.ratio"]
    assert check["outcome"] == "reported"
    assert 0.2 < check["value"] < 1
    assert "MB against" in check["worst"][0]
    file.write_text(file.read_text() + '[tool.qguard.gates.int8]\n"memory.ratio" = "<= 0.1"\n')
    code, out = run("-k", "latency")
    assert code == 1
    assert "int8 memory.ratio" in out


@timing
def test_calibrate_says_what_this_machine_can_tell_apart(run):
    file = run.path / "pyproject.toml"
    file.write_text(file.read_text().replace('"<= 1.25"', '"<=1.25"') + "budget = 1.5\n")
    command = [
        sys.executable,
        "-c",
        "import sys; from qguard.cli import main; sys.exit(main())",
        "calibrate",
        "--minutes",
        "0.01",
    ]
    done = subprocess.run(command, cwd=run.path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: too noisy for this budget, which it then says
    assert "luck of one pair of sessions" in done.stdout
    assert ("Settings for this machine" in done.stdout) == (done.returncode == 0)
    done = subprocess.run([*command, "--tokens", "1"], cwd=run.path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@timing
def test_a_ratio_that_moves_from_the_accepted_one_is_reported_and_gated_where_configured(run):
    def accept(*args: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "import sys; from qguard.cli import main; sys.exit(main())", "accept", *args]
        done = subprocess.run(command, cwd=run.path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("--qguard-report=r.json")[0] == 0
    assert accept("r.json")[0] == 2  # no reason
    assert accept("pyproject.toml", "--reason", "x")[0] == 2
    code, out = accept("r.json", "--reason", "new runner")
    assert code == 0
    assert "minilm/own int8@onnx latency.speedup[64x1]" in out
    stored = run.path / "golden" / "minilm" / "own" / "accepted.json"
    value = json.loads(stored.read_text())
    value["latency"][0]["ratio"] *= 1.5  # as if it had been that much faster when it was accepted
    stored.write_text(json.dumps(value))
    code, out = run("-k", "latency")
    assert code == 0, out
    assert "moved by more than 10% on an equal machine" in out
    file = run.path / "pyproject.toml"
    file.write_text(file.read_text().replace("batches = [1]", 'batches = [1]\ntrend = "<= 1.2"'))
    code, out = run("-k", "latency")
    assert code == 1
    assert "int8 latency.trend[64x1] 1." in out
    value["latency"][0]["fingerprint"]["cpu"] = "another"
    stored.write_text(json.dumps(value))
    assert run("-k", "latency")[0] == 0
