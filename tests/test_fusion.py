"""Fusion by structure: every layer's attention is one operator, and the file computes what torch computes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from onnx import helper, numpy_helper

from qguard.cli import main
from qguard.models.model import resolve
from qguard.onnx.edit import Graph, attribute
from qguard.onnx.read import read_graph
from qguard.precisions import export, parse_precision
from qguard.precisions.fusion import attention_fused, fuse
from tests import families

FUSED = ("mpnet", "modernbert", "gemma3", "qwen3", "t5", "deberta-v2")  # the others in tests/test_families.py
ROTARY = ("modernbert", "qwen3", "gemma3")
LAYERS = families.LAYERS


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A tiny model of a family in fp32, plain and fused: made once."""
    made = {}

    def get(family):
        if family not in made:
            folder = families.write(family, tmp_path_factory.mktemp("fusion") / family)
            export.export_plain(folder, folder / "plain.onnx")
            graph = Graph.read(folder / "plain.onnx")
            fuse(graph)
            graph.save(folder / "fused.onnx")
            made[family] = folder
        return made[family]

    return get


def outputs(file, mask):
    import onnxruntime as ort

    session = ort.InferenceSession(str(file))
    ids = np.random.default_rng(0).integers(5, 800, mask.shape)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0]


@pytest.mark.parametrize("family", FUSED)
def test_every_layers_attention_is_one_operator(fused, family):
    kinds = [n.op_type for n in read_graph(fused(family) / "fused.onnx").graph.node]
    assert attention_fused(Graph.read(fused(family) / "fused.onnx")) == (LAYERS, LAYERS)
    assert attention_fused(Graph.read(fused(family) / "plain.onnx")) == (0, LAYERS)
    assert kinds.count("Attention") == LAYERS
    assert kinds.count("RotaryEmbedding") == (2 * LAYERS if family in ROTARY else 0)
    assert not {"LayerNormalization", "Sqrt", "Erf", "Tanh", "Sigmoid", "Softmax"} & set(kinds)


