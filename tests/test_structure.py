"""Operators are known by what they compute, whoever exported them; no file is written that does not load."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from qguard.artifacts.layers import OUTLIERS
from qguard.artifacts.layers.onnx import read
from qguard.encoders.onnx import EXACT
from qguard.onnx.edit import Graph
from qguard.onnx.structure import ATTENTION, NORM, SUM, made_by, rows_of
from qguard.precisions.dynamic import quantize
from qguard.precisions.integer import MASSIVE_PLANS, PLANS, Observer, find_sites, massive
from qguard.precisions.integer import quantize as quantize_sites
from qguard.precisions.norms import axes_as_inputs

WIDE = 16


def opened(file):
    """A session whose sums of 8-bit products are exact on every CPU, as :func:`qguard.encoders.onnx.open_session` makes it."""
    options = ort.SessionOptions()
    options.add_session_config_entry(EXACT, "1")
    return ort.InferenceSession(file, options)


LAYER_NORM = "m = ReduceMean <axes = [-1]> (s)  c = Sub(s, m)  q = Pow(c, two)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)"
NORMS = {
    "fused": "y = LayerNormalization <axis = -1> (s, gain, bias)",
    "without bias": "y = LayerNormalization <axis = -1> (s, gain)",
    "written out": f"{LAYER_NORM}  r = Sqrt(e)  d = Div(c, r)  g = Mul(d, gain)  y = Add(g, bias)",
    "no gain": f"{LAYER_NORM}  r = Sqrt(e)  y = Div(c, r)",
    "RMS": "q = Mul(s, s)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  i = Reciprocal(r)  n = Mul(s, i)"
    "  y = Mul(gain, n)",
    "RMS by a power": "q = Pow(s, two)  v = ReduceMean <axes = [-1]> (q)  e = Add(eps, v)  i = Pow(e, half)  n = Mul(s, i)"
    "  y = Mul(n, gain)",
    "RMS over a root": "q = Pow(s, two)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)  r = Sqrt(e)  i = Div(one, r)"
    "  n = Mul(s, i)  y = Mul(n, gain)",
    "ours": "m = ReduceMean <axes = [-1]> (s)  c = Sub(s, m)  n = SimplifiedLayerNormalization(c, gain)  y = Add(n, bias)",
    "cast and moved": "n = LayerNormalization <axis = -1> (s, gain, bias)  d = Cast <to = 1> (n)  y = Identity(d)",
}
OTHERS = {
    "y = Add(s, t)": SUM,
    "w = MatMul(s, t)  a = Softmax(w)  y = MatMul(a, t)": ATTENTION,
    "w = MatMul(s, t)  a = Softmax(w)  p = MatMul(a, t)  q = Transpose <perm = [0, 1, 2]> (p)  y = Reshape(q, shape)": ATTENTION,
    "y = Attention <q_num_heads = 2, kv_num_heads = 2> (s, t, t)": ATTENTION,
    "y = com.microsoft.MultiHeadAttention <num_heads = 2> (s, t, t)": ATTENTION,
    "y = Mul(s, t)": "",
    "y = Gelu(s)": "",
    "r = Sqrt(s)  y = Div(t, r)": "",
    "e = Erf(s)  o = Add(e, one)  y = Mul(s, o)": "",
    "y = MatMul(s, weight)": "",
    "y = Identity(s)": "",
}


def graph_of(body, opset=20, **stored):
    """A graph of ``s`` and ``t`` (2, 3, WIDE) with the outputs ``y``."""
    values = {
        "gain": np.ones(WIDE), "bias": np.ones(WIDE), "eps": np.array(1e-6), "two": np.array(2), "half": np.array(-0.5),
        "one": np.array(1), "weight": np.eye(WIDE), **stored,
    }  # fmt: skip
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        f"g (float[2,3,{WIDE}] s, float[2,3,{WIDE}] t) => (float[b,n,m] y) {{ {body} }}"
    )
    model = parser.parse_model(text)
    arrays = {k: np.asarray(v, np.float32) for k, v in values.items()} | {"shape": np.array([2, 3, -1])}
    read = {i for n in model.graph.node for i in n.input}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in arrays.items() if k in read)
    return Graph(model)


@pytest.mark.parametrize("form", NORMS)
def test_a_norm_is_known_however_it_is_written(form):
    graph = graph_of(NORMS[form], opset=17)
    ort.InferenceSession(graph.model.SerializeToString())  # it is a graph that runs
    assert made_by(graph, "y") == NORM


@pytest.mark.parametrize("body", OTHERS)
def test_what_is_no_norm_is_told_apart(body):
    assert made_by(graph_of(body, opset=23), "y") == OTHERS[body]


def test_stored_values_in_nodes_are_stored_values():
    graph = graph_of("n = LayerNormalization <axis = -1> (s, gain)  k = Constant <value = float {2.0}> ()  y = Mul(n, k)")
    assert made_by(graph, "y") == NORM


def test_the_rows_of_a_table_are_chosen_by_what_stands_behind_moves():
    graph = graph_of("i = Cast <to = 7> (s)  j = Unsqueeze(i, axes)  y = Gather(weight, j)  z = Gather <axis = 1> (weight, j)")
    assert [rows_of(graph, n) for n in graph.nodes if n.op_type == "Gather"] == ["s", ""]


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_int8_dynamic_of_onnxs_own_attention_loads(domain, tmp_path):
    """quantize_dynamic takes it for ONNX Runtime's operator of that name, whose second input is a weight."""
    rng = np.random.default_rng(0)
    body = (
        "x = Gather(words, input_ids)  q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)"
        "  a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)  last_hidden_state = MatMul(a, wo)"
    )
    head = f'<ir_version: 10, opset_import: ["{domain}" : 23]> g (int64[b,n] input_ids)'
    model = parser.parse_model(f"{head} => (float[b,n,m] last_hidden_state) {{ {body} }}")
    for node in model.graph.node:
        node.domain = domain
    names = {"words": (40, WIDE), **dict.fromkeys(["wq", "wk", "wv", "wo"], (WIDE, WIDE))}
    stored = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in names.items()]
    model.graph.initializer.extend(stored)
    onnx.save(model, str(tmp_path / "fp32.onnx"))
    quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", per_channel=True)
    feed = {"input_ids": np.array([[3, 0, 39, 7]])}
    want, found = (opened(str(tmp_path / f"{n}.onnx")).run(None, feed)[0] for n in ("fp32", "int8"))
    assert 0 < np.abs(found - want).max() < 0.1 * np.abs(want).max()
    kinds = [n.op_type for n in onnx.load(str(tmp_path / "int8.onnx")).graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("Attention"), kinds.count("QAttention")) == (4, 1, 0)


