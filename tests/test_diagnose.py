"""A damaged layer, a wrong stage and the layers worth excluding are named, on the real model."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qguard.cli import main
from qguard.commands.diagnose import _keep
from qguard.config import load_config
from qguard.diagnosis import command, diagnosable
from qguard.diagnosis.activations import layer_errors, standing_out, words
from qguard.diagnosis.examination import Examination
from qguard.diagnosis.exclusion import LayerExchange, costs, fewest
from qguard.diagnosis.sites import Net, align
from qguard.diagnosis.stages import Stage
from qguard.diagnosis.verdict import conclude, ranked
from qguard.encoders import open_encoder
from qguard.encoders.onnx import OPTIONS_FILE, exact_products
from qguard.errors import ArtifactProblem
from qguard.judging.cause import Cause
from qguard.judging.rounding import Findings
from qguard.judging.session import Session, Target
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.report.terminal import failure_text
from tests import faults
from tests.machine import long_but

TARGET = Target(parse_precision("int8"), "minilm", "own")
DENSE, KEY = "encoder/layer.3/output/dense", "encoder/layer.2/attention/self/key"


@pytest.fixture(scope="module")
def fp32(fp32_onnx):
    return Net.read(fp32_onnx)


@pytest.fixture(scope="module")
def project(small):
    """``project(artifact)``: the small suite, and an artifact of one's own to judge."""
    known = Session(load_config(small))
    known.golden("minilm", "own")
    known.fp32("minilm", "onnx")

    def project(artifact=None):
        own = Session(known.config, artifact)
        for kept in (Session.model, Session.whole_suite, Session.judged_suite, Session.golden, Session.fp32):
            kept.share(known, own)  # hashed once
        return own

    return project


def with_tensor(source, target, name, change):
    model = onnx.load(str(source))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor).copy()
    change(value)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, str(target))
    shutil.copy(source.with_name(OPTIONS_FILE), target.with_name(OPTIONS_FILE))  # how it is run on x86 without VNNI
    return target


def times(factor, columns=slice(None)):
    def change(value):
        value[..., columns] *= factor

    return change


def worst_first(fp32, file, ids):
    candidate = Net.read(file)
    return ranked(layer_errors(fp32, candidate, align(fp32, candidate), ids, exact=exact_products(file)), TARGET.precision.recipe)


@pytest.mark.parametrize(
    ("tensor", "change", "layer", "part"),
    [
        ("network.embeddings.word_embeddings.weight_scale", times(1.5), "embeddings/word_embeddings", ""),
        ("network.encoder.layer.4.output.LayerNorm.weight", times(1.5), "encoder/layer.4/output/LayerNorm", ""),
        (f"/network/{KEY}/MatMul/weight_scale", times(0, slice(160, 192)), KEY, "head 5"),
        (f"/network/{DENSE}/MatMul/weight_scale", times(1.5, slice(128)), DENSE, "128 of 384 channels: 0 to 127"),
        ("/network/encoder/layer.0/intermediate/dense/MatMul/bias", times(3), "encoder/layer.0/intermediate/dense", None),
    ],
)
def test_damaged_layer_is_named_and_those_behind_it_are_not(fp32, int8, token_ids, tmp_path, tensor, change, layer, part):
    file = with_tensor(int8.file, tmp_path / "m.onnx", tensor, change)
    first, second, *_ = worst_first(fp32, file, token_ids[:8])
    assert first.layer == layer
    assert part is None or first.part == part
    assert first.own > 2 * second.own
    assert first.own == pytest.approx(10 ** (-first.own_sqnr / 20), rel=1e-6)


# int8's products add their bias themselves: 18 fewer tensors to compare
@pytest.mark.parametrize(
    ("artifact", "sites"), [("int8", 64), ("dynamic", 82), pytest.param("static8", 82, marks=pytest.mark.long)]
)
def test_every_layer_of_a_healthy_artifact_is_aligned_and_none_is_far(request, fp32, artifact, sites, token_ids):
    found = worst_first(fp32, request.getfixturevalue(artifact).file, token_ids[:8])
    assert len(found) == sites
    assert sum(x.kind == "linear" for x in found) == 36
    assert max(x.own for x in found) < 0.12
    # what is not quantized computes what fp32 computes, whatever it was fed
    assert max(x.own for x in found if x.kind in ("attention", "activation", "LayerNorm")) < 0.01
    assert all(x.error >= 0.9 * x.own for x in found if x.kind == "linear")


