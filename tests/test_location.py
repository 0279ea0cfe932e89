"""A reference that was meant as a folder never becomes a hub id: somebody else may own that name there."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest

from qguard.cli import main
from qguard.config import load_config
from qguard.errors import ModelProblem
from qguard.judging.session import Session
from qguard.models.location import locate
from tests import families


@pytest.fixture
def asked(monkeypatch):
    """The hub ids that were asked for; each is answered with a model of somebody else, as the hub may."""
    ids = []

    def download(repo, **_):
        ids.append(repo)
        raise huggingface_hub.errors.LocalEntryNotFoundError(repo)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return ids


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny model in ``acme/minilm``, a name that could be a hub id, with its golden."""
    folder = tmp_path_factory.mktemp("project")
    families.write("bert", folder / "acme" / "minilm")
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one", "two", "three")))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "acme/minilm"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n'
    )
    assert main(["golden", "update", "--config", str(folder), "--reason", "first"]) == 0
    return folder


def test_a_folder_that_a_golden_was_recorded_from(project, tmp_path, asked, capsys):
    """In CI the model may be missing, its parent folder too."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "acme")
    assert main(["golden", "check", "--config", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "acme/minilm is not a folder" in said
    assert "as when its golden was recorded; for a hub id of that name: hf:acme/minilm" in said
    assert asked == []


def test_a_golden_without_a_folder_and_another_reference_may_be_hub_ids(project, tmp_path, asked):
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "pyproject.toml"
    file.write_text(file.read_text().replace("acme/minilm", "sentence-transformers/all-MiniLM-L6-v2"))
    with pytest.raises(ModelProblem, match="is not in the local hub cache"):
        Session(load_config(tmp_path)).model("minilm")
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2"]


@pytest.mark.parametrize("ref", ["./minilm", "../minilm", "models/minilm", "there/minilm", "a/b/c", "~/minilm", "minilm.onnx"])
def test_what_looks_like_a_path(ref, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelProblem, match="is not a folder"):
        locate("minilm", ref)
    assert asked == []
