"""Every row of every table is compared with the model's, and every stored number is a number: no text need read them."""

from __future__ import annotations

import shutil
import time

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import load_file, save_file

from qguard.artifacts.artifact import open_artifact
from qguard.artifacts.finite import unsound
from qguard.artifacts.tables import read_tables
from qguard.artifacts.tables.compare import of_model, own_rows, wrong_rows
from qguard.judging.artifact import measure_artifact
from qguard.models.model import resolve
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from tests import families, lookups, static


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return resolve("tiny", str(families.write("bert", tmp_path_factory.mktemp("tables") / "tiny")))


@pytest.fixture(scope="module")
def words(base):
    return load_file(base.root / "model.safetensors")["embeddings.word_embeddings.weight"]


def found(file, base):
    """The tables by tokens that are compared: what is wrong in them, in words."""
    compared = [w for w in wrong_rows(read_tables(open_artifact(file, base)), base) if w.table.by_token]
    assert len(compared) == 1, [w.table for w in compared]
    return compared[0], compared[0].lines(lambda row: f"<{row}>")


@pytest.mark.parametrize("form", lookups.FORMS)
def test_a_damaged_row_is_found_in_every_form_and_a_whole_table_is_whole(base, words, form, tmp_path):
    whole, _ = found(lookups.write(form, words, tmp_path / "whole.onnx"), base)
    assert (whole.rows.tolist(), whole.of, whole.table.unread) == ([], len(words), "")
    bad = words.copy()
    bad[[100, 200]], bad[50], bad[70] = bad[[200, 100]], 0, bad[70][::-1]
    wrong, lines = found(lookups.write(form, bad, tmp_path / "bad.onnx"), base)
    assert wrong.rows.tolist() == [50, 70, 100, 200]
    assert "token '<50>' (50) holds only zeros" in lines[0]
    assert "token '<70>' (70) holds no row of the model" in lines[1]
    assert lines[2].endswith("token '<100>' (100) holds the row of token '<200>' (200)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[::-1], "rows are in reverse order"),
        (lambda t: np.roll(t, 3, axis=0), "rows are moved by +3"),
        (lambda t: t[np.random.default_rng(0).permutation(len(t))], "rows are exchanged with others"),
        (lambda t: np.random.default_rng(0).normal(size=t.shape).astype(np.float32), "holds no row of the model"),
        (lambda t: np.where(np.arange(len(t))[:, None] == 9, 2 * t, t), "(9) is 2 times as long"),
        (lambda t: 0 * t, "holds only zeros"),
        (lambda t: np.tile(t[7], (len(t), 1)), "(0) holds the row of token '<7>' (7)"),
    ],
)
def test_what_happened_to_a_table_is_said(base, words, change, said, tmp_path):
    wrong, lines = found(lookups.write("8-bit blocks", np.ascontiguousarray(change(words)), tmp_path / "m.onnx"), base)
    assert len(wrong.rows)
    assert said in lines[0]


def test_a_factor_and_an_offset_of_columns_are_no_damage_of_rows(base, words, tmp_path):
    scaled = words * np.linspace(0.5, 2, words.shape[1], dtype=np.float32) + np.float32(0.1)
    assert not len(found(lookups.write("float", scaled, tmp_path / "m.onnx"), base)[0].rows)
    scaled[5] *= -1
    assert found(lookups.write("float", scaled, tmp_path / "m.onnx"), base)[0].rows.tolist() == [5]


@pytest.mark.parametrize("form", lookups.FORMS)
def test_the_rows_of_a_table_without_its_rounding_are_the_models(base, words, form, tmp_path):
    def read(values):
        tables = read_tables(open_artifact(lookups.write(form, values, tmp_path / "m.onnx"), base))
        return own_rows(next(t for t in tables if t.by_token), of_model(base))

    rows = read(words)
    assert np.array_equal(np.concatenate([rows(0, 333), rows(333, len(words))]), words)
    assert read(np.random.default_rng(0).normal(size=words.shape).astype(np.float32)) is None


def test_what_an_exporter_did_to_a_table_stays_without_its_rounding(base, words, tmp_path):
    def read(values):
        (table,) = read_tables(open_artifact(lookups.write("rows", values, tmp_path / "m.onnx"), base))
        return own_rows(table, of_model(base))(0, table.rows), table.read(0, table.rows)[0]

    scaled = words * np.linspace(0.5, 2, words.shape[1], dtype=np.float32) + np.float32(0.1)
    rows, stored = read(scaled)
    assert np.abs(rows - scaled).max() < 0.1 * np.abs(stored - scaled).max()
    longer = np.concatenate([words, np.ones((5, words.shape[1]), np.float32)])  # rows for no token of the model
    rows, stored = read(longer)
    assert np.array_equal(rows, np.concatenate([words, stored[len(words) :]]))


def test_a_table_in_an_unknown_form_does_not_pass(base, words, tmp_path):
    file = lookups.write("looked up", words, tmp_path / "m.onnx")
    graph = Graph.read(file)
    graph.rewrite(lambda n: [helper.make_node("Sqrt", n.input, n.output)] if n.op_type == "Cast" else None)
    graph.save(file)
    wrong, lines = found(file, base)
    assert len(wrong.rows) == len(words)
    assert "could not be compared with the model's: what dequantizes its integers is in no form that qguard knows" in lines[0]


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp32@torch", "bf16@torch", "int8@openvino"])
@pytest.mark.parametrize("make", [static.write, static.write_model2vec])
def test_artifacts_of_static_models_hold_the_models_rows(make, precision, tmp_path):
    made, chosen = resolve("static", str(make(tmp_path / "static"))), parse_precision(precision)
    held = {m.name: m for m in measure_artifact(chosen.build(made), made, chosen.recipe, chosen.runtime)}
    assert (held["artifact.wrong_rows"].value, held["artifact.wrong_rows"].worst) == (0, ())


