"""Quantization of architectures beyond BERT: the file runs, holds what its recipe promises, and computes what fp32 computes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.artifacts.artifact import open_artifact
from qguard.artifacts.tables import read_tables
from qguard.artifacts.tables.compare import wrong_rows
from qguard.cli import main
from qguard.diagnosis.activations import layer_errors
from qguard.diagnosis.sites import Net, align
from qguard.encoders import open_encoder
from qguard.encoders.onnx import EXACT
from qguard.errors import ArtifactProblem, ModelProblem
from qguard.faults.surgery import ArtifactGraph
from qguard.judging.artifact import measure_artifact
from qguard.metrics.bounds import Bound
from qguard.models.admission import positions
from qguard.models.model import resolve
from qguard.onnx.edit import Graph, copy
from qguard.precisions import RECIPES, folded, parse_precision
from qguard.precisions.embeddings import quantize_embeddings
from qguard.precisions.fusion import attention_fused
from qguard.precisions.products import plain_products
from tests import families
from tests.conftest import ROOT
from tests.machine import long_but

# one of each way to say where tokens stand and to normalize
QUICK = ("bert", "mpnet", "albert", "deberta-v2", "modernbert", "nomic", "t5", "qwen3")

STAGES = ["tokens", "tables", "mask", "hidden states", "pooling", "normalization"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model of a family, made once."""
    made = {}

    def get(family):
        if family not in made:
            folder = families.write(family, tmp_path_factory.mktemp("families") / family)
            made[family] = resolve(family, str(folder))
        return made[family]

    return get


@pytest.fixture(scope="module")
def texts(harness):
    some = [t for t in harness.suite("core").texts if t.strip()]
    return some[::24] + sorted(some, key=len)[-4:]  # the longest fill every position and leave every window


def loss(found, want):
    """Mean cosine, and the squared error over the squared distance of vectors from their mean: those of tiny models lie close."""
    found, want = found.astype(np.float64), want.astype(np.float64)
    cosine = (found * want).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(want, axis=1)
    return cosine.mean(), ((found - want) ** 2).sum() / ((want - want.mean(0)) ** 2).sum()


@pytest.mark.parametrize("family", long_but(QUICK, families.FAMILIES))
def test_quantize_writes_a_file_that_computes_what_fp32_computes(model, texts, family, tmp_path, monkeypatch, capsys):
    base = model(family)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.models]\n{family} = "{base.folder}"\n')
    assert main(["quantize", "--precision", "int8", "--out", "out"]) == 0
    assert "100% of the multiplications with weights are in the promised precision" in capsys.readouterr().out
    want = open_encoder("torch", base.folder, base.pipeline, "fp32").encode(texts)
    fp32 = parse_precision("fp32").build(base)  # which int8 was made from
    found = open_encoder("onnx", fp32.folder, base.pipeline, "fp32", fp32.file).encode(texts)
    assert np.abs(found - want).max() <= 1e-5
    assert attention_fused(Graph.read(fp32.file)) == (families.LAYERS, families.LAYERS)
    ours = open_encoder("onnx", tmp_path / "out", base.pipeline, "int8", tmp_path / "out" / "onnx" / "model.onnx")
    cosine, error = loss(ours.encode(texts), want)
    assert (cosine >= 0.99, error < 0.2) == (True, True), (cosine, error)
    kinds = [n.op_type for n in onnx.load(str(tmp_path / "out" / "onnx" / "model.onnx")).graph.node]
    assert "GatherBlockQuantized" in kinds
    for made in (fp32, open_artifact(tmp_path / "out", base)):
        compared = wrong_rows(read_tables(made), base)
        assert [line for w in compared for line in w.lines(str)] == []
        assert [w.of for w in compared if w.table.by_token] == [families.VOCABULARY]


@pytest.mark.parametrize("precision", ["int8-weight", "int4"])
@pytest.mark.parametrize("family", long_but(QUICK, ["roberta", "mpnet", "albert", "deberta-v2", "modernbert", "llama"]))
def test_weight_only_files_hold_what_they_promise(model, texts, family, precision):
    base, chosen = model(family), parse_precision(precision)
    artifact = chosen.build(base)
    held = {m.name: m for m in measure_artifact(artifact, base, chosen.recipe)}
    assert held["artifact.quantized_ops"].value == held["artifact.quantized_bytes"].value == 1
    assert held["artifact.wrong_rows"].value == held["artifact.nonfinite"].value == 0
    want = open_encoder("torch", base.folder, base.pipeline, "fp32").encode(texts)
    found = open_encoder("onnx", artifact.folder, artifact.pipeline, precision, artifact.file).encode(texts)
    assert loss(found, want)[0] >= (0.99 if precision == "int8-weight" else 0.95)


