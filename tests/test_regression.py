"""``--baseline-python`` compares what both environments compute, and says in words when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import venv

import pytest

from qguard.bisecting.index import interpreter
from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from tests import goldens, wheels
from tests.conftest import ROOT
from tests.processes import gate


def _checks(folder, python, precision="int8", artifact=None):
    session = Session(load_config(folder), artifact, baseline_python=python)
    (target,) = session.targets([parse_precision(precision)])
    assert "regression" in [f.name for f in session.families(target)]
    return {c.name: c for c in session.checks(target, "regression") if c.slice is None}


def test_the_same_environment_gives_the_same(small):
    found = _checks(small, sys.executable)
    assert list(found) == ["regression.cosine_mean", "regression.cosine_min", "regression.overlap@10", "regression.top1"]
    assert [c.value for c in found.values()] == pytest.approx([1.0] * 4, abs=1e-12)
    assert {c.outcome for c in found.values()} == {"reported"}


def test_an_environment_that_computes_otherwise_is_seen(small, tmp_path):
    found = _checks(small, wheels.interpreter(tmp_path / "old", wheels.BAD))
    assert found["regression.cosine_mean"].worst[0].startswith("there: onnxruntime 0.0.1, numpy ")
    assert found["regression.cosine_min"].value < 0.9
    assert found["regression.overlap@10"].value < 0.9
    assert "cosine" in found["regression.cosine_min"].worst[0]


def test_a_gate_bounds_it_and_the_report_shows_it(small, tmp_path):
    gates = '[tool.qguard.gates.int8]\n"regression.overlap@10" = ">= 0.95"\n'
    goldens.project(small, tmp_path / "p", extra=gates)
    old = wheels.interpreter(tmp_path / "old", wheels.BAD)
    report = tmp_path / "r.json"
    options = (f"--baseline-python={old}", f"--qguard-report={report}", f"--qguard-report={tmp_path / 'r.html'}")
    code, out = gate(tmp_path / "p", *options, "-k", "test_regression", precision="int8")
    assert code == 1, out
    assert "regression.overlap@10" in out
    assert "gate >= 0.95, missed by" in out
    assert "qguard bisect --package onnxruntime" in out
    (run,) = json.loads(report.read_text())["runs"]
    outcomes = {c["name"]: c["outcome"] for c in run["checks"] if c["slice"] is None}
    assert outcomes["regression.overlap@10"] == "fail"
    assert outcomes["regression.cosine_min"] == "reported"
    assert "regression.overlap@10" in (tmp_path / "r.html").read_text()


def test_an_interpreter_that_cannot_run_it_is_no_pass(small, tmp_path):
    with pytest.raises(MeasurementProblem, match="cannot start nothing-here"):
        _checks(small, str(tmp_path / "nothing-here"))
    venv.create(tmp_path / "bare", with_pip=False)
    with pytest.raises(MeasurementProblem, match=r"the baseline interpreter ended: .*numpy.*; it needs numpy and an onnxruntime"):
        _checks(small, str(interpreter(tmp_path / "bare")))
    with pytest.raises(MeasurementProblem, match="another interpreter can run artifacts in ONNX Runtime only"):
        _checks(small, sys.executable, "int8@openvino")


def test_it_is_of_whole_vectors_alone(small):
    session = Session(load_config(small), baseline_python=sys.executable)
    plain, stored, cut = (parse_precision(p) for p in ("int8", "int8+binary", "int8:64"))
    for target in session.targets([plain, stored, cut]):
        judged = "regression" in [f.name for f in session.families(target)]
        assert judged == (target.precision == plain)
    with pytest.raises(UsageProblem, match="a baseline compares latency and whole vectors"):
        session.targets([stored])


def test_without_a_baseline_nothing_is_compared(small):
    session = Session(load_config(small))
    (target,) = session.targets([parse_precision("int8")])
    assert "regression" not in [f.name for f in session.families(target)]


def test_it_does_not_import_torch(small):
    code = (
        "import sys\nfrom pathlib import Path\nfrom qguard.config import load_config\n"
        "from qguard.judging.session import Session\nfrom qguard.precisions import parse_precision\n"
        "s = Session(load_config(Path(sys.argv[1])), Path(sys.argv[2]), baseline_python=sys.executable)\n"
        "(t,) = s.targets([parse_precision('int8')])\ns.checks(t, 'regression')\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'scipy'} & sys.modules.keys()))"
    )
    built = Session(load_config(small))
    (target,) = built.targets([parse_precision("int8")])
    file = built.artifact(target.precision, target.model).folder
    done = subprocess.run([sys.executable, "-c", code, small, file], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.long
@pytest.mark.parametrize("kind", ["cross-encoder", "sparse", "multi-vector"])
def test_every_kind_of_model_is_compared(judged, kind, tmp_path):
    same, other = (
        _checks(judged(kind), python, "fp32@onnx")
        for python in (sys.executable, wheels.interpreter(tmp_path / "old", wheels.BAD))
    )
    assert [c.value for c in same.values()] == pytest.approx([1.0] * len(same), abs=1e-6)
    assert other["regression.cosine_min"].value < 0.999
    assert ("regression.overlap@10" in same) == (kind != "cross-encoder")