def test_layers_without_common_names_are_aligned_by_order_and_shape(fp32, plain_onnx, token_ids, tmp_path):
    quantize(plain_onnx, tmp_path / "named.onnx", per_channel=True)
    model = onnx.load(str(tmp_path / "named.onnx"))
    fixed = {i.name for i in model.graph.input} | {o.name for o in model.graph.output}
    new: dict[str, str] = {}
    for names in [n.input for n in model.graph.node] + [n.output for n in model.graph.node]:
        for i, name in enumerate(names):
            if name and name not in fixed:
                names[i] = new.setdefault(name, f"t{len(new)}")
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    scale = next(
        n.input[1] for n in model.graph.node if n.op_type == "Mul" and n.input[1] in {t.name for t in model.graph.initializer}
    )
    onnx.save(model, str(tmp_path / "renamed.onnx"))
    candidate = Net.read(tmp_path / "renamed.onnx")
    sites = align(fp32, candidate)
    assert len(sites) == 36
    assert scale in candidate.constants
    assert max(x.own for x in layer_errors(fp32, candidate, sites, token_ids[:4], exact=True)) < 0.1
    del model.graph.node[len(model.graph.node) // 2 :]
    onnx.save(model, str(tmp_path / "half.onnx"))
    with pytest.raises(ArtifactProblem, match="cannot be aligned"):
        align(fp32, Net.read(tmp_path / "half.onnx"))


def test_channels_in_words():
    error, energy = np.full(384, 1e-4), np.ones(384)
    assert standing_out(error, energy) == ()
    error[[3, 4, 5, 9]] = 0.5
    assert words(standing_out(error, energy), 384) == "4 of 384 channels: 3 to 5, 9"
    error[:] = 0.5
    assert standing_out(error, energy) == ()  # all of them are no part


@pytest.fixture
def folder(int8, tmp_path):
    """A copy of the int8 artifact that may differ from its provenance."""
    copy = tmp_path / "artifact"
    shutil.copytree(int8.folder, copy)
    (copy / "qguard.json").unlink()
    return copy


def rewrite(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def cls_pooling(folder):
    rewrite(folder / "1_Pooling" / "config.json", lambda c: {"pooling_mode": "cls"})


def no_normalisation(folder):
    rewrite(folder / "modules.json", lambda m: [x for x in m if not x["type"].endswith("Normalize")])


def cased_tokenizer(folder):
    rewrite(folder / "tokenizer.json", lambda t: {**t, "normalizer": {**t["normalizer"], "lowercase": False}})


def cased_by_transformers(folder):
    rewrite(folder / "tokenizer_config.json", lambda t: {**t, "do_lower_case": False})


def mask_dropped(folder):
    faults.mask_dropped(folder / "onnx" / "model.onnx", folder / "onnx" / "model.onnx")


def pooled_over_padding(folder):
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(str(file))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes/1"))
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["last_hidden_state", "axes/1"], ["sentence"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("sentence", 1, ["batch", 384]))
    onnx.save(model, str(file))


def stored(folder, name, change):
    file = folder / "onnx" / "model.onnx"
    graph = Graph.read(file)
    full = next(n for n in graph.initializers if n.endswith(name))
    graph.put(full, np.ascontiguousarray(change(graph.array(full).copy())))
    graph.save(file)


def rows_reversed(folder):
    stored(folder, "word_embeddings.weight_quantized", lambda v: v[::-1])


def row_zeroed(folder):
    stored(
        folder,
        "word_embeddings.weight_quantized",
        lambda v: np.where(np.arange(len(v))[:, None] == 19204, 128, v).astype(v.dtype),
    )


def positions_moved(folder):
    stored(folder, "position_embeddings.weight", lambda v: np.roll(v, 1, axis=0))


@pytest.mark.parametrize(
    ("damage", "stage", "said"),
    [
        (cls_pooling, "pooling", "declare cls pooling, the model's mean"),
        (pooled_over_padding, "pooling", "mean over padding too"),
        (no_normalisation, "normalization", "do not normalize"),
        (cased_tokenizer, "tokens", "normalizer.lowercase in tokenizer.json is false, the model's true"),
        (
            cased_by_transformers,
            "tokens",
            "no text of the suite shows it, but the artifact's tokenizer is not the model's: do_",
        ),
        (mask_dropped, "mask", "does not reach attention"),
        (rows_reversed, "tables", "30522 of 30522 rows are in reverse order"),
        (row_zeroed, "tables", "(19204) holds only zeros: make the file again"),
        (positions_moved, "tables", "position_embeddings.weight: 512 of 512 rows are moved by +1"),
    ],
)
def test_wrong_stage_is_named_before_any_layer(project, folder, damage, stage, said):
    damage(folder)
    found = Examination(project(folder), TARGET, 8).run(layers_only=True)
    first = next(s for s in found.stages if s.fault)
    assert first.name == stage
    assert said in first.words
    assert found.conclusion.startswith(f"It is the {stage}: ")
    assert found.fault
    assert found.exclusion is None


@pytest.mark.parametrize("artifact", long_but(["int8", "dynamic"], ["int8", "dynamic", "static8"]))
def test_all_layers_left_in_fp32_give_fp32(request, minilm, fp32_onnx, artifact, tmp_path):
    exchange = LayerExchange(fp32_onnx, request.getfixturevalue(artifact).file)
    assert len(exchange.units) == 25
    file = exchange.without(exchange.units, tmp_path / "m.onnx")
    assert not any(exchange._quantized(n) for n in Net.read(file, whole=True).nodes)
    texts = ["a cold morning at the ferry landing", "refunds are paid within a week", "ok"]
    a, b = (open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", f).encode(texts) for f in (file, fp32_onnx))
    assert (a * b).sum(1).min() > 0.9999


def test_a_constant_of_fp32_that_is_no_initializer_moves_with_its_layer(minilm, fp32_onnx, dynamic, tmp_path):
    """Other exporters keep weights in Constant nodes; a name that a tensor has as well is no valid ONNX."""
    graph = Graph.read(fp32_onnx)
    name = next(n.input[1] for n in graph.nodes if n.op_type == "MatMul" and n.input[1] in graph.initializers)
    held = helper.make_node("Constant", [], [name], value=graph.initializers[name])
    graph.prepend([held])
    graph.model.graph.initializer.remove(graph.initializers[name])
    graph.save(tmp_path / "constant.onnx")
    exchange = LayerExchange(tmp_path / "constant.onnx", dynamic.file)
    assert len(exchange.units) == 25
    file = exchange.without(exchange.units, tmp_path / "m.onnx")
    made = Graph.read(file)
    assert f"fp32/{name}" in made.producers
    assert not made.producers.keys() & made.initializers.keys()
    a, b = (open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", f).encode(["ok"]) for f in (file, fp32_onnx))
    assert (a * b).sum(1).min() > 0.9999


def test_exclusion_finds_the_one_layer_and_says_what_stands_in_the_way(project, int8, tmp_path, monkeypatch):
    file = with_tensor(int8.file, tmp_path / "m.onnx", f"/network/{DENSE}/MatMul/weight_scale", times(2.0))
    # every unit takes a run of its own: those of one block show the same
    before = LayerExchange.__init__

    def few(self, *files):
        before(self, *files)
        self.units = [u for u in self.units if "layer.3" in u.layer]

    monkeypatch.setattr(LayerExchange, "__init__", few)
    monkeypatch.setattr("qguard.judging.compare.SECONDS", 0.2)
    made = shutil.copytree(int8.folder, tmp_path / "made")
    shutil.copyfile(file, made / "onnx" / "model.onnx")
    (made / "qguard.json").unlink()
    written = tmp_path / "out"
    found = Examination(project(made), TARGET, 24, partial(_keep, written)).run()
    assert found.failing
    names = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()} == names
    failed = [c.name for c in project(written).checks(TARGET, "embedding") if c.outcome == "fail"]
    assert failed == []
    assert found.exclusion.costs[0].unit.layer == DENSE
    assert [u.layer for u in found.exclusion.chosen] == [DENSE]
    assert found.exclusion.holds
    assert any(line.startswith("artifact.quantized_ops 0.9762") for line in found.exclusion.left)
    before, after, whole = found.exclusion.bytes
    assert before < after < whole
    assert min(found.exclusion.speed) > 0
    assert found.conclusion.startswith("Excluding 1 of 4 layers makes the accuracy gates pass")


def test_per_tensor_weights_cost_in_every_layer(fp32_onnx, minilm, token_ids, tmp_path):
    quantize(fp32_onnx, tmp_path / "tensor.onnx", per_channel=False)
    exchange = LayerExchange(fp32_onnx, tmp_path / "tensor.onnx")
    exchange.units = exchange.units[1:4]
    wanted = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx).encode_ids(token_ids)

    def score(file):
        encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "int8", file)
        return float((encoder.encode_ids(token_ids) * wanted).sum(1).mean()), 0.0

    found = costs(exchange, score, tmp_path)
    assert [c.cosine for c in found] == sorted((c.cosine for c in found), reverse=True)
    assert found[0].cosine > 0.0005
    assert {n for c in found for n in c.unit.nodes} >= {"Attention_0"}


def test_fewest_is_the_shortest_beginning_that_holds():
    for need in range(1, 8):
        asked = []

        def holds(units, need=need, asked=asked):
            asked.append(len(units))
            return len(units) >= need

        assert len(fewest(list("abcdefg"), holds)) == need
        assert len(asked) <= 4
    assert fewest(list("abc"), lambda units: False) == ()


@pytest.mark.parametrize(
    ("precision", "why"),
    [
        ("int8@openvino", "runs in openvino"),
        ("bf16@torch", "runs in torch"),
        ("int8+binary", "--precision int8"),
        ("fp32", "nothing"),
    ],
)
def test_unsupported_precision_is_refused_with_those_that_are_not(small, capsys, precision, why):
    assert main(["diagnose", "--precision", precision, "--config", str(small)]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "Supported: fp16@onnx, int4, int8, int8-dynamic, int8-static, int8-weight" in said


def test_command_writes_json(small, tmp_path, capsys):
    out = tmp_path / "found.json"
    options = ["--layers-only", "--texts", "4", "--json", str(out), "--config", str(small)]
    assert main(["diagnose", "--precision", "int8", *options]) == 0
    found = json.loads(out.read_text())
    assert found["schema"] == 1
    assert len(found["layers"]) == 64
    assert {"layer", "sqnr", "cosine", "error", "own", "own_sqnr", "channels"} <= found["layers"][0].keys()
    assert [s["name"] for s in found["stages"]] == ["tokens", "tables", "mask", "hidden states", "pooling", "normalization"]
    assert found["layers"][0]["layer"] in capsys.readouterr().out


def test_failing_gate_names_the_command(project, int8, tmp_path):
    file = shutil.copyfile(int8.file, tmp_path / "m.onnx")
    harness = project(file)
    asked = command(harness, TARGET)
    assert asked == f"qguard diagnose --precision int8 --artifact {file}"
    checks = [c for c in harness.checks(TARGET, "ranking") if c.bound and c.slice is None]
    failed = [type(c)(**{**vars(c), "outcome": "fail"}) for c in checks]
    loss = Cause.of("loss", {"fp32": "fp32@onnx", "texts": 64, "change": 3e-7, "quantized": ["model"]})
    text = failure_text(TARGET.precision, "own", failed, [], cause=loss, diagnose=asked)
    assert f"  do:     see where accuracy is lost:\n          {asked}\n" in text
    assert not diagnosable(parse_precision("int8@openvino"))


FINE = Stage("tokens", False, "as the model's", 1.0)
SEEN, UNSEEN = (
    Stage("hidden states", False, "they differ by 1 %", 0.01),
    Stage("hidden states", False, "could not be found in the file"),
)


@pytest.mark.parametrize(
    ("stages", "proof", "failing", "said"),
    [
        ([FINE, SEEN], None, (), "No stage is wrong; "),
        ([FINE, UNSEEN], None, (), "Not every stage could be compared; "),
        ([], None, (), "Not every stage could be compared; "),
        ([FINE, SEEN], Findings(0.3, unrounded=0.29), ("gate",), "The artifact computes something else: without any rounding "),
        (
            [FINE, SEEN],
            Findings(0.3, unrounded=0.29, alone=0.01),
            ("gate",),
            "The artifact computes something else: each ",
        ),
        ([FINE, SEEN], Findings(0.3, unrounded=0.01), ("gate",), "The gates were not judged. No layer's loss of accuracy "),
    ],
)
def test_a_conclusion_says_what_is_proved(int8, stages, proof, failing, said):
    words, fault = conclude(stages, [], failing, None, TARGET.precision.recipe, int8, judged=False, proof=proof)
    assert words.startswith(said)
    assert fault == bool(failing)
