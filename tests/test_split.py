"""Channels in float that are made apart: found by structure, the same values bit by bit, and joined again to be examined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from qguard.diagnosis.sites import Net
from qguard.onnx.edit import Graph
from qguard.onnx.structure import NORM
from qguard.precisions import integer
from qguard.precisions.split import NOTE, OUTLIERS, made_of, rejoined

WIDTH, INNER = 8, 12


def two_layers(*between: tuple[str, list[str], str], more: tuple[str, ...] = ()) -> Graph:
    """x · a (+ bias) → the operators between → y · b, with some stored numbers."""
    rng = np.random.default_rng(0)
    stored = {
        "a": rng.normal(size=(WIDTH, INNER)), "a2": rng.normal(size=(WIDTH, INNER)), "bias": rng.normal(size=INNER),
        "b": rng.normal(size=(INNER, WIDTH)), "half": np.array(0.5), "vector": rng.normal(size=INNER),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("Add", ["p", "bias"], ["sum"], "bias"),
        helper.make_node("MatMul", ["x", "a2"], ["gate"], "gate"),
        *(helper.make_node(op, inputs, [out], out) for op, inputs, out in between),
        helper.make_node("MatMul", ["y", "b"], ["z"], "second"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("z", *more)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, WIDTH])]
    arrays = [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "g", inputs, values, arrays)
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def found(graph: Graph):
    second = next(n for n in graph.nodes if n.name == "second")
    return made_of(graph, "y", {"sum", "gate"}, [second])


RELU = ("Relu", ["sum"], "y")
WRITTEN_OUT = (("Mul", ["sum", "half"], "m"), ("Erf", ["m"], "e"), ("Mul", ["sum", "e"], "y"))
GATED = (("Sigmoid", ["sum"], "s"), ("Mul", ["s", "gate"], "y"))


@pytest.mark.parametrize(
    ("between", "sources", "count"),
    [((RELU,), {"sum"}, 1), (WRITTEN_OUT, {"sum"}, 3), (GATED, {"sum", "gate"}, 2)],
    ids=["relu", "written out", "gated"],
)
def test_activations_and_gates_are_made_channel_by_channel(between, sources, count):
    made = found(two_layers(*between))
    assert {*made.sources} == sources
    assert len(made.chain) == count
    assert made.again()[-1].output[0] == f"y{OUTLIERS}"


@pytest.mark.parametrize(
    ("between", "more"),
    [
        ((("Softmax", ["sum"], "y"),), ()),  # mixes channels
        ((("Mul", ["sum", "vector"], "y"),), ()),  # a number for each channel
        ((RELU,), ("sum",)),  # is an output
        ((RELU, ("Neg", ["sum"], "other")), ("other",)),  # is read by something else
        ((RELU, ("Neg", ["y"], "other")), ("other",)),
    ],
    ids=["softmax", "vector", "output", "source read", "input read"],
)
def test_what_cannot_be_split_is_left(between, more):
    assert found(two_layers(*between, more=more)) is None


def outputs(graph: Graph, x, *names: str):
    graph = graph.copy()
    graph.add_outputs(names)
    session = ort.InferenceSession(graph.whole().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), {"x": x})


@pytest.mark.parametrize("between", [(RELU,), WRITTEN_OUT, GATED], ids=["relu", "written out", "gated"])
@pytest.mark.parametrize("form", [integer._integer, integer.standard], ids=["onnx", "standard"])
def test_split_and_gathered_give_the_same_values(between, form, monkeypatch):
    """Beside the form in which the channels are gathered, on the same statistics."""
    x = np.random.default_rng(1).normal(size=(3, 50, WIDTH)).astype(np.float32)
    made = []
    for split in (True, False):
        graph = two_layers(*between)
        sites = [replace(s, made_by=NORM if s.x == "x" else "") for s in integer.find_sites(graph)]
        seen = outputs(graph, x, *(s.x for s in sites if s.x != "x"))
        tensors = {"x": x, **dict(zip((s.x for s in sites if s.x != "x"), seen, strict=True))}

        class Observed:
            def in_groups(self, wanted):
                for names, channels in wanted:
                    found = integer.Statistics.empty(channels)
                    for name in names:
                        found.add(tensors[name].reshape(-1, channels).astype(np.float64))  # noqa: B023
                    yield dict.fromkeys(names, found)

        if not split:
            monkeypatch.setattr(integer, "_by_channel", lambda *_: {})
        monkeypatch.setattr(integer, "NARROW", 4)
        plans = {**integer.PLANS, "": (integer.Plan(outliers=3),)}
        integer.quantize(graph, sites, Observed(), plans, form)
        graph.import_domain("com.microsoft")
        made.append(graph)
    apart, gathered = made
    kinds = [[n.op_type for n in g.nodes] for g in made]
    assert ("Gather" in kinds[0], "Gather" in kinds[1]) == (False, True)
    assert np.array_equal(*(outputs(g, x, "z")[0] for g in made))
    shapes = {t.name: tuple(t.dims) for t in apart.model.graph.initializer}
    assert shapes["first/weight"] == (WIDTH, INNER - 3)
    assert shapes[f"first/weight{OUTLIERS}"] == (WIDTH, 3)
    assert shapes["second/weight"] == (INNER - 3, WIDTH)
    whole = apart.copy()
    rejoined(whole)
    names = ("z", "y", "sum")
    assert all(np.array_equal(a, b) for a, b in zip(outputs(whole, x, *names), outputs(gathered, x, *names), strict=True))


def test_a_note_that_does_not_fit_changes_nothing():
    for value in ("[", '[["y"]]', '[["y", ["sum"], [-1]]]', '[["nowhere", ["sum"], [0, 1]]]', "7", '[["y", ["sum"], [99999]]]'):
        graph = two_layers(RELU)
        before = graph.model.SerializeToString()
        graph.model.metadata_props.add(key=NOTE, value=value)
        rejoined(graph)
        del graph.model.metadata_props[:]
        assert graph.model.SerializeToString() == before


def test_int8_of_a_real_model_gathers_nothing_and_is_examined_whole(int8):
    graph = Graph.read(int8.file)
    wide = [n for n in graph.nodes if n.op_type == "Gather" and n.input[0] not in graph.initializers]
    assert wide == []
    net = Net.read(int8.file, whole=True)
    assert sum(n.op_type == "Gather" and n.input[0] not in net.initializers for n in net.nodes) == 3 * 6
