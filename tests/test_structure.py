"""Operators are known by what they compute, whoever exported them; no file is written that does not load."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from qguard.onnx.edit import Graph
from qguard.onnx.structure import ATTENTION, NORM, SUM, made_by, rows_of
from qguard.precisions.dynamic import quantize

WIDE = 16
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
    want, found = (ort.InferenceSession(str(tmp_path / f"{n}.onnx")).run(None, feed)[0] for n in ("fp32", "int8"))
    assert 0 < np.abs(found - want).max() < 0.1 * np.abs(want).max()
    kinds = [n.op_type for n in onnx.load(str(tmp_path / "int8.onnx")).graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("Attention"), kinds.count("QAttention")) == (4, 1, 0)
