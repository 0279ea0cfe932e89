"""ONNX Runtime in another process gives the vectors of this one, and says in words what failed there."""

from __future__ import annotations

import shutil
import sys
import venv

import numpy as np
import pytest

from qguard.encoders import padded
from qguard.encoders.elsewhere import ElsewhereRuntime
from qguard.encoders.onnx import OnnxRuntime
from qguard.errors import ArtifactProblem, MeasurementProblem

IDS = [[101, 2023, 2003, 102], [101, 7592, 102], [101, *range(2000, 2030), 102]]


def test_it_computes_what_this_process_computes(fp32_onnx):
    there = ElsewhereRuntime(fp32_onnx, [sys.executable], processes=2)
    assert there.workers == 2
    assert there.versions["onnxruntime"]
    assert there.features
    batch = padded(IDS)[:2]
    assert np.array_equal(there(*batch), OnnxRuntime(fp32_onnx)(*batch))
    there.close()
    there.close()


def test_a_file_that_does_not_load_there_is_named(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactProblem, match=r"ONNX Runtime \S+ of the old one cannot load model\.onnx"):
        ElsewhereRuntime(tmp_path / "model.onnx", [sys.executable], name="the old one")


def test_an_interpreter_without_the_runtime_is_named(fp32_onnx, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    with pytest.raises(MeasurementProblem, match="No module named 'numpy'; it needs numpy and an onnxruntime"):
        ElsewhereRuntime(fp32_onnx, [str(tmp_path / "bare" / "bin" / "python")])
    with pytest.raises(MeasurementProblem, match="cannot start nothing-here"):
        ElsewhereRuntime(fp32_onnx, ["nothing-here"])
    if there := shutil.which("false"):
        with pytest.raises(MeasurementProblem, match="exit status 1, no message"):
            ElsewhereRuntime(fp32_onnx, [there])


def test_a_worker_that_is_killed_is_told(fp32_onnx):
    there = ElsewhereRuntime(fp32_onnx, [sys.executable])
    there._all[0]._process.kill()
    with pytest.raises(MeasurementProblem, match="the other interpreter ended"):
        there(*padded(IDS)[:2])


def test_a_batch_that_fails_there_is_told(fp32_onnx):
    there = ElsewhereRuntime(fp32_onnx, [sys.executable])
    with pytest.raises(ArtifactProblem, match=r"of the other interpreter failed on a batch \(input_ids \(2, 3\)"):
        there._run({"input_ids": np.zeros((2, 3), np.float32)})
    assert np.isfinite(there(*padded(IDS)[:2])).all()  # the next one is computed
