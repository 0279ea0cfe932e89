"""The recipes of ONNX Runtime: what the files hold, and what the vectors keep where activations stay in float."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qguard.diagnosis.sites import Net
from qguard.encoders import padded
from qguard.encoders.onnx import OnnxRuntime
from qguard.encoders.tokenizer import TextTokenizer
from qguard.judging.facts import holds
from qguard.judging.session import Target
from qguard.onnx.edit import Graph
from qguard.precisions import parse_precision
from qguard.precisions.attention import standard_attention
from qguard.precisions.export import CHECK_TEXTS
from qguard.precisions.integer import Observer, Statistics, find_sites, quantize
from qguard.report.terminal import failure_text

# precision: bytes over fp32's, least cosine to the golden over a sample of core
PROMISED = {"int8-weight": (0.30, 0.998), "int4": (0.25, 0.88), "fp16@onnx": (0.52, 0.9999)}


@pytest.mark.parametrize("name", PROMISED)
def test_files_and_vectors_are_as_promised(harness, name):
    size, cosine = PROMISED[name]
    target = Target(parse_precision(name), "minilm", "core")
    checks = {c.name: c for c in harness.checks(target, "artifact")}
    assert all(c.outcome != "fail" for c in checks.values()), failure_text(
        parse_precision(name), "core", list(checks.values()), []
    )
    assert checks["artifact.quantized_ops"].value == 1
    assert checks["artifact.size_ratio"].value <= size
    golden = harness.golden("minilm", "core")
    found = harness.encoder(target.precision, "minilm").encode_ids(golden.token_ids[::12]).astype(np.float64)
    kept = golden.vectors[::12].astype(np.float64)
    assert ((found * kept).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(kept, axis=1)).min() >= cosine


def test_activations_of_8_bit_weights_are_rounded_and_the_file_says_so(harness):
    """What docs/recipes.md says of them."""
    found = {n: holds(harness, Target(parse_precision(n), "minilm", "core")) for n in ("int8-weight", "int4")}
    assert found["int8-weight"] == "36 x I8 block 32 integer with dynamic activations"
    assert found["int4"] == "36 x I4 block 32 float"


def test_a_text_alone_is_the_text_in_a_batch(harness):
    """Activations are rounded by blocks of one token: none depends on a neighbor; other shapes differ by float rounding."""
    ids = sorted(harness.golden("minilm", "core").token_ids, key=len)[400:408]
    encoder = harness.encoder(parse_precision("int8-weight"), "minilm")
    alone = encoder.encode_batches(ids, [[i] for i in range(8)])
    assert (alone * encoder.encode_batches(ids, [list(range(8))])).sum(1).min() > 0.9999


def test_biases_stand_beside_their_products(fp32_onnx):
    """Inside of GELU or LayerNorm they would cost a pass of their own in every precision made of the export."""
    net = Net.read(fp32_onnx, whole=True)
    products = [n for n in net.nodes if n.op_type == "MatMul"]
    assert len(products) == 18
    for node in products:
        (reader,) = (n for n in net.nodes if node.output[0] in n.input)
        assert reader.op_type == "Add"
        assert any(i in net.constants for i in reader.input)


def test_an_integer_product_adds_its_bias_itself(int8):
    net = Graph.read(int8.file)
    products = [n for n in net.nodes if n.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 36 + 6  # what makes the channels in float stands apart
    assert all(len(n.input) == 7 and n.input[6] in net.constants for n in products)
    gelus = [n for n in net.nodes if n.op_type.endswith("Gelu")]
    assert len(gelus) == 12
    assert all(net.producers[n.input[0]] in products and len(n.input) == 1 for n in gelus)


def test_attention_apart_computes_what_the_fused_operator_does(fp32_onnx, minilm, tmp_path):
    graph = Graph(onnx.load(str(fp32_onnx)))
    standard_attention(graph)
    graph.save(tmp_path / "apart.onnx")
    kinds = Counter((n.op_type, n.domain) for n in graph.nodes if n.op_type in ("Attention", "MatMul"))
    assert kinds == {("Attention", ""): 6, ("MatMul", ""): 36}
    ids = TextTokenizer.open(minilm.root, minilm.pipeline)(CHECK_TEXTS)
    input_ids, mask = padded(ids)
    assert not mask.all()
    fused, apart = (OnnxRuntime(file)(input_ids, mask)[mask.astype(bool)] for file in (fp32_onnx, tmp_path / "apart.onnx"))
    assert np.abs(fused - apart).max() < 1e-5


def test_query_key_and_value_share_one_quantized_input(int8):
    net = Net.read(int8.file, whole=True)
    for node in (n for n in net.nodes if n.op_type == "Attention"):
        products = [net.producers[i] for i in node.input[:3]]
        assert {p.op_type for p in products} == {"MatMulIntegerToFloat"}
        assert len({p.input[0] for p in products}) == 1


class Known(Observer):
    """What was observed elsewhere."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, names, channels=1):
        return {name: self.seen[name] for name in names}


def test_what_more_than_the_bias_reads_stays_a_product_of_its_own():
    """x @ w is read by the Add of a bias and by another operator: folding would give the other one the bias too."""
    w, b = (numpy_helper.from_array(np.ones(shape, np.float32), name) for shape, name in (((4, 4), "w"), ((4,), "b")))
    for readers, folded in ((["y"], True), (["y", "z"], False)):
        nodes = [
            helper.make_node("Add", ["x", "x"], ["i"]),
            helper.make_node("MatMul", ["i", "w"], ["p"], "product"),
            helper.make_node("Add", ["b", "p"], ["y"], "bias"),
            *([helper.make_node("Neg", ["p"], ["z"])] if "z" in readers else []),
        ]
        outputs = [helper.make_tensor_value_info(name, 1, ["n", 4]) for name in readers]
        inner = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 4])], outputs, [w, b])
        graph = Graph(helper.make_model(inner))
        (site,) = find_sites(graph)
        assert (site.products[0].out, site.bias.tolist()) == (("y", [1.0] * 4) if folded else ("p", [0.0] * 4))
        seen = Statistics.empty(4)
        seen.add(np.random.default_rng(0).normal(size=(64, 4)))
        quantize(graph, [site], Known({"i": seen}))
        assert ("bias" in [n.name for n in graph.nodes]) is not folded
