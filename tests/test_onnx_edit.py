"""Changes of an ONNX graph: what is added, moved and removed, and that the indexes stay true."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.errors import ArtifactProblem
from qguard.onnx import edit as onnx_edit
from qguard.onnx import read as reading
from qguard.onnx.edit import INTEGER, Graph, attribute, attributes, point_to
from qguard.onnx.read import external_files, fill, read_graph, stored_array, stored_bytes
from qguard.precisions import RECIPES
from qguard.precisions.code import modules

SETS = [helper.make_opsetid("", 17)]
info, tensor = helper.make_tensor_value_info, numpy_helper.from_array


def graph_of(nodes, stored, outputs=("y",)):
    """Of one input ``x``, float32 (n, 4)."""
    ends = [info("x", 1, ["n", 4])], [info(name, 1, ["n", 4]) for name in outputs]
    inner = helper.make_graph(nodes, "g", *ends, [tensor(np.asarray(v), k) for k, v in stored.items()])
    return Graph(helper.make_model(inner, opset_imports=SETS, ir_version=8))


def shifted():
    """y = (x + 1) + 2."""
    nodes = [helper.make_node("Add", ["x", "one"], ["a"], "first"), helper.make_node("Add", ["a", "two"], ["y"], "second")]
    return graph_of(nodes, {"one": np.ones(4, np.float32), "two": np.full(4, 2, np.float32)})


def run(graph):
    onnx.checker.check_model(graph.model)
    (y,) = ort.InferenceSession(graph.model.SerializeToString()).run(None, {"x": np.zeros((1, 4), np.float32)})
    return y[0].tolist()


def state(graph):
    """All that the indexes say."""
    names = [*graph.producers, *graph.constants, "x"]
    readers = {name: [n.name for n in graph.consumers(name)] for name in names}
    made = {k: v.name for k, v in graph.producers.items()}
    values = {k: graph.array(k).tolist() for k in graph.constants}
    return [n.name for n in graph.nodes], made, readers, values


CHANGES = {
    "put, new": lambda g: g.put("three", np.zeros(2)),
    "put, again": lambda g: g.put("one", np.zeros(4, np.float32)),
    "drop_tensors": lambda g: (g.set_input(g.nodes[0], 1, "two"), g.drop_tensors(["one", "two"])),
    "set_nodes": lambda g: g.set_nodes(g.nodes[:1]),
    "rewrite": lambda g: g.rewrite(lambda n: [] if n.name == "second" else None),
    "replace": lambda g: g.replace(g.nodes[0], [helper.make_node("Neg", ["x"], ["a"], "negative")]),
    "prepend": lambda g: g.prepend([helper.make_node("Neg", ["x"], ["z"], "negative")]),
    "append": lambda g: g.append([helper.make_node("Neg", ["y"], ["z"], "negative")]),
    "set_input": lambda g: g.set_input(g.nodes[1], 0, "x"),
    "redirect": lambda g: g.redirect(g.nodes, {"one": "two", "a": "x"}),
    "rename_outputs": lambda g: g.rename_outputs({"a": "b"}),
    "drop_unread": lambda g: (g.set_input(g.nodes[1], 0, "x"), g.drop_unread()),
    "sort": lambda g: (g.set_nodes(g.nodes[::-1]), g.sort()),
    "store_constants": lambda g: (
        g.prepend([helper.make_node("Constant", [], ["c"], "held", value=tensor(np.ones(2)))]),
        g.consumers("c"),
        g.store_constants(lambda t: True),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_every_index_is_that_of_the_model(change):
    graph = shifted()
    before = state(graph)
    CHANGES[change](graph)
    after = state(graph)
    assert after == state(Graph(graph.model))
    assert (after == before) is (change == "sort")


def test_a_tensor_is_stored_in_place_of_the_one_of_its_name_or_behind_the_others():
    graph = shifted()
    assert graph.put("one", np.full(4, 5, np.float32)) == "one"
    graph.put("three", np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert [t.name for t in graph.model.graph.initializer] == ["one", "two", "three"]
    assert graph.array("three").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert run(graph) == [7.0] * 4


def test_a_node_makes_way_for_others_in_its_place():
    graph = shifted()
    made = [helper.make_node("Neg", ["x"], ["n"], "negative"), helper.make_node("Sub", ["n", "two"], ["a"], "less")]
    graph.replace(graph.nodes[0], made)
    assert [n.name for n in graph.nodes] == ["negative", "less", "second"]
    assert run(graph) == [0.0] * 4


def test_a_tensor_is_made_under_another_name_and_read_from_it():
    graph = shifted()
    graph.redirect(graph.nodes, {"y": "inner"})
    graph.rename_outputs({"y": "inner"})
    graph.append([helper.make_node("Neg", ["inner"], ["y"])])
    assert run(graph) == [-3.0] * 4


def test_an_input_behind_the_last_one_leaves_those_between_empty():
    node = helper.make_node("Clip", ["x"], ["y"])
    graph = graph_of([node], {"top": np.float32(-1)})
    graph.set_input(graph.nodes[0], 2, "top")
    assert list(graph.nodes[0].input) == ["x", "", "top"]
    assert run(graph) == [-1.0] * 4


def test_what_is_out_of_order_is_put_behind_what_it_reads_and_what_nobody_needs_goes():
    graph = shifted()
    graph.set_nodes([*graph.nodes[::-1], helper.make_node("Neg", ["a"], ["unneeded"])])
    graph.sort()
    assert [n.name for n in graph.nodes] == ["first", "second"]
    assert run(graph) == [3.0] * 4


def unread_chain():
    """x + 1, and beside it a chain of a move and of a computation that nothing reads."""
    nodes = [
        helper.make_node("Identity", ["w"], ["same"]),
        helper.make_node("Cast", ["same"], ["cast"], to=1),
        helper.make_node("Neg", ["x"], ["lost"]),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    return graph_of(nodes, {"w": np.ones(4, np.float32), "one": np.ones(4, np.float32)})


@pytest.mark.parametrize(("operators", "left"), [(None, ["Add"]), (("Cast", "Identity"), ["Neg", "Add"]), (("Cast",), None)])
def test_a_chain_that_nothing_reads_goes_as_far_as_its_operators_may(operators, left):
    graph = unread_chain()
    graph.drop_unread(operators)
    assert [n.op_type for n in graph.nodes] == (left or ["Identity", "Neg", "Add"])
    assert list(graph.initializers) == (["one"] if left else ["w", "one"])


def branching():
    """An ``If`` whose branches read the outer tensors ``a`` and ``inner``."""
    branch = helper.make_graph([helper.make_node("Add", ["a", "inner"], ["out"])], "b", [], [info("out", 1, ["n", 4])])
    nodes = [
        helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=branch),
        helper.make_node("Neg", ["x"], ["a"], "negative"),
    ]
    return graph_of(nodes, {"yes": np.array(True), "inner": np.ones(4, np.float32)})


def test_what_a_branch_reads_is_read():
    graph = branching()
    assert [n.name for n in graph.consumers("inner")] == ["choice"]
    graph.drop_tensors(["inner", "yes"])
    graph.sort()
    graph.drop_unread()
    assert [n.name for n in graph.nodes] == ["negative", "choice"]
    assert run(graph) == [1.0] * 4


def test_stored_tensors_and_those_of_nodes_are_constants():
    held = helper.make_node("Constant", [], ["c"], value=tensor(np.full(4, 3, np.float32)))
    graph = graph_of([held, helper.make_node("Add", ["x", "c"], ["y"])], {"w": np.ones(2)})
    assert (list(graph.initializers), list(graph.constants)) == (["w"], ["w", "c"])
    assert graph.array("c").tolist() == [3.0] * 4
    graph.store_constants(lambda t: t.data_type == TensorProto.DOUBLE)
    assert len(graph.nodes) == 2
    graph.store_constants(lambda t: t.data_type == TensorProto.FLOAT)
    assert list(graph.initializers) == ["w", "c"]
    assert run(graph) == [3.0] * 4


def test_the_way_back_ends_at_other_operators_and_in_a_circle():
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=1),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
        helper.make_node("Identity", ["q"], ["p"]),
        helper.make_node("Identity", ["p"], ["q"]),
    ]
    graph = graph_of(nodes, {})
    assert graph.behind("b", ("Cast", "Identity")) == "x"
    assert graph.behind("b", ("Identity",)) == "a"
    assert graph.behind("y", ("Cast", "Identity")) == "y"
    assert graph.behind("p", ("Identity",)) in ("p", "q")


def test_a_copy_is_changed_alone():
    graph = shifted()
    copy = graph.copy()
    copy.put("one", np.zeros(4, np.float32))
    copy.set_opset(18)
    copy.import_domain("com.microsoft")
    copy.import_domain("com.microsoft")
    assert (run(graph), run(copy)) == ([3.0] * 4, [2.0] * 4)
    assert (graph.opset, copy.opset) == (17, 18)
    assert [(o.domain, o.version) for o in copy.model.opset_import] == [("", 18), ("com.microsoft", 1)]


def test_attributes_are_of_the_type_of_their_default():
    node = helper.make_node("X", [], ["y"], axis=3, epsilon=0.5, perm=[1, 0], mode="linear")
    assert (attribute(node, "axis", 0), attribute(node, "epsilon", 1.0), attribute(node, "perm", [0])) == (3, 0.5, [1, 0])
    assert (attribute(node, "to", 7), attribute(node, "alpha", 1.0), attribute(node, "axes", [-1])) == (7, 1.0, [-1])
    assert attributes(node) == {"axis": 3, "epsilon": 0.5, "perm": [1, 0], "mode": b"linear"}
    assert attributes(node, ("axis", "none")) == {"axis": 3}


@pytest.mark.parametrize("operator", [o for o in INTEGER if o in ("MatMulInteger", "QLinearMatMul")])
def test_operands_lie_where_the_standard_says(operator):
    formal = [i.name for i in onnx.defs.get_schema(operator).inputs]
    at = INTEGER[operator]
    wanted = {"MatMulInteger": ("B", "b_zero_point"), "QLinearMatMul": ("b", "b_zero_point")}[operator]
    assert (formal[at.weight], formal[at.zero]) == wanted
    if operator == "QLinearMatMul":
        assert (formal[at.scale], formal[at.activation]) == ("b_scale", "a_scale")


def external(tmp_path):
    graph = shifted()
    file = tmp_path / "m.onnx"
    onnx.save_model(graph.model, str(file), save_as_external_data=True, location="m.data", size_threshold=0)
    return file


def test_tensors_beside_the_file_are_read_with_it_or_where_they_are_used(tmp_path):
    file = external(tmp_path)
    assert run(Graph(Graph.read(file).whole())) == [3.0] * 4
    lazy = Graph.read(file)
    assert lazy.array("two").tolist() == [2.0] * 4
    (y,) = lazy.session(ort.SessionOptions()).run(None, {"x": np.zeros((1, 4), np.float32)})
    assert y[0].tolist() == [3.0] * 4


@pytest.mark.parametrize("data", [b"1", None])
def test_damaged_data_beside_the_file_is_an_artifact_problem(tmp_path, data):
    file = external(tmp_path)
    graph = Graph.read(file)
    (tmp_path / "m.data").unlink() if data is None else (tmp_path / "m.data").write_bytes(data)
    for read in (graph.whole, lambda: graph.array("two")):
        with pytest.raises(ArtifactProblem, match="external data"):
            read()


def test_data_outside_of_the_folder_is_not_read(tmp_path):
    graph = Graph.read(external(tmp_path))
    (tmp_path / "inner").mkdir()
    graph.folder = tmp_path / "inner"
    for location in ("../m.data", str(tmp_path / "m.data")):
        point_to(graph.initializers["two"], location, 0, 16)
        with pytest.raises(ArtifactProblem, match="leaves the folder"):
            graph.array("two")


def test_a_tensor_under_two_names_is_in_the_file_once(tmp_path):
    """Small or large, read back and saved again; a name that is given another value has its own bytes."""
    graph, file = shifted(), tmp_path / "m.onnx"
    weight = np.arange(4096, dtype=np.float32)
    graph.put("weight", weight)
    assert graph.again("weight", "weight_1") == "weight_1"
    graph.again("weight", "weight_2")
    graph.put("weight_2", -weight)
    graph.copy().save(file)
    assert (tmp_path / "m.onnx_data").stat().st_size == 2 * weight.nbytes
    held = Graph.read(file)
    assert all(np.array_equal(held.array(name), weight) for name in ("weight", "weight_1"))
    assert np.array_equal(held.array("weight_2"), -weight)
    assert run(Graph(graph.whole())) == run(Graph(held.whole())) == [3.0] * 4


@pytest.mark.parametrize("rows", [2, 64])
def test_what_does_not_fit_one_file_lies_beside_it(tmp_path, monkeypatch, rows):
    """Saved whole and beside the file, read, changed by views of what was read, and saved over itself: the same values."""
    weight = np.random.default_rng(0).normal(size=(rows, 4, 16)).astype(np.float32)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, 1, None)] for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, []), opset_imports=SETS, ir_version=8)
    graph = Graph(model)
    graph.put("small", np.ones(3, np.float32))
    graph.put("w", weight)
    graph.save(tmp_path / "whole.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["whole.onnx"]
    for name, value in (("WHOLE", 0), ("KEPT", 0), ("SMALL", 16), ("CHUNK", 1000)):
        monkeypatch.setattr(onnx_edit, name, value)
    graph = Graph.read(tmp_path / "whole.onnx")
    graph.save(tmp_path / "m.onnx")
    assert external_files(tmp_path / "m.onnx") == ["m.onnx_data"]
    places = [{e.key: e.value for e in t.external_data} for t in Graph.read(tmp_path / "m.onnx").initializers.values()]
    assert places == [{}, {"location": "m.onnx_data", "offset": "0", "length": str(weight.nbytes)}]
    graph = Graph.read(tmp_path / "m.onnx")
    graph.put("w", graph.array("w").transpose(2, 0, 1))
    graph.put("more", np.arange(9))
    graph.copy().save(tmp_path / "m.onnx")
    x = np.zeros((1,), np.float32)
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for made in (session, graph.session(ort.SessionOptions())):
        assert np.array_equal(made.run(None, {"x": x})[0], weight.transpose(2, 0, 1))
    monkeypatch.undo()
    again = Graph.read(tmp_path / "m.onnx")
    assert again.array("more").tolist() == list(range(9))
    again.save(tmp_path / "whole.onnx")
    assert not external_files(tmp_path / "whole.onnx")
    assert np.array_equal(numpy_helper.to_array(again.whole().graph.initializer[1]), again.array("w"))


@pytest.mark.parametrize(
    "values",
    [np.array([1, -2, 3], ml_dtypes.int4), np.array([1, 2], ml_dtypes.bfloat16), np.array(["a"], object), np.zeros((0, 3))],
)
def test_every_type_that_lies_beside_a_file_is_read(tmp_path, values):
    tensor = numpy_helper.from_array(values, "t")
    assert stored_array(tensor, None).tolist() == values.tolist()
    if values.dtype == object:
        return
    assert stored_bytes(tensor) == len(tensor.raw_data)
    (tmp_path / "data").write_bytes(b"12345678" + tensor.raw_data)
    point_to(tensor, "data", 8, stored_bytes(tensor))
    found = stored_array(tensor, tmp_path)
    assert (found.dtype, found.tolist()) == (values.dtype, values.tolist())
    fill(tensor, found)
    assert tensor == numpy_helper.from_array(values, "t")


def test_a_saved_graph_is_the_same_graph(tmp_path):
    graph = shifted()
    graph.save(tmp_path / "m.onnx")
    assert read_graph(tmp_path / "m.onnx") == graph.model


@pytest.mark.parametrize("module", [onnx_edit, reading])
@pytest.mark.parametrize("recipe", ["int8@onnx", "int8-weight@onnx", "int8-static@onnx", "int8@openvino"])
def test_how_onnx_is_read_and_edited_is_part_of_what_an_artifact_is_built_by(module, recipe):
    assert module.__name__ in modules(RECIPES[recipe].module)
