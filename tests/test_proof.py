"""What a recipe declares decides what its files must hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.errors import ArtifactProblem
from qguard.judging.artifact import measure_artifact
from qguard.precisions import RECIPES
from tests import faults

INT8 = RECIPES["int8@onnx"]


@pytest.fixture(scope="session")
def one_left_out(fp32_onnx, tmp_path_factory):
    return faults.layer_left_out(fp32_onnx, tmp_path_factory.mktemp("left") / "m.onnx", "layer.2/intermediate/dense")


def values(file, minilm, recipe):
    return {m.name.removeprefix("artifact."): m for m in measure_artifact(open_artifact(file, minilm), minilm, recipe)}


def test_a_declared_float_layer_is_left_out_and_told_of(one_left_out, minilm):
    assert values(one_left_out, minilm, INT8)["quantized_ops"].value < 1
    declared = replace(INT8, excluded=("encoder/layer.2/intermediate/*",))
    found = values(one_left_out, minilm, declared)
    assert (found["quantized_ops"].value, found["quantized_ops"].items, found["quantized_bytes"].value) == (1, 23, 1)
    assert found["quantized_bytes"].worst == ("1 layers are excluded by the recipe: encoder/layer.2/intermediate/*",)


def test_excluding_everything_is_an_error(int8, minilm):
    with pytest.raises(ArtifactProblem, match=r"no weight multiplication .* besides those that the recipe excludes \(\*\)"):
        values(int8.file, minilm, replace(INT8, excluded=("*",)))


def test_integer_and_weight_only_are_two_promises(int8, minilm):
    found = values(int8.file, minilm, replace(INT8, integer=False))["quantized_ops"]
    assert found.value == 0
    assert "computes in integer with I8 weights, not weight-only I8" in found.worst[0]


def test_blocks_are_a_promise_that_per_channel_does_not_keep(int8, minilm):
    found = values(int8.file, minilm, replace(INT8, granularity=32))["granularity"]
    assert found.value == 0
    assert found.worst[0].endswith("per-channel, not block 32")
