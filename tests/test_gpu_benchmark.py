"""benchmarks/gpu.py: what a machine without a card shows of it. Its runs are in tests/test_torch_recipes.py."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import numpy as np
import pytest

from qguard.errors import MeasurementProblem
from qguard.machine import cuda
from qguard.machine.cuda import Card
from tests.conftest import ROOT


@pytest.fixture
def gpu():
    spec = spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nvml(monkeypatch):
    """A card of 100 W, that NVML tells of by its address."""
    module = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def refused(handle):
        raise NVMLError("Not Supported")

    start = time.perf_counter()
    module.NVMLError, module.refused = NVMLError, refused
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByPciBusId = {b"0000:1B:00.0": "card"}.__getitem__
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: int(100_000 * (time.perf_counter() - start))
    module.nvmlDeviceGetPowerUsage = lambda handle: 100_000
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(cuda, "card", lambda: Card("NVIDIA Test", "0000:1B:00.0", "13.1"))
    return module


def test_energy_is_that_of_the_counter(gpu, nvml):
    meter = gpu.Meter("cuda")
    assert meter.how == "its energy counter"
    joules, seconds, runs = meter.joules(lambda: time.sleep(0.01), 0.3)
    assert joules == pytest.approx(100 * seconds, rel=0.05)
    assert 10 <= runs <= 30


def test_without_a_counter_power_is_sampled(gpu, nvml):
    nvml.nvmlDeviceGetTotalEnergyConsumption = nvml.refused
    meter = gpu.Meter("cuda")
    assert meter.how == "power sampled every 20 ms"
    joules, seconds, _ = meter.joules(lambda: time.sleep(0.01), 0.3)
    assert joules == pytest.approx(100 * seconds)


def test_energy_of_texts_is_told_with_the_idle_power(gpu, nvml):
    arm = Namespace(name="fp16@torch", gate=lambda batch: lambda: time.sleep(0.01))
    lines = gpu.energy([arm], "16x4", [np.zeros((4, 16))], Namespace(device="cuda", quick=True))
    assert lines[0].startswith("Energy of 16x4 by its energy counter, of all that runs on the card; idle 100 W.")
    name, bucket, rate, watts, joules, above = (cell.strip() for cell in lines[3].strip("|").split("|"))
    assert (name, bucket) == ("fp16@torch", "16x4")
    assert float(watts) == pytest.approx(100, rel=0.05)
    assert float(joules) == pytest.approx(100 * 1000 / float(rate), rel=0.05)
    assert abs(float(above)) < 0.1 * float(joules)  # the run takes no more than the idle card


def _neither(nvml):
    nvml.nvmlDeviceGetTotalEnergyConsumption = nvml.nvmlDeviceGetPowerUsage = nvml.refused


@pytest.mark.parametrize(
    ("device", "change", "words"),
    [
        ("cpu", None, "a CUDA device is measured, and this run is on the CPU"),
        ("cuda", _neither, "NVML does not tell it: .*Not Supported"),
        ("cuda", lambda _: setattr(cuda, "card", lambda: None), "the driver finds no CUDA device"),
        ("cuda", lambda _: sys.modules.update(pynvml=None), "nvidia-ml-py is not installed; run: pip install nvidia-ml-py"),
    ],
)
def test_energy_that_cannot_be_measured_is_told_in_words(gpu, nvml, device, change, words):
    if change:
        change(nvml)
    with pytest.raises(gpu.LeftOut, match=words):
        gpu.Meter(device)


def test_an_arm_that_cannot_be_compiled_is_told_and_the_others_go_on(gpu, capsys):
    def refuse(batch):
        raise RuntimeError("no kernel | for int8\nand more")

    bad = Namespace(name="int8@torch", compiled=True, transformer=refuse, gate=refuse)
    good = Namespace(name="fp16@torch", compiled=True, transformer=lambda b: lambda: None, gate=lambda b: lambda: None)
    assert gpu.started([bad, good], "16x1", []) == [good]
    out = capsys.readouterr().out
    assert out.startswith("| int8@torch | 16x1 | not measured: it fails when compiled: RuntimeError: no kernel / for int8")
    assert out.count("|") == 11


def test_shapes_are_read_or_refused(gpu, capsys):
    assert [str(b) for b in gpu.shapes("16x1, 128x256")] == ["16x1", "128x256"]
    for text in ("16", "2x1", "16x0", "axb", "16x1,"):
        with pytest.raises(SystemExit):
            gpu.main(["--shapes", text])
        assert "expected tokens x batch from 3x1 on, such as 64x32,128x256, found" in capsys.readouterr().err


def test_what_cannot_be_opened_is_told_and_the_others_are_measured(gpu, monkeypatch):
    def arm(harness, precision, args):
        name = f"{precision.name}@{precision.runtime}"
        if name in ("fp32@onnx-cuda", "bf16@torch"):
            raise MeasurementProblem("not here")
        return Namespace(name=name, base=f"fp32@{precision.runtime}")

    monkeypatch.setattr(gpu, "Arm", arm)
    arms, refused = gpu.opened(None, Namespace(precisions="fp16,bf16,fp16@onnx-cuda", device="cuda"))
    assert [a.name for a in arms] == ["fp32@torch", "fp16@torch"]
    assert refused == ["bf16@torch: not here", "fp32@onnx-cuda: not here", "fp16@onnx-cuda: its fp32@onnx-cuda cannot be opened"]