@pytest.mark.parametrize("family", FUSED)
def test_padding_on_either_side_changes_nothing(fused, family):
    mask = np.ones((3, 24), np.int64)
    mask[1, 9:], mask[2, :15] = 0, 0
    plain, ours = (outputs(fused(family) / f"{kind}.onnx", mask) for kind in ("plain", "fused"))
    assert np.abs(plain - ours)[mask.astype(bool)].max() < 1e-5
    one = np.ones((1, 1), np.int64)
    assert np.abs(outputs(fused(family) / "plain.onnx", one) - outputs(fused(family) / "fused.onnx", one)).max() < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        {"share_att_key": False, "position_buckets": -1, "pos_att_type": ["c2p"]},
        {"share_att_key": False, "pos_att_type": ["p2c"]},
        {"relative_attention": False, "position_biased_input": True},
    ],
)
def test_every_kind_of_disentangled_attention_is_fused(config, tmp_path):
    folder = families.write("deberta-v2", tmp_path, **config)
    export.export_plain(folder, tmp_path / "plain.onnx")
    graph = Graph.read(tmp_path / "plain.onnx")
    fuse(graph)
    graph.save(tmp_path / "fused.onnx")
    assert attention_fused(graph) == (LAYERS, LAYERS)
    for length in (1, 5, 50):  # within the first buckets, and far beyond
        mask = np.ones((2, length), np.int64)
        mask[1, : length // 2] = 0
        plain, ours = (outputs(tmp_path / f"{kind}.onnx", mask) for kind in ("plain", "fused"))
        assert np.abs(plain - ours)[mask.astype(bool)].max() < 1e-5


def test_relative_positions_beyond_a_texts_length_are_not_multiplied(fused):
    """Of 32 rows of the table, texts of 4 tokens reach 7."""
    import onnxruntime as ort

    graph = Graph.read(fused("deberta-v2") / "fused.onnx")
    gathers = [n for n in graph.nodes if n.op_type == "GatherElements"]
    assert len(gathers) == 2 * LAYERS
    assert "Tile" not in {n.op_type for n in graph.nodes}  # a copy of the table for each text
    products = [n.input[0] for n in gathers]
    graph.add_outputs(products)
    session = graph.session(ort.SessionOptions())
    ids = np.full((3, 4), 7)
    found = session.run(products, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert {f.shape for f in found} == {(3, families.HEADS, 4, 7)}


def test_dynamic_quantization_leaves_onnxs_own_attention_alone(fused, tmp_path):
    """ONNX Runtime's quantizer goes by the operator's name, and takes it for its own of that name: such a file does not load."""
    from qguard.precisions.dynamic import quantize

    quantize(fused("mpnet") / "fused.onnx", tmp_path / "int8.onnx", per_channel=True)
    assert [n.op_type for n in read_graph(tmp_path / "int8.onnx").graph.node].count("MatMulInteger") == 6 * LAYERS
    mask = np.ones((2, 12), np.int64)
    want, found = (outputs(file, mask).ravel() for file in (fused("mpnet") / "fused.onnx", tmp_path / "int8.onnx"))
    assert want @ found / np.linalg.norm(want) / np.linalg.norm(found) > 0.98


def exported(form, batch=3, length=12, heads=4, width=16):
    """One layer as torch's own exporter writes it: heads, rotary positions, attention, GELU; in set 18 or in 23."""
    rng = np.random.default_rng(0)
    whole = heads * width
    half = np.arange(length)[:, None] / 100 ** (np.arange(width // 2) / (width // 2))
    stored = {
        **{f"w{k}": 0.2 * rng.normal(size=(whole, whole)).astype(np.float32) for k in "qkvo"},
        "split": np.array([0, 0, heads, width]), "joined": np.array([0, 0, whole]), "flat": np.array([-1, length, width]),
        "apart": np.array([-1, heads, width, length]), "one": np.array([1]), "zero": np.array(0.0, np.float32),
        "low": np.array(-np.inf, np.float32), "root": np.array(width**-0.25, np.float32),
        "from": np.array([0]), "mid": np.array([width // 2]), "to": np.array([2**63 - 1]), "last": np.array([3]),
        "angles": half[None].astype(np.float32),
    }  # fmt: skip
    node, nodes = helper.make_node, []
    for part in "qkv":
        nodes.append(node("MatMul", ["x", f"w{part}"], [f"{part}0"]))
        nodes.append(node("Reshape", [f"{part}0", "split"], [f"{part}1"]))
        nodes.append(node("Transpose", [f"{part}1"], [f"{part}2"], perm=[0, 2, 1, 3]))
    if form == 18:
        nodes += [
            node("Concat", ["angles", "angles"], ["both"], axis=-1),
            node("Cos", ["both"], ["c"]),
            node("Sin", ["both"], ["s"]),
        ]
        nodes += [node("Unsqueeze", [n, "one"], [n * 2]) for n in "cs"]
        for part in "qk":
            x = f"{part}2"
            nodes += [
                node("Slice", [x, "from", "mid", "last"], [f"{part}a"]), node("Slice", [x, "mid", "to", "last"], [f"{part}b"]),
                node("Neg", [f"{part}b"], [f"{part}n"]), node("Concat", [f"{part}n", f"{part}a"], [f"{part}r"], axis=-1),
                node("Mul", [x, "cc"], [f"{part}x"]), node("Mul", [f"{part}r", "ss"], [f"{part}y"]),
                node("Add", [f"{part}x", f"{part}y"], [f"{part}3"]),
            ]  # fmt: skip
        nodes += [
            node("Reshape", ["k3", "flat"], ["k4"]), node("Transpose", ["k4"], ["k5"], perm=[0, 2, 1]),
            node("Reshape", ["k5", "apart"], ["k6"]), node("Mul", ["q3", "root"], ["q4"]), node("Mul", ["k6", "root"], ["k7"]),
            node("MatMul", ["q4", "k7"], ["scores"]), node("Where", ["mask", "zero", "low"], ["bias"]),
            node("Add", ["scores", "bias"], ["masked"]), node("Softmax", ["masked"], ["p"], axis=-1),
            node("IsNaN", ["p"], ["nan"]),
            node("Where", ["nan", "zero", "p"], ["weights"]), node("MatMul", ["weights", "v2"], ["o"]),
        ]  # fmt: skip
    else:
        stored["angles"] = np.repeat(stored["angles"], batch, 0)
        nodes += [node("Cos", ["angles"], ["c"]), node("Sin", ["angles"], ["s"])]
        nodes += [node("RotaryEmbedding", [f"{p}2", "c", "s"], [f"{p}3"], interleaved=0, num_heads=heads) for p in "qk"]
        nodes.append(node("Attention", ["q3", "k3", "v2", "mask"], ["o"], scale=width**-0.5, is_causal=0))
    nodes += [node("Transpose", ["o"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "joined"], ["y0"])]
    nodes += [node("MatMul", ["y0", "wo"], ["y"])]
    info = helper.make_tensor_value_info
    inputs = [info("x", 1, ["b", "l", whole]), info("mask", 9, ["b", 1, "l", "l"])]
    graph = helper.make_graph(
        nodes, "g", inputs, [info("y", 1, ["b", "l", whole])], [numpy_helper.from_array(v, k) for k, v in stored.items()]
    )
    mask = np.ones((batch, 1, length, length), bool)
    mask[1, ..., 7:], mask[2, ..., :4] = False, False
    feeds = {"x": rng.normal(size=(batch, length, whole)).astype(np.float32), "mask": mask}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", form)], ir_version=10), feeds


@pytest.mark.parametrize("form", [18, 23])
def test_what_torchs_own_exporter_writes_is_fused(form):
    import onnxruntime as ort

    model, feeds = exported(form)
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    graph = Graph(model)
    fuse(graph)
    (attention,) = [n for n in graph.nodes if n.op_type == "Attention"]
    assert attribute(attention, "q_num_heads", 0) == 4
    kinds = [n.op_type for n in graph.nodes]
    assert kinds.count("RotaryEmbedding") == 2
    assert not {"Softmax", "Transpose", "Neg"} & set(kinds)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    assert np.abs(found - want).max() < 1e-5


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([("Div", ["x", 2**0.5]), ("Erf", [0]), ("Add", [1, 1.0]), ("Mul", ["x", 2]), ("Mul", [3, 0.5])], "Gelu"),
        ([("Mul", ["x", 0.5**0.5]), ("Erf", [0]), ("Add", [1.0, 1]), ("Mul", ["x", 0.5]), ("Mul", [3, 2])], "Gelu"),
        ([("Sigmoid", ["x"]), ("Mul", ["x", 0])], "QuickGelu"),
        ([("Mul", ["x", 1.702]), ("Sigmoid", [0]), ("Mul", ["x", 1])], "QuickGelu"),
        ([("Mul", ["x", "x"]), ("Mul", [0, "x"]), ("Mul", [1, 0.044715]), ("Add", ["x", 2]), ("Mul", [3, 0.7978845608]),
          ("Tanh", [4]), ("Add", [5, 1.0]), ("Mul", ["x", 0.5]), ("Mul", [7, 6])], "FastGelu"),
        ([("Div", ["x", 1.5]), ("Erf", [0]), ("Add", [1, 1.0]), ("Mul", ["x", 2]), ("Mul", [3, 0.5])], None),
        ([("Sigmoid", ["x"]), ("Mul", ["z", 0])], None),
        ([("Tanh", ["x"]), ("Mul", [0, "x"])], None),
    ],
)  # fmt: skip
def test_gelu_is_known_by_what_it_computes(steps, found):
    import onnxruntime as ort

    nodes, stored = [], []
    for i, (kind, inputs) in enumerate(steps):
        names = []
        for j, source in enumerate(inputs):
            if isinstance(source, float):
                stored.append(numpy_helper.from_array(np.array(source, np.float32), f"c{i}{j}"))
            names.append(f"c{i}{j}" if isinstance(source, float) else f"t{source}" if isinstance(source, int) else source)
        nodes.append(helper.make_node(kind, names, [f"t{i}"]))
    info = helper.make_tensor_value_info
    inputs = [info(n, 1, ["n"]) for n in "xz"]
    graph = helper.make_graph(nodes, "g", inputs, [info(f"t{len(steps) - 1}", 1, ["n"])], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {n: np.linspace(-4, 4, 33, dtype=np.float32) for n in "xz"}
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    fuse(Graph(model))
    kinds = [n.op_type for n in model.graph.node]
    assert kinds == ([found] if found else [kind for kind, _ in steps])
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    assert np.abs(y - want).max() < 1e-5


def test_a_file_of_another_exporter_is_fused_where_it_still_computes_the_same(fused, tmp_path):
    """ONNX Runtime's optimizer finds nothing in it."""
    folder = shutil.copytree(fused("mpnet"), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    (folder / "onnx").mkdir()
    shutil.copyfile(fused("mpnet") / "plain.onnx", folder / "onnx" / "model.onnx")
    file = parse_precision("fp32").build(resolve("m", str(folder))).file
    assert file is not None
    assert attention_fused(Graph.read(file)) == (LAYERS, LAYERS)


def test_quantize_says_how_much_attention_is_fused(fused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.models]\nm = "{fused("mpnet")}"\n')
    assert main(["quantize", "--precision", "fp32", "--out", "out"]) == 0
    assert "attention fused in 2 of 2 layers" in capsys.readouterr().out
