"""Models that do not fit one ONNX file: a tiny one stands for them, with the limit of a file lowered."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from onnx import helper

from qguard.artifacts.artifact import open_artifact
from qguard.diagnosis.activations import layer_errors
from qguard.diagnosis.sites import Net, align
from qguard.encoders import open_encoder
from qguard.errors import ArtifactProblem
from qguard.judging.artifact import measure_artifact
from qguard.models.model import resolve
from qguard.onnx import edit
from qguard.onnx.read import external_files
from qguard.precisions import integer, parse_precision
from tests import families

DATA = "model.onnx_data"
TEXTS = ["a short text", "A longer one, with some more words in it, for the padding of the first.", "third"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return families.write("xlm-roberta", tmp_path_factory.mktemp("size") / "tiny")


@pytest.fixture(scope="module")
def build(tiny, tmp_path_factory):
    """An artifact as usual, or as of a model that does not fit one file; each is built once."""
    whole, beside = (tmp_path_factory.mktemp(name) for name in ("whole", "beside"))

    def get(name, *, large):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QGUARD_CACHE", str(beside if large else whole))
            for limit in ("WHOLE", "KEPT") if large else ():
                patch.setattr(edit, limit, 0)
            model = resolve("tiny", str(tiny))
            return parse_precision(name).build(model), model

    return get


def vectors(name, artifact, model):
    precision = parse_precision(name)
    return open_encoder(precision.runtime, artifact.folder, model.pipeline, precision.name, artifact.file).encode(TEXTS)


@pytest.mark.parametrize(
    "name",
    ["fp32", "fp16@onnx", "int8", "int8-dynamic", "int8-weight", "int4", "fp32@openvino", "bf16@openvino", "int8@openvino"],
)
def test_a_model_in_two_files_computes_what_it_computes_in_one(build, name):
    (large, model), (usual, _) = build(name, large=True), build(name, large=False)
    assert [p.name for p in large.weight_files] == ["model.onnx", DATA]
    assert [p.name for p in usual.weight_files] == ["model.onnx"]
    assert sorted(p.name for p in large.file.parent.glob("*.onnx*")) == ["model.onnx", DATA]
    assert large.bytes > 0.95 * usual.bytes
    assert np.abs(vectors(name, large, model) - vectors(name, usual, model)).max() < 1e-6
    recipe, runtime = parse_precision(name).recipe, parse_precision(name).runtime
    held, same = ({m.name: m.value for m in measure_artifact(a, model, recipe, runtime)} for a in (large, usual))
    assert {k: v for k, v in held.items() if "size" not in k} == {k: v for k, v in same.items() if "size" not in k}


def test_the_data_beside_a_file_is_covered_by_its_hashes(build):
    artifact, model = build("int8", large=True)
    record = json.loads((artifact.folder / "qguard.json").read_text())
    assert f"onnx/{DATA}" in record["files"]
    before, file = artifact.sha256, artifact.file.with_name(DATA)
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert artifact.sha256 != before
        with pytest.raises(ArtifactProblem, match=rf"{DATA} is not the file that was built"):
            open_artifact(artifact.folder, model)
    finally:
        file.write_bytes(data)


def test_layers_of_a_model_in_two_files_are_compared(build):
    """Diagnosis runs both graphs with their inner tensors."""
    found = []
    for large in (True, False):
        artifacts = [build(name, large=large)[0] for name in ("fp32", "int8")]
        assert all(bool(external_files(a.file)) == large for a in artifacts)
        nets = [Net.read(a.file) for a in artifacts]
        found.append(layer_errors(*nets, align(*nets), [[0, 5, 6, 7, 2], [0, 9, 2]], 1))
    assert len(found[0]) == len(found[1]) > 10
    assert [x.layer for x in found[0]] == [x.layer for x in found[1]]
    assert np.allclose([x.error for x in found[0]], [x.error for x in found[1]], rtol=1e-3)


class Noise(integer.Observer):
    """Inputs that no model was run for."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def __call__(self, names, channels=1):
        found = {name: integer.Statistics.empty(channels // len(names)) for name in names}
        for seen in found.values():
            seen.add(self.random.normal(size=(64, len(seen.low))).astype(np.float32))
        return found


def test_a_recipe_holds_the_weights_and_moments_of_one_layer_at_a_time(tmp_path, monkeypatch):
    count, wide = 24, 256
    for limit in ("WHOLE", "KEPT"):
        monkeypatch.setattr(edit, limit, 0)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"layer{i}") for i in range(count)]
    ends = [[helper.make_tensor_value_info(name, 1, ["n", wide])] for name in ("x0", f"x{count}")]
    made = edit.Graph(helper.make_model(helper.make_graph(nodes, "g", *ends)))
    random = np.random.default_rng(1)
    for i in range(count):
        made.put(f"w{i}", random.normal(size=(wide, wide)).astype(np.float32))
    made.save(tmp_path / "m.onnx")
    assert external_files(tmp_path / "m.onnx") == ["m.onnx_data"]
    del made
    monkeypatch.setattr(integer, "MOMENTS", 1)
    one, stored = 8 * wide**2, count * wide**2  # a matrix of float64, and all weights in 8 bits
    integer.quantize(warm := edit.Graph.read(tmp_path / "m.onnx"), integer.find_sites(warm)[:1], Noise())  # imports count too
    graph = edit.Graph.read(tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        integer.quantize(graph, integer.find_sites(graph), Noise())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [n.op_type for n in graph.nodes].count("MatMulIntegerToFloat") == count
    assert peak < stored + 12 * one < count * one
