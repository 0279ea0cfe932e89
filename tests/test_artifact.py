from __future__ import annotations

import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.errors import ArtifactProblem, ModelProblem
from qguard.models.model import safetensors_header
from qguard.onnx.read import read_graph
from tests.processes import python


def test_attention_is_fused_in_every_layer(fp32_onnx):
    assert [n.op_type for n in read_graph(fp32_onnx).graph.node].count("Attention") == 6


@pytest.mark.parametrize("keep", [0, 1000, 1_000_000])
def test_a_truncated_onnx_file_is_an_error(int8, minilm, tmp_path, keep):
    file = tmp_path / "m.onnx"
    file.write_bytes(int8.file.read_bytes()[:keep])
    with pytest.raises(ArtifactProblem, match="build or copy it again"):
        open_artifact(file, minilm)


def test_a_flipped_bit_in_our_artifact_is_found(int8, minilm, tmp_path):
    import shutil

    folder = tmp_path / "a"
    shutil.copytree(int8.folder, folder)
    file = folder / "onnx" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(ArtifactProblem, match="SHA-256 differs"):
        open_artifact(folder, minilm)


def test_external_data_may_not_leave_the_folder(fp32_onnx, minilm, tmp_path):
    model = read_graph(fp32_onnx)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../secret.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactProblem, match="leaves the folder"):
        open_artifact(tmp_path / "m.onnx", minilm)


@pytest.mark.parametrize("damage", [b"", b"\x10\x00", b"\xff" * 64])
def test_damaged_safetensors_are_errors(tmp_path, damage):
    (tmp_path / "m.safetensors").write_bytes(damage)
    with pytest.raises(ModelProblem, match="again"):
        safetensors_header(tmp_path / "m.safetensors")


def test_judging_an_onnx_artifact_imports_no_training_stack(small, int8):
    args = ["--precision", "int8", f"--artifact={int8.folder}", "--qguard-latency=off", "--qguard-robustness=off", "-q"]
    args += ["--pyargs", "qguard.gate"]
    unwanted = {"torch", "transformers", "sentence_transformers", "hypothesis"}
    code = f"import sys, pytest; print(pytest.main({args!r})); print('LOADED', sorted({unwanted!r} & set(sys.modules)))"
    out = python(code, folder=small)
    assert "\n6 passed" in out
    assert "LOADED []" in out


def test_an_int8_file_holds_nothing_that_no_node_reads(int8):
    import onnx

    graph = onnx.load(str(int8.file)).graph
    assert {t.name for t in graph.initializer} <= {name for node in graph.node for name in node.input}


@pytest.mark.parametrize("damage", ["none", "missing", "of another", "without files"])
def test_a_cache_entry_is_what_its_record_says_or_is_built_again(minilm, tmp_path, monkeypatch, damage):
    import json

    from qguard.artifacts.artifact import PROVENANCE, build_cached

    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path))
    built = []

    def build(folder):
        built.append(folder)
        (folder / "model.safetensors").write_bytes((minilm.folder / "model.safetensors").read_bytes())

    key = {"model": "m", "precision": "fp32-torch"}
    record = build_cached(key, minilm, build).folder / PROVENANCE
    found = json.loads(record.read_text())
    if damage == "missing":
        record.unlink()
    elif damage == "of another":
        record.write_text(json.dumps({**found, "key": {"model": "other"}}))
    elif damage == "without files":
        record.write_text(json.dumps({**found, "files": {}}))
    again = build_cached(key, minilm, build)
    assert len(built) == (1 if damage == "none" else 2)
    assert again.provenance == found
