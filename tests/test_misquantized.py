"""Each seeded misquantization of the real model fails, at the check that says why, with the layer or the reason named."""

from __future__ import annotations

import pytest

from qguard.config import load_config
from qguard.harness import Harness
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.report.terminal import failure_text
from tests import faults

FAMILIES = ("artifact", "embedding", "similarity", "ranking", "invariance")  # in the order of the gate
LAYER = "layer.2/intermediate/dense"


@pytest.fixture(scope="session")
def judge(small):
    """``judge(file)``: the first failed check of the gate and its text, or ``("", "")`` for an artifact that passes."""

    def first_failure(file, precision: str = "int8") -> tuple[str, str]:
        project = Harness(load_config(small), file)
        (target,) = project.targets([parse_precision(precision)])
        for family in FAMILIES:
            checks = project.checks(target, family)
            if any(c.outcome == "fail" for c in checks):
                text = failure_text(precision, target.suite, checks, [], project.holds(target))
                return text.split()[1].partition("[")[0], text
        return "", ""

    return first_failure


def test_the_sound_artifact_passes(judge, int8):
    assert judge(int8.file) == ("", "")


def test_a_no_op_names_every_layer_in_float(judge, fp32_onnx):
    metric, text = judge(fp32_onnx)
    assert metric == "artifact.quantized_ops"
    assert "encoder/layer.0/intermediate/dense: MatMul computes in float with F32 weights, not I8" in text
    assert "and 19 more" in text


def test_one_layer_left_out_is_named(judge, fp32_onnx, tmp_path):
    metric, text = judge(faults.layer_left_out(fp32_onnx, tmp_path / "m.onnx", LAYER))
    assert metric == "artifact.quantized_ops"
    assert "artifact.quantized_ops 0.9583, gate >= 1" in text
    assert f"encoder/{LAYER}: MatMul computes in float with F32 weights, not I8" in text


def test_per_tensor_instead_of_per_channel_names_the_layers(judge, fp32_onnx, tmp_path):
    quantize(fp32_onnx, tmp_path / "m.onnx", per_channel=False)
    metric, text = judge(tmp_path / "m.onnx")
    assert metric == "artifact.granularity"
    assert "encoder/layer.0/intermediate/dense: per-tensor, not per-channel" in text


def test_a_wrong_zero_point_names_its_layer(judge, int8, tmp_path):
    metric, text = judge(faults.wrong_zero_point(int8.file, tmp_path / "m.onnx", LAYER))
    assert metric == "artifact.weight_error"
    assert f"encoder/{LAYER}: its weights differ by" in text


def test_an_opset_in_which_a_scale_is_one_number_is_named(judge, static, tmp_path):
    for version in (10, 12):
        metric, text = judge(faults.older_opset(static, tmp_path / "m.onnx", version))
        assert metric == "artifact.opset"
        assert "know one scale an output channel from opset 13 on" in text
        assert f"artifact.opset {version}" in text


def test_minmax_over_all_operators_fails_with_what_the_file_computes(judge, plain_onnx, token_ids, tmp_path):
    metric, text = judge(faults.static(plain_onnx, tmp_path / "m.onnx", token_ids, None))
    assert metric == "embedding.cosine_mean"
    assert "with static activations" in text


def test_calibration_on_random_tokens_fails_where_calibration_on_texts_does_better(judge, plain_onnx, tmp_path):
    file = faults.static(plain_onnx, tmp_path / "m.onnx", faults.random_ids(24, 32, 30522), faults.WEIGHTED)
    metric, text = judge(file)
    assert metric == "embedding.cosine_mean"
    assert "with static activations" in text


def test_saturating_products_fail_on_vectors(judge, int8, tmp_path):
    metric, _ = judge(faults.saturating(int8.file, tmp_path / "m.onnx"))
    assert metric.startswith("embedding.")


def test_a_cpu_without_vnni_fails_on_saturation_before_vectors(judge, int8, monkeypatch):
    from qguard import cpu

    monkeypatch.setattr(cpu, "cpu", lambda: ("a CPU without VNNI", frozenset({"sse2", "avx2"})))
    metric, text = judge(int8.file)
    assert metric == "artifact.saturation"
    assert "session.x64quantprecision=1" in text
    assert "output channels can overflow" in text
