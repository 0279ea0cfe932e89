from __future__ import annotations

import json
import shutil

import pytest

from qguard import goldens as golden
from qguard.errors import GoldenProblem


@pytest.fixture
def copy(harness, tmp_path):
    target = tmp_path / "minilm" / "core"
    shutil.copytree(harness.config.golden_root / "minilm" / "core", target)
    return target


def data_file(folder):
    return next(folder.glob("golden-*.safetensors"))


def test_the_committed_golden_is_current(harness):
    assert len(harness.golden("minilm", "core").vectors) == len(harness.suite("core").texts)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_damage_is_an_error_that_says_what_to_do(copy, damage):
    file = data_file(copy)
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"truncate": data[:-100], "flip": data, "empty": b""}[damage])
    with pytest.raises(GoldenProblem, match=r"restore .* version control, or: qguard golden update"):
        golden.read(copy)


@pytest.mark.parametrize("part", ["weights", "tokenizer", "pipeline", "suite"])
def test_a_golden_of_something_else_is_named(harness, copy, part):
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["hashes"][part] = "0" * 64
    file.write_text(json.dumps(golden.seal(manifest)))
    with pytest.raises(GoldenProblem, match=part):
        golden.check(golden.read(copy), harness.model("minilm"), harness.suite("core"))


@pytest.mark.parametrize("key", ["reason", "date", "hashes"])
def test_a_manifest_edited_by_hand_is_refused(copy, key):
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest[key] = "edited"
    file.write_text(json.dumps(manifest))
    with pytest.raises(GoldenProblem, match=r"edited by hand .* qguard golden update"):
        golden.read(copy)


def test_a_missing_golden_names_the_command(tmp_path):
    with pytest.raises(GoldenProblem, match="does not exist; record it with: qguard golden update"):
        golden.read(tmp_path / "minilm" / "core")


def test_recording_again_changes_no_byte(small, tmp_path):
    from qguard.config import load_config
    from qguard.judging.session import Session

    shutil.copytree(small, tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "golden")
    texts = (small / "own.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "p" / "own.jsonl").write_text("".join(texts[:20]))
    project = Session(load_config(tmp_path / "p"))
    folder = project.config.golden_root / "minilm" / "own"
    assert golden.record(project.model("minilm"), project.suite("own"), project.config.golden_root, "first").changed
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    review = golden.record(project.model("minilm"), project.suite("own"), project.config.golden_root, "again")
    assert not review.changed
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_reason_is_required(harness, tmp_path):
    with pytest.raises(GoldenProblem, match="reason"):
        golden.record(harness.model("minilm"), harness.suite("core"), tmp_path, " ")


def test_another_tokenizer_is_caught_before_vectors(harness):
    suite, g = harness.suite("core"), harness.golden("minilm", "core")
    ids = [list(i) for i in g.token_ids]
    ids[30][1] += 1
    with pytest.raises(GoldenProblem, match=r"token ids differ .* in 1 of"):
        golden.compare_tokens(g, suite, ids)


def test_ci_refuses_an_update(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(GoldenProblem, match="refused where CI is set"):
        golden.refuse_in_ci(False)
