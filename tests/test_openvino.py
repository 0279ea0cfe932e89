"""OpenVINO: its runtime on our ONNX files, and the recipes fp32, bf16 and int8."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time

import numpy as np
import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.config import load_config
from qguard.encoders import open_encoder, open_runtime
from qguard.encoders.openvino import properties_of
from qguard.errors import ArtifactProblem, UsageProblem
from qguard.judging.artifact import measure_artifact
from qguard.judging.families import families_of
from qguard.judging.session import Session, Target
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket, same_outputs
from qguard.latency.memory import peak_bytes
from qguard.machine.cpu import saturates
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.precisions.bounds import DEFAULT_BOUNDS
from qguard.vectors.cosine import of_units, unit
from tests.conftest import ROOT
from tests.machine import needs_bf16

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")


@pytest.fixture(scope="session")
def built(minilm):
    """Artifacts by precision."""
    return {name: parse_precision(f"{name}@openvino").build(minilm) for name in ("fp32", "bf16", "int8")}


@pytest.fixture(scope="session")
def encoders(built):
    """Encoders by precision, opened when they are asked for: bf16 needs a CPU that has it."""

    class Encoders(dict):
        def __missing__(self, name):
            a = built[name]
            return self.setdefault(name, open_encoder("openvino", a.folder, a.pipeline, name, a.file))

    return Encoders()


@pytest.fixture(scope="session")
def some(harness):
    """Every seventh text of core: token ids and golden vectors, which are sentence-transformers' own."""
    golden = harness.golden("minilm", "core")
    return golden.token_ids[::7], golden.vectors[::7].astype(np.float64)


def cosines(found, golden):
    return (found * golden).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(golden, axis=1)


def test_a_missing_extra_names_the_command(monkeypatch, fp32_onnx):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageProblem, match=r"pip install 'qguard\[openvino\]'"):
        open_runtime("openvino", fp32_onnx, "fp32")


@needs_openvino
def test_fp32_vectors_are_those_of_torch(encoders, some):
    ids, golden = some
    assert np.abs(encoders["fp32"].encode_ids(ids) - golden).max() < 1e-5


@needs_openvino
def test_int8_passes_its_gate_on_core(harness):
    (target,) = harness.targets([parse_precision("int8@openvino")])
    names = ["artifact", *(f.name for f in families_of(harness, target) if f.sampled)]
    checks = [c for name in names for c in harness.checks(target, name)]
    assert [f"{c.label} {c.value:.4f} {c.bound}" for c in checks if c.outcome == "fail"] == []
    judged = {c.label for c in checks if c.bound}
    binary = {"task.average_precision_retention"}  # of pairs with two labels: core has grades
    tried = {key for key in DEFAULT_BOUNDS["int8@openvino"] if key.startswith("robustness.")}  # on text of its own
    assert {key for key in DEFAULT_BOUNDS["int8@openvino"] if "*" not in key} - binary - tried <= judged


@needs_openvino
@needs_bf16
def test_bf16_is_half_the_size_and_computes_in_bf16(harness, encoders, some):
    ids, golden = some
    (target,) = harness.targets([parse_precision("bf16@openvino")])
    found = {c.name: c for c in harness.checks(target, "artifact")}
    size = found["artifact.size_ratio"]
    assert found["artifact.quantized_ops"].value == 1
    assert {c.outcome for c in found.values()} <= {"pass", "reported"}
    assert size.value == pytest.approx(0.5, abs=0.02)
    moved = 1 - cosines(encoders["bf16"].encode_ids(ids), golden)
    assert moved.max() < 1 - 0.999
    assert np.median(moved) > 2e-6  # rounded weights in fp32 arithmetic move less