def test_layers_that_share_their_weights_share_them_in_integers_too(model):
    """ALBERT runs one layer again and again: stored once each time, an int8 file is larger than fp32's."""
    base = model("albert")
    artifact = parse_precision("int8").build(base)
    graph = onnx.load(str(artifact.file)).graph
    products = [n for n in graph.node if n.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 13
    tensors = {t.name: t for t in onnx.load(str(artifact.file), load_external_data=False).graph.initializer}
    weights = [tensors[n.input[1]] for n in products]
    # a name for each, of the bytes of one: ONNX Runtime does not load signed weights that several operators read, and multiplies
    # unsigned ones half as fast
    assert len({t.name for t in weights}) == 13
    assert {t.data_type for t in weights} == {TensorProto.INT8}
    beside = [{e.key: e.value for e in t.external_data}.get("offset", t.name) for t in weights]
    assert len(set(beside)) == 7
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry(EXACT, "1")  # where a file of shared signed weights does not load
    ort.InferenceSession(str(artifact.file), options)


def test_what_no_text_changes_is_stored_and_not_computed_again(model):
    """DeBERTa multiplies its relative positions with the weights of queries and keys: in integers, that took half of the time."""
    graph = Graph.read(parse_precision("int8").build(model("deberta-v2")).file)
    products = [n for n in graph.nodes if n.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 6 * families.LAYERS
    assert folded.reached(graph) >= {n.input[0] for n in products}
    stored = [t for name, t in graph.initializers.items() if name.endswith("/stored")]
    assert {(tuple(t.dims), t.data_type) for t in stored} == {((1, 32, families.WIDE), onnx.TensorProto.INT8)}
    assert len(stored) == 2 * families.LAYERS
    square = [t for name, t in graph.initializers.items() if list(t.dims) == [families.WIDE] * 2 and "outlier" not in name]
    assert [t.data_type for t in square] == [onnx.TensorProto.INT8] * 4 * families.LAYERS  # once, and no longer in float


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FNetConfig", r"cannot export a model of type 'fnet' to ONNX \(UnsupportedOperatorError: .*--precision bf16"),
        ("NystromformerConfig", r"does not reproduce torch in onnx.*; judge the model in torch"),
    ],
)
def test_what_torch_cannot_export_is_said_in_words(kind, words, tmp_path, monkeypatch):
    """A Fourier transform, which operator set 17 has not; and segments whose number depends on the length."""
    monkeypatch.setitem(families.FAMILIES, "other", families.FAMILIES["bert"]._replace(config=kind))
    base = resolve("other", str(families.write("other", tmp_path / "other")))
    with pytest.raises(ArtifactProblem, match=words):
        parse_precision("int8").build(base)
    parse_precision("bf16").build(base)


def test_the_text_tower_of_clip_is_saved_as_the_docs_say(tmp_path, monkeypatch, harness):
    import re

    import torch
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    chosen = families.FAMILIES["clip-text"]
    text = {**chosen.settings, "projection_dim": 48, "eos_token_id": 4}  # the greatest id in a text, as of CLIP
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    torch.manual_seed(0)
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 16}, projection_dim=48)).eval()
    whole.save_pretrained(tmp_path / "clip")
    words = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<mask>", "model_max_length": families.POSITIONS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=families._bytes("<s>", "<mask>"), **words)
    tokenizer.save_pretrained(tmp_path / "clip")
    with pytest.raises(ModelProblem, match="embeds images as well as texts"):
        resolve("clip", str(tmp_path / "clip"), None, {"max_seq_length": 130})
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "CLIPTextModel" in block]
    exec(code, {})
    base, texts = resolve("text", str(tmp_path / "clip-text" / "model")), ["a cat", "the tenant shall give notice " * 30, "ok"]
    ids = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        want = whole.get_text_features(input_ids=ids.input_ids, attention_mask=ids.attention_mask).pooler_output.numpy()
    assert np.abs(open_encoder("torch", base.folder, base.pipeline, "fp32").encode(texts) - want).max() < 1e-5