def written(tmp_path, body, opset=20, **stored):
    """A file that looks ids up in ``words`` and computes on."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g (int64[b,n] input_ids)'
    model = parser.parse_model(f"{head} => (float[b,n,m] last_hidden_state) {{ {body} }}")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in stored.items())
    onnx.save(model, str(tmp_path / "fp32.onnx"))
    return tmp_path / "fp32.onnx"


def integers(file, ids, plans=None):
    """Its integer form, as ``int8`` makes it, and whether the model counts as one with massive activations."""
    graph = Graph.read(file)
    sites = find_sites(graph)
    observer = Observer(file, (s.x for s in sites), ids)
    found = massive(sites, observer)
    quantize_sites(graph, sites, observer, plans or (MASSIVE_PLANS if found else PLANS))
    axes_as_inputs(graph)
    graph.import_domain("com.microsoft")
    return opened(graph.model.SerializeToString()), graph, found


def relative(session, file, ids):
    """Root of the squared error of each token's outputs over that of the outputs."""
    feed = {"input_ids": np.array(ids)}
    found, want = session.run(None, feed)[0], ort.InferenceSession(str(file)).run(None, feed)[0]
    return np.sqrt(((found - want) ** 2).sum(-1) / (want**2).sum(-1))


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("both_signs", [False, True])
def test_a_model_with_massive_activations_has_a_scale_for_each_token(both_signs, opset, tmp_path):
    """The last id is wider than anything that calibrated: a fixed range cuts it off."""
    rng, wide = np.random.default_rng(0), 400
    words = rng.normal(size=(40, wide))
    words[7, 3], words[39] = 150, 2 * words[39]
    act = "a = Identity(x)" if both_signs else "a = Relu(x)"
    stored = {"words": words, "w": rng.normal(size=(wide, 32)), "bias": rng.normal(size=32)}
    body = f"x = Gather(words, input_ids)  {act}  p = MatMul(a, w)  last_hidden_state = Add(p, bias)"
    file = written(tmp_path, body, opset, **stored)
    calibration = [[i, 7] for i in range(39)]
    session, graph, found = integers(file, calibration)
    assert found
    assert relative(session, file, [[1, 2, 30, 7]]).max() < 0.02
    assert relative(session, file, [[39]]).max() < 0.02
    fixed, _, _ = integers(file, calibration, PLANS)
    assert relative(fixed, file, [[39]]).max() > 2 * relative(session, file, [[39]]).max()
    alone, among = (session.run(None, {"input_ids": np.array(ids)})[0] for ids in ([[1, 2]], [[7, 39], [1, 2], [39, 7]]))
    assert np.array_equal(alone[0], among[1])
    onnx.save(graph.model, str(tmp_path / "int8.onnx"))
    (layer,) = (x for x in read(tmp_path / "int8.onnx").layers if x.computes == "integer")
    assert layer.activations == "dynamic"
    assert [x.part for x in read(tmp_path / "int8.onnx").layers if x.computes == "float"] == [OUTLIERS]