@needs_openvino
@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("bf16", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("int8", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}),
        ("fp32", {"INFERENCE_PRECISION_HINT": "bf16"}),
    ],
)
def test_a_file_that_is_told_to_compute_otherwise_is_found_out(built, minilm, tmp_path, name, properties):
    shutil.copytree(built[name].file.parent, tmp_path / "onnx")
    (tmp_path / "onnx" / "openvino.json").write_text(json.dumps(properties))
    artifact = open_artifact(tmp_path / "onnx" / "model.onnx", minilm)
    assert measure_artifact(artifact, minilm, parse_precision(f"{name}@openvino").recipe, "openvino")[0].value == 0


@needs_openvino
def test_int8_vectors_do_not_depend_on_the_batch(encoders, some):
    ids, _ = some
    alone = np.concatenate([encoders["int8"].encode_ids([row]) for row in ids[:24]])
    assert cosines(alone, encoders["int8"].encode_ids(ids[:24])).min() > 0.999


@needs_openvino
def test_a_bare_onnx_file_runs_in_openvino(built, encoders, some, tmp_path):
    """``--artifact x.onnx --precision int8@openvino``: no properties beside it, so those of the recipe."""
    shutil.copy(built["int8"].file, tmp_path / "x.onnx")
    project = Session(load_config(ROOT), tmp_path / "x.onnx")
    found = project.encoder(parse_precision("int8@openvino"), "minilm")
    assert type(found.runtime).__name__ == "OpenvinoRuntime"
    assert np.array_equal(found.encode_ids(some[0][:5]), encoders["int8"].encode_ids(some[0][:5]))


@needs_openvino
def test_a_file_that_openvino_cannot_read_is_an_error_in_one_line(dynamic):
    with pytest.raises(ArtifactProblem, match=r"cannot load model\.onnx: .*QAttention") as caught:
        open_runtime("openvino", dynamic.file, "int8")
    assert "\n" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize(
    "properties",
    [
        {"INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": "anywhere"},
        {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 24},
        {"INFERENCE_PRECISION_HINT": "u8"},
    ],
)
def test_an_artifact_sets_no_other_property(built, tmp_path, properties):
    shutil.copytree(built["int8"].file.parent, tmp_path / "onnx")
    (tmp_path / "onnx" / "openvino.json").write_text(json.dumps(properties))
    with pytest.raises(ArtifactProblem, match=r"openvino\.json: expected INFERENCE_PRECISION_HINT f32 or bf16"):
        open_runtime("openvino", tmp_path / "onnx" / "model.onnx", "int8")


@needs_openvino
def test_latency_times_what_was_judged(harness, built, encoders):
    batch = Bucket(16, 2).fill(harness.golden("minilm", "core").token_ids)
    spec = ArmSpec("openvino", str(built["int8"].file), "int8")
    same_outputs(spec.open_runtime(), batch, encoders["int8"])
    arm = spec.arm(batch)
    arm.open()
    thread, process = time.thread_time(), time.process_time()
    arm.block(5, 20)
    # computed in this thread: the trial tells interrupted runs by its CPU time
    assert (time.thread_time() - thread) / (time.process_time() - process) > 0.8
    assert 20e6 < peak_bytes(spec, batch) < 2e9


@needs_openvino
def test_static_is_int8_of_onnx_runtime_in_standard_operators(judged):
    """OpenVINO joins them to integer products; on a CPU without VNNI these may overflow, which the check says (findings/)."""
    session = Session(load_config(judged("dense")))
    own, static = (Target(parse_precision(name), "tiny", "own") for name in ("int8", "int8-static@openvino"))
    a, b = (session.embeddings(target).astype(np.float64) for target in (own, static))
    if not saturates():
        assert of_units(unit(a), unit(b)).min() > 0.999
    artifact = session.artifact(static.precision, "tiny")
    graph = Graph.read(artifact.file)
    assert {n.domain for n in graph.nodes} == {""}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in graph.nodes}
    checks = {c.name: c for c in session.checks(static, "artifact")}
    assert checks["artifact.quantized_ops"].value == 1
    assert "artifact.saturation" in checks
    properties = {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    assert properties_of(artifact.file, "int8-static") == properties
