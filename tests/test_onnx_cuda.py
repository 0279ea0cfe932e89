"""ONNX Runtime's CUDA provider: without a device it is not measured, and nothing falls back to the CPU.

What computes is run on the CPU here, in the place of the device; what only a device shows is named in docs/gpu.md.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qguard.cli import main
from qguard.encoders import onnx_cuda, open_runtime
from qguard.encoders.onnx_cuda import ASSIGNED, FIRST, OnnxCudaRuntime, add_first_tokens, name_shapes, on_cpu, refuse_fallback
from qguard.encoders.runtimes import RUNTIMES
from qguard.errors import MeasurementProblem
from qguard.extras import INSTALL_GPU, install
from qguard.latency.check import Bucket, fingerprint
from qguard.machine import versions
from qguard.machine.cuda import card
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from tests.processes import python

HEAVY = ("torch", "transformers", "sentence_transformers")
INSTALL = r"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu\[cuda,cudnn\]'"


def _provider_is_there() -> bool:
    import onnxruntime as ort

    return onnx_cuda.PROVIDER in ort.get_available_providers()


without = pytest.mark.skipif(_provider_is_there(), reason="this ONNX Runtime has the CUDA provider")


@without
def test_a_build_without_the_provider_is_not_measured(fp32_onnx):
    with pytest.raises(
        MeasurementProblem, match=rf"CUDAExecutionProvider, and onnxruntime \S+ .*CPUExecutionProvider; .*{INSTALL}"
    ):
        open_runtime("onnx-cuda", fp32_onnx, "fp32")


@without
@pytest.mark.parametrize("device", [(), ("--qguard-device=cuda",)])
def test_the_gate_says_that_it_is_not_measured(pytester, small, device):
    options = ("--precision=fp16@onnx-cuda", *device, f"--qguard-config={small / 'pyproject.toml'}", "-p", "no:randomly")
    found = pytester.runpytest(*options)
    found.assert_outcomes(failed=6)
    found.stdout.fnmatch_lines(["*NOT MEASURED: onnx-cuda computes in ONNX Runtime's CUDAExecutionProvider*"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED


@without
def test_a_command_ends_with_the_code_of_what_could_not_be_measured(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    assert main(["calibrate", "--precision", "fp16@onnx-cuda"]) == 3
    err = capsys.readouterr().err
    assert "put onnxruntime-gpu in its place" in err
    assert "Traceback" not in err


def test_the_cpu_is_refused_for_it(pytester, small):
    found = pytester.runpytest("--precision=fp16@onnx-cuda", "--qguard-device=cpu", f"--qguard-config={small / 'pyproject.toml'}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--qguard-device cpu: fp16@onnx-cuda runs on CUDA devices alone*"])


@without
def test_it_needs_no_torch(fp32_onnx):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        "from pathlib import Path\nfrom qguard.errors import MeasurementProblem\n"
        "from qguard.latency.arms import ArmSpec\nfrom qguard.latency.check import fingerprint\n"
        f"try:\n    ArmSpec('onnx-cuda', {str(fp32_onnx)!r}, 'fp32', device='cuda').open_runtime()\n"
        "except MeasurementProblem:\n    print(fingerprint(1, 'cuda', 'onnx-cuda')['device'])"
    )
    found = card()
    assert python(code).strip() == (found.name if found else "absent")


def test_what_it_shows_and_where_it_computes():
    record = RUNTIMES["onnx-cuda"]
    assert (record.device("cpu"), record.device("cuda")) == ("cuda", "cuda")
    assert record.cannot_measure("memory.ratio") == "ONNX Runtime does not tell how much memory it takes on a CUDA device"
    assert record.cannot_measure("latency.speedup") == ""
    assert parse_precision("fp16@onnx-cuda").recipe.fp32 == "fp32@onnx-cuda"


def test_it_runs_the_file_of_the_cpu(minilm):
    on_cpu, on_cuda = (parse_precision(f"fp16@{runtime}").build(minilm) for runtime in ("onnx", "onnx-cuda"))
    assert on_cuda.file.read_bytes() == on_cpu.file.read_bytes()
    assert on_cuda.file.name == "model.onnx"


@pytest.fixture
def here(monkeypatch):
    """The CPU in the place of the device."""
    monkeypatch.setattr(onnx_cuda, "PROVIDER", onnx_cuda.CPU)
    monkeypatch.setattr(onnx_cuda, "OPTIONS", {})
    monkeypatch.setattr(onnx_cuda, "require_card", lambda who: None)


def test_one_vector_a_text_is_fetched_and_it_is_that_of_the_first_token(here, fp32_onnx, token_ids):
    batch = Bucket(16, 3).fill(token_ids)
    opened, usual = open_runtime("onnx-cuda", fp32_onnx, "fp32"), open_runtime("onnx", fp32_onnx, "fp32")
    whole = opened(*batch)
    np.testing.assert_allclose(whole, usual(*batch), atol=1e-5)
    first = opened.first_tokens(*batch)
    assert first.dtype == np.float32
    assert np.array_equal(first, whole[:, 0])
    assert [o.name for o in opened.session.get_outputs()][-1] == FIRST
    assert opened.interface.output.port.name != FIRST
    assert (opened.batch_tokens, opened.workers) == (RUNTIMES["onnx-cuda"].batch, 1)


def test_finished_vectors_are_fetched_as_they_are(here, tmp_path):
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["sentence_embedding"], axes=[1], keepdims=1),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "tokens"])
    vectors = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["texts", 1])
    model = helper.make_model(helper.make_graph(nodes, "g", [ids], [vectors]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "model.onnx")
    opened = OnnxCudaRuntime(tmp_path / "model.onnx")
    batch = np.array([[1, 3], [5, 7]]), np.ones((2, 2), np.int64)
    assert opened.first_tokens(*batch).tolist() == opened(*batch).tolist() == [[2], [6]]


def _session(file: Path):
    import onnxruntime as ort

    graph, options = Graph.read(file), ort.SessionOptions()
    add_first_tokens(graph, graph.model.graph.output[0].name)
    shapes = name_shapes(graph)
    options.add_session_config_entry(ASSIGNED, "1")
    return graph.session(options), shapes


def test_a_session_that_came_to_the_cpu_is_refused(fp32_onnx):
    """ONNX Runtime makes one where the provider's libraries are not there, also when it is told not to."""
    session, shapes = _session(fp32_onnx)
    with pytest.raises(MeasurementProblem, match=rf"expected CUDAExecutionProvider as the first .*found CPUExecution.*{INSTALL}"):
        refuse_fallback(session, shapes, fp32_onnx)


