"""Each seeded misquantization of the real model fails, at the check that says why, with the layer or the reason named."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.errors import ArtifactProblem
from qguard.judging.facts import holds
from qguard.judging.session import Session, Target
from qguard.machine import cpu
from qguard.precisions import Precision, parse_precision
from qguard.precisions.calibration import Calibration
from qguard.precisions.dynamic import quantize
from qguard.precisions.export import declare_exact_products
from qguard.report.terminal import failure_text
from tests import faults
from tests.machine import needs_exact_sums

FAMILIES = ("artifact", "embedding", "similarity", "ranking", "invariance")  # in the order of the gate
LAYER = "layer.2/intermediate/dense"
OLD = ("a CPU without VNNI", frozenset({"sse2", "avx2"}))


@pytest.fixture(scope="session")
def judge(small):
    """``judge(file)``: the first failed check of the gate and its text, or ``("", "")`` for an artifact that passes."""

    def first_failure(file, precision: str = "int8-dynamic") -> tuple[str, str]:
        project = Session(load_config(small), file)
        (target,) = project.targets([parse_precision(precision)])
        for family in FAMILIES:
            checks = project.checks(target, family)
            if any(c.outcome == "fail" for c in checks):
                text = failure_text(target.precision, target.suite, checks, [], holds(project, target))
                return text.split()[1].partition("[")[0], text
        return "", ""

    return first_failure


def test_the_sound_artifacts_pass(judge, int8, dynamic):
    assert judge(dynamic.file) == ("", "")
    assert judge(int8.file, "int8") == ("", "")


def test_a_no_op_names_every_layer_in_float(judge, fp32_onnx):
    metric, text = judge(fp32_onnx)
    assert metric == "artifact.quantized_ops"
    assert "encoder/layer.0/intermediate/dense: MatMul computes in float with F32 weights, not I8" in text
    assert "and 19 more" in text
    assert "int8 artifact.quantized_ops 0.0000, gate >= 1" in judge(fp32_onnx, "int8")[1]


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (5, 4)])
def test_one_zeroed_attention_head_fails(small, fp32_onnx, tmp_path, layer, head):
    model = onnx.load(str(fp32_onnx))
    node = [n for n in model.graph.node if n.op_type == "Attention"][layer]
    for tensor in model.graph.initializer:
        if tensor.name in node.input[1:3]:  # packed Q, K, V weights and biases; the last third is V
            value = numpy_helper.to_array(tensor).copy()
            value[..., 768 + 32 * head : 800 + 32 * head] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, str(tmp_path / "m.onnx"))
    checks = Session(load_config(small), tmp_path / "m.onnx").checks(
        Target(parse_precision("fp32"), "minilm", "own"), "embedding"
    )
    assert "embedding.cosine_p01" in {c.name for c in checks if c.outcome == "fail"}


def test_one_layer_left_out_is_named(judge, fp32_onnx, tmp_path):
    metric, text = judge(faults.layer_left_out(fp32_onnx, tmp_path / "m.onnx", LAYER))
    assert metric == "artifact.quantized_ops"
    assert "artifact.quantized_ops 0.9583, gate >= 1" in text
    assert f"encoder/{LAYER}: MatMul computes in float with F32 weights, not I8" in text


def test_per_tensor_instead_of_per_channel_names_the_layers(judge, small, fp32_onnx, tmp_path):
    quantize(fp32_onnx, tmp_path / "m.onnx", per_channel=False)
    checks = Session(load_config(small), tmp_path / "m.onnx").checks(Target(parse_precision("int8"), "minilm", "own"), "ranking")
    assert "ranking.overlap@10" in {c.name for c in checks if c.outcome == "fail" and c.slice is None}
    metric, text = judge(tmp_path / "m.onnx")
    assert metric == "artifact.granularity"
    assert "encoder/layer.0/intermediate/dense: per-tensor, not per-channel" in text


def test_a_wrong_zero_point_names_its_layer(judge, dynamic, tmp_path):
    metric, text = judge(faults.wrong_zero_point(dynamic.file, tmp_path / "m.onnx", LAYER))
    assert metric == "artifact.weight_error"
    assert f"encoder/{LAYER}: its weights differ by" in text


def test_an_opset_in_which_a_scale_is_one_number_is_named(judge, static, tmp_path):
    for version in (10, 12):
        metric, text = judge(faults.older_opset(static, tmp_path / "m.onnx", version))
        assert metric == "artifact.opset"
        assert "support one scale per output channel from opset 13 on" in text
        assert f"artifact.opset {version}" in text


def test_minmax_over_all_operators_names_the_quantized_mask(judge, plain_onnx, token_ids, tmp_path):
    metric, text = judge(faults.static(plain_onnx, tmp_path / "m.onnx", token_ids, None))
    assert metric == "artifact.activation_range"
    assert "a mask's sentinel was calibrated with the values" in text


def test_calibration_on_random_tokens_fails_with_what_the_file_computes(judge, plain_onnx, tmp_path):
    """The files' integers are in order, so that the activations' ranges are left as the reason."""
    file = faults.static(plain_onnx, tmp_path / "m.onnx", faults.random_ids(24, 32, 30522), faults.WEIGHTED)
    declare_exact_products(file)
    metric, text = judge(file)
    assert metric == "embedding.cosine_mean"
    assert "the file computes: 36 x I8 per-channel integer with static activations" in text


def test_our_int8_calibrated_on_numbers_fails_and_names_its_texts(small, tmp_path):
    """What all else is right about: ranges, outlier channels and rounding of texts that are like no other."""
    (tmp_path / "numbers.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(50)))
    precision = Precision("int8", "onnx", calibration=Calibration(tmp_path / "numbers.jsonl", "numbers.jsonl"))
    harness, target = Session(load_config(small)), Target(precision, "minilm", "own")
    assert not any(c.outcome == "fail" for c in harness.checks(target, "artifact"))
    failed = {c.name for c in harness.checks(target, "ranking") if c.outcome == "fail" and not c.slice}
    assert "ranking.overlap@10" in failed
    assert "calibrated on 50 texts of 'numbers.jsonl'" in holds(harness, target)


@needs_exact_sums
def test_saturation_is_emulated_exactly(tmp_path):
    """Every full-range weight against sums of pairs that are clipped one by one."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (64, 8)).astype(np.int8)
    activation = rng.integers(0, 256, (5, 64)).astype(np.uint8)
    node = helper.make_node("MatMulInteger", ["a", "w"], ["y"], "layer")
    a = helper.make_tensor_value_info("a", TensorProto.UINT8, [5, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "g", [a], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    session = ort.InferenceSession(faults.saturating(tmp_path / "m.onnx", tmp_path / "s.onnx"))
    products = activation.astype(np.int64)[:, :, None] * weight
    pairs = products[:, 0::2] + products[:, 1::2]
    assert (np.abs(pairs) > 32768).any()
    assert (session.run(None, {"a": activation})[0] == pairs.clip(-32768, 32767).sum(1)).all()


@needs_exact_sums
def test_saturating_products_move_vectors_and_are_told_of_before_they_do(judge, dynamic, minilm, token_ids, tmp_path):
    """MiniLM's vectors survive it; that its weights could overflow is stated all the same, and gated where they would."""
    file = faults.saturating(dynamic.file, tmp_path / "m.onnx")
    exact, saturated = (
        open_encoder("onnx", minilm.folder, minilm.pipeline, "int8", f).encode_batches(token_ids[:8], [[i] for i in range(8)])
        for f in (dynamic.file, file)
    )
    cosine = (exact * saturated).sum(1)
    assert 0.95 < cosine.min() < 0.999  # as far as int8 itself moves them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "cpu", lambda: OLD)
        metric, text = judge(file)
    assert metric == "artifact.saturation"
    assert "output channels can overflow" in text


def test_a_cpu_without_vnni_fails_on_saturation_before_vectors(judge, dynamic, monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "cpu", lambda: OLD)
    shutil.copyfile(dynamic.file, tmp_path / "m.onnx")
    metric, text = judge(tmp_path / "m.onnx")
    assert metric == "artifact.saturation"
    assert "encoder/layer" in text
    assert "output channels can overflow" in text
    assert "session.x64quantprecision=1" in text


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_our_own_int8_is_run_exactly_on_a_cpu_without_vnni(judge, int8, dynamic, minilm, token_ids, monkeypatch, precision):
    """The declared option stores signed weights as unsigned ones: another kernel, the very same sums."""
    artifact = int8 if precision == "int8" else dynamic
    here = open_encoder("onnx", minilm.folder, minilm.pipeline, precision, artifact.file).encode_ids(token_ids)
    monkeypatch.setattr(cpu, "cpu", lambda: OLD)
    monkeypatch.setattr("qguard.encoders.onnx.saturates", lambda: True)
    there = open_encoder("onnx", minilm.folder, minilm.pipeline, precision, artifact.file)
    assert there.runtime.session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"
    np.testing.assert_allclose(there.encode_ids(token_ids), here, atol=1e-6)
    assert judge(artifact.file, precision) == ("", "")


def test_another_declaration_is_refused(judge, dynamic, tmp_path):
    shutil.copyfile(dynamic.file, tmp_path / "m.onnx")
    (tmp_path / "onnxruntime.json").write_text('{"session.disable_prepacking": "1"}')
    with pytest.raises(ArtifactProblem, match=r"onnxruntime.json: expected .*x64quantprecision"):
        judge(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"sse2", "avx2"}, True),
        ("x86_64", {"sse2", "avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512f", "avx512_vnni"}, False),
        ("aarch64", {"asimddp"}, False),
        ("x86_64", set(), False),  # flags unknown: reported, not gated
    ],
)
def test_which_cpu_saturates(monkeypatch, machine, flags, expected):
    monkeypatch.setattr(cpu, "cpu", lambda: ("some CPU", frozenset(flags)))
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.saturates() is expected