def test_a_fault_in_weights_that_layers_share_is_made_once(model, tmp_path):
    file = tmp_path / "model.onnx"
    copy(parse_precision("int8-dynamic").build(model("albert")).file, file)
    graph, sound = ArtifactGraph(file), Graph(onnx.load(str(file)))
    for layer in graph.quantized:
        graph.edit(layer, np.invert)
    names = {layer.weight for layer in graph.quantized}
    assert len(names) < len(graph.quantized)
    assert all(np.array_equal(graph.array(name), np.invert(sound.array(name))) for name in names)


def test_a_diagnosis_pads_no_further_than_the_model_has_positions(model):
    """Texts that fill a model of learned positions leave no room; a position without a row fails in ONNX Runtime's own words."""
    assert [positions(model(f)) for f in ("bert", "roberta", "clip-text", "gte", "t5")] == [130, 128, 130, None, None]
    nets = [Net.read(parse_precision(p).build(model("bert")).file) for p in ("fp32", "int8")]
    errors = layer_errors(*nets, align(*nets), [[5] * 130, [7] * 40], room=positions(model("bert")))
    assert 0 < max(x.own for x in errors) < 0.2


def recorded(root, texts, family, tokenizer, **config):
    """Configuration and int8 artifact of a project of a tiny model with a golden.

    Args:
        root: Where to.
        texts: The suite's.
        family: See :func:`tests.families.write`.
        tokenizer: Entries of ``tokenizer_config.json``.
        config: See :func:`tests.families.write`.
    """
    from qguard import goldens as golden
    from qguard.config import load_config
    from qguard.judging.session import Session

    folder = families.write(family, root / "model", **config)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **tokenizer}))
    if "max_position_embeddings" in config:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": config["max_position_embeddings"]}))
    (root / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (root / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = "model"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
    )
    session = Session(load_config(root))
    golden.record(session.model("tiny"), session.suite("own"), session.config.golden_root, "first")
    artifact = shutil.copytree(parse_precision("int8").build(session.model("tiny")).folder, root / "artifact")
    (artifact / "qguard.json").unlink()
    return session.config, artifact


def diagnosed(config, folder, *, layers_only=True):
    from qguard.diagnosis.examination import Examination
    from qguard.judging.session import Session, Target

    return Examination(Session(config, folder), Target(parse_precision("int8"), "tiny", "own"), 8).run(layers_only=layers_only)


def test_a_diagnosis_leaves_room_for_padding_in_a_table_of_few_positions(texts, tmp_path):
    found = diagnosed(*recorded(tmp_path, texts, "bert", {"model_max_length": 16}, max_position_embeddings=16))
    assert ([s.words for s in found.stages if s.fault], found.notes) == ([], ())
    assert [s.name for s in found.stages] == STAGES


def takes_last_column(file):
    """The file's output becomes the last column of its token embeddings, of unit length."""
    graph = Graph.read(file)
    graph.model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "last column"))
    graph.model.graph.node.append(helper.make_node("Gather", ["last_hidden_state", "last column"], ["column"], axis=1))
    graph.model.graph.node.append(helper.make_node("LpNormalization", ["column"], ["sentence_embedding"], axis=1, p=2))
    del graph.model.graph.output[:]
    graph.model.graph.output.append(helper.make_tensor_value_info("sentence_embedding", 1, ["batch", families.WIDE]))
    graph.save(file)


def test_a_left_padded_file_is_diagnosed_with_padding_on_its_side(texts, tmp_path):
    """Its last column is its last token there; on the other side it would be padding."""
    config, folder = recorded(tmp_path, texts, "qwen3", {"padding_side": "left"})
    found = diagnosed(config, folder, layers_only=False)
    assert ([s.words for s in found.stages if s.fault], found.notes) == ([], ())
    assert [s.name for s in found.stages] == STAGES
    assert 0 < max(x.own for x in found.layers) < 0.2
    takes_last_column(folder / "onnx" / "model.onnx")
    found = diagnosed(config, folder)
    assert ([s.words for s in found.stages if s.fault], found.notes) == ([], ())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "right"}))
    (wrong,) = (s for s in diagnosed(config, folder).stages if s.fault)
    assert (wrong.name, 'padding_side in tokenizer_config.json is "right", the model\'s left' in wrong.words) == ("tokens", True)


def lookup(width, ids="input_ids", *, kind=np.float32, reader=None):
    """A graph that looks rows of a table up, and may multiply with the same table."""
    table = np.random.default_rng(0).normal(size=(50, width)).astype(kind)
    nodes = [helper.make_node("Cast", [ids], ["wide"], to=7), helper.make_node("Gather", ["table", "wide"], ["rows"], "words")]
    if reader:
        nodes.append(helper.make_node("MatMul", ["rows", "table"], ["scores"]))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    outputs = [helper.make_tensor_value_info("rows", element, ["b", "l", width])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(ids, 6, ["b", "l"])], outputs, [numpy_helper.from_array(table, "table")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), table