def test_nodes_on_the_cpu_are_refused_but_for_those_of_shapes(int8, monkeypatch):
    session, shapes = _session(int8.file)
    strays, nodes = on_cpu(session, shapes)
    assert strays["MatMulIntegerToFloat"] > 20  # the provider has no kernel for it
    assert shapes  # of positions, say
    assert "Shape" not in strays
    assert nodes - strays.total() <= len(shapes)
    monkeypatch.setattr(session, "get_providers", lambda: [onnx_cuda.PROVIDER])  # a card's session with these nodes beside it
    words = rf"expected all of model.onnx on the CUDA device, found {strays.total()} of {nodes} nodes on the CPU.*MatMulInteger"
    with pytest.raises(MeasurementProblem, match=words):
        refuse_fallback(session, shapes, int8.file)


def test_a_node_that_reads_a_text_is_no_node_of_shapes():
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"], "length"),
        helper.make_node("Gather", ["table", "input_ids"], ["words"], "lookup"),
        helper.make_node("Reshape", ["words", "length"], ["out"], "reshape"),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    stored = [helper.make_tensor("one", TensorProto.INT64, [1], [0]), helper.make_tensor("table", TensorProto.FLOAT, [2], [1, 2])]
    graph = Graph(helper.make_model(helper.make_graph(nodes, "g", [ids], [out], stored)))
    assert name_shapes(graph) == {"qguard/0", "length"}


def test_a_build_in_the_place_of_another_is_named(tmp_path, monkeypatch):
    info = tmp_path / "acme_gpu-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-gpu\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(versions, "_BUILDS", {"acme": {"acme-gpu": "gpu"}})
    assert versions.installed("acme", "acme-gpu", "acme-none") == {"acme": "1.2+gpu", "acme-gpu": "1.2", "acme-none": "absent"}


DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = 0; return NUMBER; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA Test", size); return 0; }
int cuDeviceGetPCIBusId(char *bus, int size, int device) { strncpy(bus, "0000:1B:00.0", size); return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
"""


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="needs a C compiler, on Linux")
@pytest.mark.parametrize(("error", "found"), [(0, "('NVIDIA Test', '0000:1B:00.0', '13.1')"), (100, "None")])
def test_the_driver_tells_of_the_device(tmp_path, error, found):
    source = DRIVER.replace("NUMBER", str(error))
    build = ["cc", "-x", "c", "-", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1")]
    subprocess.run(build, input=source, text=True, check=True)
    code = "from qguard.machine.cuda import card\nfound = card()\nprint(found and tuple(found))"
    assert python(code, LD_LIBRARY_PATH=str(tmp_path)).strip() == found


def test_the_command_that_installs_it_takes_the_other_build_away():
    assert install("onnxruntime-gpu") == INSTALL_GPU
    assert install("openvino", "onnxruntime-gpu") == f"pip install 'qguard[openvino]' && {INSTALL_GPU}"
    assert re.fullmatch(INSTALL, INSTALL_GPU)


def test_the_fingerprint_of_another_runtime_is_that_of_the_cpu():
    assert "device" not in fingerprint(1, "cpu", "onnx-cuda")
