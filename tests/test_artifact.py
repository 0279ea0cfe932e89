from __future__ import annotations

import os

import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.cache import built_once, lock_of
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


@pytest.mark.parametrize("damage", ["none", "missing", "of another", "without files", "no list", "one more file"])
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
    elif damage == "no list":
        record.write_text(json.dumps({**found, "files": 5}))
    elif damage == "one more file":
        record.with_name("model.onnx").write_text("")
    again = build_cached(key, minilm, build)
    assert len(built) == (1 if damage == "none" else 2)
    assert again.provenance == found


def fill(folder):
    (folder / "file").write_text("whole")


def whole(folder):
    return lambda: folder if (folder / "file").exists() else None


def test_a_killed_builds_folder_is_swept_and_a_running_ones_is_not(tmp_path):
    """Also of builds that nobody will ask for again."""
    from filelock import FileLock

    for name in ("a", "b", "c"):
        (tmp_path / f".{name}.01234567").mkdir()
        (tmp_path / f".{name}.01234567" / "half").write_text("")
        lock_of(tmp_path / name).touch()
    (tmp_path / ".somebodys.own").mkdir()
    with FileLock(lock_of(tmp_path / "c")):
        built_once(tmp_path / "a", whole(tmp_path / "a"), fill)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [".c.01234567", ".somebodys.own", "a"]


def test_a_folder_that_was_built_before_is_used_without_writing(tmp_path):
    """A lock that cannot be had stands for a read-only file system: these tests may run as root, whom rights do not stop."""
    folder = tmp_path / "a"
    built_once(folder, whole(folder), fill)
    lock_of(folder).unlink()
    lock_of(folder).mkdir()
    assert built_once(folder, whole(folder), fill) == folder
    (folder / "file").unlink()
    with pytest.raises(OSError, match="Is a directory"):
        built_once(folder, whole(folder), fill)


def test_a_pre_built_artifact_in_a_read_only_cache_is_judged_and_another_is_an_error(minilm, tmp_path, monkeypatch):
    from qguard.artifacts import artifact

    def build(folder):
        (folder / "model.safetensors").write_bytes((minilm.folder / "model.safetensors").read_bytes())

    def read_only(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path))
    key = {"model": "m", "precision": "fp32-torch"}
    made = artifact.build_cached(key, minilm, build)
    monkeypatch.setattr("filelock.FileLock", read_only)
    assert artifact.build_cached(key, minilm, build).folder == made.folder
    with pytest.raises(ArtifactProblem, match=r"cannot read or write the artifact cache .Permission denied.; .* QGUARD_CACHE"):
        artifact.build_cached(key | {"precision": "fp16-torch"}, minilm, build)


def test_what_is_built_has_the_rights_that_the_umask_leaves(tmp_path):
    """A cache that one user filled is read by another."""
    before = os.umask(0o022)
    try:
        built_once(tmp_path / "a", whole(tmp_path / "a"), fill)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
