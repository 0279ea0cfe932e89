from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qguard.encoders import open_encoder
from qguard.errors import MeasurementProblem
from qguard.judging.invariance import GROUPS, LONGEST, SHORTEST, measure_invariance, sample
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.report.terminal import summary_lines
from tests import faults


@pytest.fixture(scope="session")
def ids(harness):
    return harness.token_ids(Target(parse_precision("fp32"), "minilm", "core"))


@pytest.fixture(scope="session")
def values(harness, minilm, ids):
    """``values(file)``: each invariance metric of an ONNX file on core, and its texts."""

    def measured(file) -> dict[str, float]:
        encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", file)
        found = measure_invariance(encoder, harness.suite("core"), ids)
        assert {m.items for m in found} == {GROUPS**2}
        return {m.name.removeprefix("invariance."): m.value for m in found}

    return measured


def test_fp32_does_not_depend_on_the_batch(values, fp32_onnx):
    assert min(values(fp32_onnx).values()) > 0.999999


def test_dynamic_int8_depends_on_the_batch_and_on_padding_but_not_on_its_order(values, dynamic):
    found = values(dynamic.file)
    assert 0.94 < found["batch_cosine_min"] < 0.995
    assert found["batch_cosine_min"] <= found["batch_cosine_p01"] < 1
    assert found["padding"] < 0.999
    assert found["equal_length"] < 0.999
    assert found["order"] > 0.999999


def test_a_dropped_mask_shows_in_padding_alone(values, fp32_onnx, tmp_path):
    found = values(faults.mask_dropped(fp32_onnx, tmp_path / "m.onnx"))
    assert found["padding"] < 0.9
    assert found["batch_cosine_min"] < 0.9
    assert found["order"] > 0.999999


def test_the_sample_is_spread_over_lengths_and_slices(harness, ids):
    suite = harness.suite("core")
    texts, rows = sample(suite, ids)
    lengths = [len(row) for row in rows]
    assert len(set(texts)) == len(texts) == GROUPS**2
    assert all(len(set(lengths[i : i + GROUPS])) == 1 for i in range(0, len(lengths), GROUPS))
    assert max(lengths) <= LONGEST
    assert max(lengths) > 3 * min(lengths)
    assert {suite.slices[i] for i in texts} == set(suite.slice_names)
    assert all(row[0] == ids[i][0] and row[-1] == ids[i][-1] for i, row in zip(texts, rows, strict=True))
    assert sample(suite, ids) == (texts, rows)


@pytest.mark.parametrize("count", [3, 8, 9, 20, 67])
def test_small_suites_are_measured_whole_or_in_part(harness, ids, fp32_onnx, minilm, count):
    suite = harness.suite("core")
    few = replace(suite, texts=suite.texts[:count], slices=suite.slices[:count], pairs=(), queries=(), documents=(), qrels={})
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx)
    found = measure_invariance(encoder, few, ids[:count])
    long = sum(len(row) >= SHORTEST for row in ids[:count])
    assert {m.items for m in found} == {min(long if long > 1 else count, GROUPS**2)}
    assert min(m.value for m in found) > 0.999999


def test_nothing_to_compare_is_an_error(harness, ids, minilm, fp32_onnx):
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx)
    for few in ([], ids[:1]):
        with pytest.raises(MeasurementProblem, match="at least two texts"):
            measure_invariance(encoder, harness.suite("core"), few)
    for batches in ([], [[0]], [[0, 0]], [[0, 1, 2]]):
        with pytest.raises(MeasurementProblem, match="each of 2 texts once"):
            encoder.encode_batches(ids[:2], batches)


def test_chosen_batches_give_what_batches_by_length_give(ids, minilm, fp32_onnx):
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx)
    want = encoder.encode_ids(ids[:6])
    for batches, padding in (([[5, 0], [3], [1, 2, 4]], 0), ([[0, 1, 2, 3, 4, 5]], 7)):
        assert np.abs(encoder.encode_batches(ids[:6], batches, padding) - want).max() < 1e-6


def test_the_summary_states_the_effect_of_a_batch_that_holds_its_gate(small, dynamic):
    from qguard.config import load_config

    project = Session(load_config(small), dynamic.file)
    (target,) = project.targets([parse_precision("int8-dynamic")])
    checks = project.checks(target, "invariance")
    assert {c.outcome for c in checks} == {"pass", "reported"}
    run = {
        "precision": "int8", "runtime": "onnx", "model": "minilm", "suite": "own", "vectors": "float32", "verdict": "pass",
        "missing": [], "errors": [], "checks": [c.to_json() for c in checks], "latency": [],
    }  # fmt: skip
    assert "a text's vector depends on its batch: lowest cosine 0.9" in "\n".join(summary_lines({"runs": [run]}))