@pytest.fixture
def damaged(int8, minilm, tmp_path):
    """MiniLM's int8 with a table changed."""

    def make(name, change):
        graph = Graph.read(int8.file)
        full = next(n for n in graph.initializers if n.endswith(name))
        values = graph.array(full).copy()
        change(values)
        graph.put(full, values)
        graph.save(tmp_path / "m.onnx")
        return {
            m.name.removeprefix("artifact."): m
            for m in measure_artifact(open_artifact(tmp_path / "m.onnx", minilm), minilm, parse_precision("int8").recipe)
        }

    return make


def test_one_broken_scale_fails_the_proof_and_names_the_token(damaged):
    def change(values):
        values[19204, 0] = np.nan

    held = damaged("word_embeddings.weight_scale", change)
    assert (held["nonfinite"].value, held["nonfinite"].bound.holds(1)) == (1, False)
    assert (
        "word_embeddings.weight_scale: 1 values are NaN or infinite; the first is NaN, at [19204, 0]"
        in held["nonfinite"].worst[0]
    )
    assert held["wrong_rows"].value == 1
    assert "token '" in held["wrong_rows"].worst[0]
    assert "(19204) holds NaN or infinite values" in held["wrong_rows"].worst[0]


def test_two_swapped_words_are_named_by_token_and_in_about_a_second(damaged, int8, minilm):
    def change(values):
        values[[19204, 20000]] = values[[20000, 19204]]

    rows = damaged("word_embeddings.weight_quantized", change)["wrong_rows"]
    assert (rows.value, rows.items > 30522, rows.bound.holds(rows.value)) == (2, True, False)
    assert "holds" in rows.worst[0]
    start = time.perf_counter()
    assert not any(len(w.rows) for w in wrong_rows(read_tables(int8), minilm))
    assert time.perf_counter() - start < 5  # 0.2 s on a quiet machine


def test_positions_that_are_moved_are_wrong_rows(damaged):
    def change(values):
        values[:] = np.roll(values, 1, axis=0)

    rows = damaged("position_embeddings.weight", change)["wrong_rows"]
    assert rows.value == 512
    assert "512 of 512 rows are moved by +1" in rows.worst[0]


def test_torch_artifacts_are_read_too(base, tmp_path):
    chosen = parse_precision("fp16@torch")
    artifact = chosen.build(base)
    shutil.copytree(artifact.folder, tmp_path / "copy")
    (tmp_path / "copy" / "qguard.json").unlink()
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("word_embeddings.weight"))
    tensors[name][17] = tensors[name][18]  # a word that is another
    tensors[name][90, 3] = np.inf
    save_file(tensors, file)
    held = {m.name: m for m in measure_artifact(open_artifact(tmp_path / "copy", base), base, chosen.recipe, "torch")}
    assert held["artifact.wrong_rows"].value == 2
    assert "(17) holds the row of token" in held["artifact.wrong_rows"].worst[0]
    assert held["artifact.nonfinite"].value == 1


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (np.float32(-np.inf), 0),  # the end of a range, or what masked scores are filled with
        (np.triu(np.full((4, 4), -np.inf, np.float32), 1), 0),  # a causal mask
        (np.array([1, 2, -np.inf], np.float32), 1),
        (np.array([0, np.nan], np.float16), 1),
        (np.float32(np.nan), 1),
        (np.array([1, 2], np.int64), 0),
    ],
)
def test_infinity_is_a_masks_and_nan_is_nobodys(base, words, values, count, tmp_path):
    graph = Graph.read(lookups.write("float", words, tmp_path / "m.onnx"))
    graph.put("more", values)
    graph.save(tmp_path / "m.onnx")
    assert sum(x.values for x in unsound(open_artifact(tmp_path / "m.onnx", base))[0]) == count


def test_a_table_that_is_read_in_parts_is_unpacked_once(base, words, tmp_path, monkeypatch):
    """Of a vocabulary of 250,000 words, each part would copy a gigabyte."""
    asked = []
    table = next(t for t in read_tables(open_artifact(lookups.write("float", words, tmp_path / "m.onnx"), base)))
    array = Graph.array
    monkeypatch.setattr(Graph, "array", lambda self, name: asked.append(name) or array(self, name))
    parts = [table.read(row, row + 1)[0] for row in range(0, len(words), 100)]
    assert np.array_equal(np.concatenate(parts), words[::100])
    assert asked == [table.name]


def test_external_data_is_read(base, words, tmp_path):
    bad = words.copy()
    bad[3, 3] = np.nan
    model = onnx.load(lookups.write("float", bad, tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=16)
    artifact = open_artifact(tmp_path / "m.onnx", base)
    assert [(x.name, x.values, x.first) for x in unsound(artifact)[0]] == [("table", 1, (3, 3))]
    assert found(tmp_path / "m.onnx", base)[0].rows.tolist() == [3]


def test_a_tolerance_is_for_floats_that_hold_rounded_integers(base, words, tmp_path):
    step = np.abs(words).max() / 127
    tables = read_tables(open_artifact(lookups.write("float", np.rint(words / step) * step, tmp_path / "m.onnx"), base))
    assert len(wrong_rows(tables, base)[0].rows)
    assert not len(wrong_rows(tables, base, 0.05)[0].rows)