def test_a_channel_of_a_norm_far_beyond_the_others_is_multiplied_in_float(tmp_path):
    rng, wide = np.random.default_rng(0), 64
    gain, weight = np.ones(wide), rng.normal(size=(wide, 48))
    gain[5] = 60
    words, beta = rng.normal(size=(40, wide)) + 2 * (np.arange(wide) == 5), rng.normal(size=wide)
    body = "x = Gather(words, input_ids)  y = LayerNormalization <axis = -1> (x, gain, beta)  last_hidden_state = MatMul(y, w)"
    file = written(tmp_path, body, words=words, gain=gain, beta=beta, w=weight)
    ids = [[i, i + 1] for i in range(39)]
    with_float, graph, _ = integers(file, ids, MASSIVE_PLANS)
    without, _, _ = integers(file, ids, PLANS)
    assert "Gather" in [n.op_type for n in graph.nodes if n.name.endswith("/Gather")]
    few, many = (relative(s, file, ids).mean() for s in (with_float, without))
    assert few < 0.7 * many


@pytest.mark.parametrize(("widest", "kept"), [(1, 0), (60, 4)])
def test_a_narrow_input_has_channels_in_float_only_where_they_pay(widest, kept, tmp_path):
    rng, wide = np.random.default_rng(0), 400
    words = rng.normal(size=(40, wide))
    words[:, [3, 7, 90]] *= widest
    file = written(
        tmp_path, "x = Gather(words, input_ids)  a = Relu(x)  last_hidden_state = MatMul(a, w)",
        words=words, w=rng.normal(size=(wide, 32)),
    )  # fmt: skip
    session, graph, _ = integers(file, ids := [[i] for i in range(40)], PLANS)
    chosen = [graph.array(n.input[1]).tolist() for n in graph.nodes if n.name.endswith("/Gather")]
    assert [len(c) for c in chosen] == ([kept] if kept else [])
    assert not kept or {3, 7, 90} <= set(chosen[0])
    assert relative(session, file, ids).mean() < 0.02


def test_a_model_without_massive_activations_keeps_fixed_ranges(tmp_path):
    rng, wide = np.random.default_rng(0), 400
    file = written(
        tmp_path, "x = Gather(words, input_ids)  a = Relu(x)  last_hidden_state = MatMul(a, w)",
        words=rng.normal(size=(40, wide)), w=rng.normal(size=(wide, 32)),
    )  # fmt: skip
    _, graph, found = integers(file, [[i] for i in range(40)])
    assert not found
    assert "Div" not in [n.op_type for n in graph.nodes]