@pytest.mark.parametrize("width", [16, 24, 312, 384])
def test_a_table_of_any_width_is_looked_up_in_8_bits(width):
    import onnxruntime as ort

    model, table = lookup(width)
    quantize_embeddings(Graph(model))
    assert "table" not in [t.name for t in model.graph.initializer]
    (rows,) = ort.InferenceSession(model.SerializeToString()).run(None, {"input_ids": np.array([[3, 0, 49]], np.int32)})
    assert rows.shape == (1, 3, width)
    assert np.abs(rows[0] - table[[3, 0, 49]]).max() <= np.abs(table).max() / 127


@pytest.mark.parametrize(
    ("change", "left"),
    [({"ids": "position_ids"}, True), ({"kind": np.float16}, True), ({"reader": True}, True), ({}, False)],
)
def test_a_table_that_is_needed_in_float_stays(change, left):
    model, _ = lookup(32, **change)
    quantize_embeddings(Graph(model))
    assert ("table" in [t.name for t in model.graph.initializer]) is left


def test_a_table_left_in_float_is_told_of_by_the_proof_and_the_size(model, tmp_path, capsys, monkeypatch):
    base = model("roberta")
    monkeypatch.setattr("qguard.precisions.embeddings._word_lookups", lambda graph: [])
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.models]\nroberta = "{base.folder}"\n')
    assert main(["quantize", "--precision", "int8", "--out", "out"]) == 0
    assert "left in float: embeddings.word_embeddings.weight: 0.23 MB of F32, not I8" in capsys.readouterr().out
    held = {m.name: m for m in measure_artifact(parse_precision("int8").build(base), base, RECIPES["int8@onnx"])}
    assert held["artifact.quantized_bytes"].value < 0.99
    assert held["artifact.quantized_bytes"].worst[0] == "embeddings.word_embeddings.weight: 0.23 MB of F32, not I8"


def test_what_a_branch_reads_stays():
    """Other tools' files hold If and Loop, whose inner graphs read tensors of the outer one."""
    import onnxruntime as ort

    info, tensor = helper.make_tensor_value_info, numpy_helper.from_array
    branch = helper.make_graph([helper.make_node("Add", ["p", "inner"], ["out"])], "b", [], [info("out", 1, ["n", 4])])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    stored = [tensor(np.eye(4, dtype=np.float32), "w"), tensor(np.ones(4, np.float32), "inner"), tensor(np.array(True), "yes")]
    stored.append(tensor(np.ones(2), "unread"))
    graph = helper.make_graph(nodes, "g", [info("x", 1, ["n", 4])], [info("y", 1, ["n", 4])], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plain_products(Graph(model))
    assert {t.name for t in model.graph.initializer} == {"w", "inner", "yes"}
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.zeros((1, 4), np.float32)})
    assert y.tolist() == [[1.0] * 4]


@pytest.mark.parametrize("types", [True, False])
def test_a_fused_embedding_layer_is_taken_apart_with_types_and_without(types):
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    stored = {
        "words": rng.normal(size=(20, 16)), "places": rng.normal(size=(9, 16)), "kinds": rng.normal(size=(2, 16)),
        "gain": np.ones(16), "shift": np.zeros(16),
    }  # fmt: skip
    names = [*(["input_ids", "token_type_ids"] if types else ["input_ids", ""]), "words", "places", "kinds" if types else ""]
    node = helper.make_node("EmbedLayerNormalization", [*names, "gain", "shift"], ["y", "mask"], "emb", domain="com.microsoft")
    info = helper.make_tensor_value_info
    inputs = [info(n, 6, ["b", "l"]) for n in names[:2] if n]
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items() if k in node.input]
    graph = helper.make_graph([node], "g", inputs, [info("y", 1, ["b", "l", 16])], tensors)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    feed = {i.name: np.array([[0, 1, 1]], np.int32) for i in inputs}
    before = ort.InferenceSession(model.SerializeToString()).run(["y"], feed)[0]
    quantize_embeddings(Graph(model))
    after = ort.InferenceSession(model.SerializeToString()).run(["y"], feed)[0]
    assert np.abs(after - before).max() < 0.05


