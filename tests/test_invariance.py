from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.encoders import Encoder, open_encoder, open_runtime
from qguard.encoders.pooling import Head
from qguard.encoders.tokenizer import TextTokenizer
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


@pytest.mark.parametrize("most", [2, 3, 4, 5, 8, 16, 19, 20, 33, 48])
@pytest.mark.parametrize("masked", [True, False])
def test_padding_fits_a_model_of_few_positions_and_is_still_measured(harness, ids, minilm, tmp_path, most, masked):
    """The file looks up one row for each position, and fails beyond its table; unmasked, what it gives depends on padding."""
    random = np.random.default_rng(0)
    tables = {"words": random.normal(size=(30522, 8)), "places": random.normal(size=(most, 8))}
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["rows"]), helper.make_node("Shape", ["input_ids"], ["size"], start=1),
        helper.make_node("Squeeze", ["size"], ["length"]), helper.make_node("Range", ["zero", "length", "one"], ["at"]),
        helper.make_node("Gather", ["places", "at"], ["placed"]), helper.make_node("Add", ["rows", "placed"], ["own"]),
        helper.make_node("ReduceMean", ["own"], ["all"], axes=[1]),
        helper.make_node("Identity" if masked else "Add", ["own"] if masked else ["own", "all"], ["last_hidden_state"]),
    ]  # fmt: skip
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tables.items()]
    stored += [numpy_helper.from_array(np.array(v), k) for k, v in (("zero", 0), ("one", 1))]
    ends = (("input_ids", TensorProto.INT64, ["b", "l"]), ("last_hidden_state", TensorProto.FLOAT, ["b", "l", 8]))
    graph = helper.make_graph(nodes, "g", *([helper.make_tensor_value_info(*x)] for x in ends), stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    pipeline = replace(minilm.pipeline, max_seq_length=most)
    tokenizer, head = TextTokenizer.open(minilm.root, pipeline), Head.open(minilm.folder, pipeline)
    encoder = Encoder(tokenizer, open_runtime("onnx", tmp_path / "m.onnx", "fp32"), head)
    cut = [[*row[: most - 1], row[-1]] if len(row) > most else row for row in ids]
    found = {m.name: m.value for m in measure_invariance(encoder, harness.suite("core"), cut)}
    assert (found["invariance.padding"] > 0.999999) is masked
    assert found["invariance.order"] > 0.999999


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
