"""Models that do not fit one ONNX file: a tiny one stands for them, with the limit of a file lowered."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from onnx import helper

from qguard.artifacts.artifact import open_artifact
from qguard.diagnosis.activations import layer_errors
from qguard.diagnosis.sites import Net, align
from qguard.encoders import open_encoder
from qguard.encoders.reference import reference
from qguard.errors import ArtifactProblem
from qguard.judging.artifact import measure_artifact
from qguard.models.model import resolve
from qguard.onnx import edit
from qguard.onnx.read import external_files
from qguard.precisions import export, integer, parse_precision
from qguard.suites import Suite
from tests import families
from tests.machine import long_but, needs_bf16

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
    [
        "fp32",
        "int8",
        "int8-weight",
        "fp32@openvino",
        *long_but([], ["fp16@onnx", "int8-dynamic", "int4", "int8@openvino"]),
        pytest.param("bf16@openvino", marks=[needs_bf16, pytest.mark.long]),
    ],
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


def snapshot(source, repository):
    """A folder as the hub's cache has it: every file a link into ``blobs``."""
    folder, blobs = repository / "snapshots" / "c0ffee", repository / "blobs"
    blobs.mkdir(parents=True)
    for i, file in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        link = folder / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blobs / str(i))
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    return folder


def test_data_beside_a_file_in_a_hub_cache_is_a_link(build, tmp_path):
    artifact, model = build("fp32", large=True)
    folder = snapshot(artifact.folder, tmp_path / "models--acme--tiny")
    found = open_artifact(folder, model)
    assert [p.name for p in found.weight_files] == ["model.onnx", DATA]
    assert np.array_equal(vectors("fp32", found, model), vectors("fp32", artifact, model))
    with pytest.raises(ArtifactProblem, match=r"refuses the external data of model\.onnx, which is a link.*cp -rL"):
        open_encoder("openvino", found.folder, found.pipeline, "fp32", found.file)  # OpenVINO's own rule


def test_a_golden_of_a_model_whose_data_is_a_link(tiny, tmp_path, monkeypatch):
    """onnx's own reader of external data refuses links; its reference evaluator is one of the paths that confirm a golden."""
    source = shutil.copytree(tiny, tmp_path / "source", ignore=shutil.ignore_patterns("*.safetensors"))
    (source / "onnx").mkdir()
    export.export_plain(tiny, source / "onnx" / "model.onnx")
    graph = edit.Graph.read(source / "onnx" / "model.onnx")
    for limit in ("WHOLE", "KEPT"):
        monkeypatch.setattr(edit, limit, 0)
    graph.save(source / "onnx" / "model.onnx")
    model = resolve("tiny", str(snapshot(source, tmp_path / "models--acme--tiny")))
    assert external_files(model.onnx) == [DATA]
    _, _, paths = reference(model, Suite("t", tuple(TEXTS), (None,) * 3))
    assert "onnx's reference evaluator on" in paths["confirmed"]


def test_a_link_out_of_a_snapshot_is_refused(build, tmp_path):
    artifact, model = build("fp32", large=True)
    folder = snapshot(artifact.folder, tmp_path / "models--acme--tiny")
    data = folder / "onnx" / DATA
    for elsewhere in (tmp_path / "models--acme--other" / "blobs" / "0", tmp_path / "secret"):
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, elsewhere)
        data.unlink()
        data.symlink_to(elsewhere)
        with pytest.raises(ArtifactProblem, match="leaves the folder"):
            open_artifact(folder, model)


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