def product(form):
    """x @ w + b as exporters write it, and the weights."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    stored = {"w": w, "b": b}
    if form in ("transposed", "Gemm"):
        stored["w"] = w.T.copy()
    if form == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "linear", transB=1)]
    else:
        name, nodes = "w", []
        if form == "transposed":
            nodes.append(helper.make_node("Transpose", ["w"], [name := "turned"], perm=[1, 0]))
        elif form == "shared":
            nodes.append(helper.make_node("Identity", ["w"], [name := "same"]))
        elif form == "constant":
            del stored["w"]
            nodes.append(helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)))
        nodes += [helper.make_node("MatMul", ["x", name], ["p"], "linear"), helper.make_node("Add", ["p", "b"], ["y"], "bias")]
    info = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", [info("x", 1, ["n", 4])], [info("y", 1, ["n", 6])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), w, b


@pytest.mark.parametrize("form", ["plain", "transposed", "Gemm", "shared", "constant"])
def test_a_product_is_one_matmul_however_it_was_exported(form):
    import onnxruntime as ort

    model, w, b = product(form)
    plain_products(Graph(model))
    assert [n.op_type for n in model.graph.node] == ["MatMul", "Add"]
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert np.array_equal(stored[model.graph.node[0].input[1]], w)
    assert len(stored) == 2
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert np.allclose(y, x @ w + b, atol=1e-6)


def values_of(base, name):
    chosen = parse_precision(name)
    artifact = chosen.build(base)
    return artifact, {m.name: m for m in measure_artifact(artifact, base, chosen.recipe, artifact.runtime(chosen.runtime))}


def without_pooler(folder):
    """As checkpoints are that were saved with another head: Transformers then fills the pooler with noise."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", long_but(QUICK, ["mpnet", "qwen3", "bert", "nomic", "gte", "jina-v3", "t5"]))
def test_torchs_int8_counts_what_the_checkpoint_has(family, texts, tmp_path, monkeypatch):
    base = resolve(family, str(without_pooler(families.write(family, tmp_path / family))))
    files = []
    for again in ("first", "second"):
        monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / again))
        artifact, held = values_of(base, "int8@torch")
        assert (held["artifact.quantized_ops"].value, held["artifact.quantized_bytes"].value) == (1, 1)
        files.append(artifact.weight_files[0].read_bytes())
    assert files[0] == files[1]
    assert b"pooler" not in files[0]
    want, found = (open_encoder("torch", a.folder, a.pipeline, "fp32").encode(texts) for a in (base, artifact))
    assert loss(found, want)[0] >= 0.99


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_size_is_held_against_four_bytes_a_parameter(model, dtype, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model("roberta").folder, tmp_path / "model")
    file = folder / "model.safetensors"
    save_file({k: v.to(getattr(torch, dtype)) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    base = resolve("half", str(folder))
    assert base.fp32_bytes == pytest.approx(model("roberta").fp32_bytes, rel=1e-3)
    assert model("roberta").fp32_bytes == (model("roberta").root / "model.safetensors").stat().st_size
    for name, most in {} if "8" in dtype else {"fp16@torch": 0.52, "int8-weight": 0.36, "fp32": 1.01}.items():
        assert values_of(base, name)[1]["artifact.size_ratio"].value <= most, name


def test_a_model_without_normalize_has_no_norm_gate(texts, tmp_path):
    from qguard import goldens as golden
    from qguard.attest.policy import gates_in_force
    from qguard.config import load_config
    from qguard.judging.session import Session, Target

    families.write("roberta", tmp_path / "raw", normalize=False)
    families.write("roberta", tmp_path / "unit")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nraw = "raw"\nunit = "unit"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n'
    )
    harness, int8 = Session(load_config(tmp_path)), parse_precision("int8")
    bounds = {}
    for name in ("raw", "unit"):
        golden.record(harness.model(name), harness.suite("own"), harness.config.golden_root, "first")
        checks = harness.checks(Target(int8, name, "own"), "embedding")
        bounds[name] = next(c.bound for c in checks if c.name == "embedding.norm_error")
        assert ("embedding.norm_error" in gates_in_force(harness, int8, name)) is (name == "unit")
    assert bounds == {"raw": None, "unit": Bound("<=", 0.02)}
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates.int8]\n"embedding.norm_error" = "<= 0.5"\n')
    checks = Session(load_config(tmp_path)).checks(Target(int8, "raw", "own"), "embedding")
    assert next(c.bound for c in checks if c.name == "embedding.norm_error") == Bound("<=", 0.5)
