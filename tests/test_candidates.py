"""Which files of an artifact are judged, and what the report says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.artifacts.candidates import place
from qguard.attest.subjects import digests
from qguard.config import load_config
from qguard.errors import ArtifactProblem
from qguard.judging.judged import judged
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.report.advice import judged as told
from tests.test_feeds import F32, LOOKUP, ids_input, write


@pytest.fixture
def folder(minilm, tmp_path):
    """A folder as optimum and transformers.js fill it, its files by name."""
    home = tmp_path / "shipped"
    shutil.copytree(minilm.folder, home, ignore=shutil.ignore_patterns("*.safetensors", "onnx", "*.bin"))

    def fill(*names):
        for name in names:
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".onnx"):
                write(home / name, [LOOKUP], [ids_input()], [("last_hidden_state", F32, ["b", "l", 4])])
                continue
            (home / name).write_bytes(b"x")
        return home

    return fill


def test_several_onnx_files_are_listed_and_one_is_named(folder, minilm):
    home = folder("onnx/model.onnx", "onnx/model_int8.onnx", "onnx/model_fp16.onnx")
    with pytest.raises(ArtifactProblem, match=r"Name it: --artifact=.*/shipped#onnx/model.onnx, .*/shipped#onnx/model_int8.onnx"):
        open_artifact(home, minilm)
    found = open_artifact(Path(f"{home}#onnx/model_int8.onnx"), minilm)
    assert (found.folder, found.file, found.rule) == (home, home / "onnx" / "model_int8.onnx", "named after #")
    assert found.others == ("onnx/model.onnx", "onnx/model_fp16.onnx")
    assert digests(Path(f"{home}#onnx/model_int8.onnx")) == digests(home)


def test_the_runtime_decides_between_onnx_and_safetensors(folder, minilm):
    home = folder("onnx/model.onnx", "model.safetensors")
    assert open_artifact(home, minilm, "onnx").file == home / "onnx" / "model.onnx"
    tensors = open_artifact(home, minilm, "torch")
    assert (tensors.file, tensors.rule, tensors.others) == (None, "torch reads safetensors", ("onnx/model.onnx",))
    named = open_artifact(Path(f"{home}#onnx/model.onnx"), minilm, "torch")
    assert (named.file, named.others) == (home / "onnx" / "model.onnx", ("model.safetensors",))
    assert open_artifact(Path(f"{home}#model.safetensors"), minilm, "onnx").file is None


def test_an_openvino_ir_is_never_passed_over_in_silence(folder, minilm):
    home = folder("openvino/openvino_model.xml", "openvino/openvino_model.bin", "model.safetensors")
    with pytest.raises(ArtifactProblem, match=r"OpenVINO IR \(openvino/openvino_model.xml\), which OpenVINO would open"):
        open_artifact(home, minilm, "openvino")
    assert open_artifact(home, minilm, "torch").others == ("openvino/openvino_model.xml",)
    (home / "model.safetensors").unlink()
    with pytest.raises(ArtifactProblem, match="nor safetensors weights nor a GGUF file; its OpenVINO IR"):
        open_artifact(home, minilm, "onnx")


def test_a_folder_may_be_given_by_a_relative_path_and_hold_links(folder, minilm, small, fp32_onnx, monkeypatch):
    """As in ``--artifact=../shipped``, and as a hub cache stores its snapshots."""
    home = folder("onnx/other.onnx")
    blob = home.parent / "blob"
    shutil.copyfile(fp32_onnx, blob)
    (home / "onnx" / "model.onnx").hardlink_to(blob)
    (home.parent / "work").mkdir()
    monkeypatch.chdir(home.parent / "work")
    with pytest.raises(ArtifactProblem, match=r"--artifact=../shipped#onnx/model.onnx, --artifact=../shipped#onnx/other.onnx"):
        open_artifact(Path("../shipped"), minilm)
    said = parts(Session(load_config(small), Path("../shipped#onnx/model.onnx")))
    assert (said["file"].value, said["file"].others) == ("onnx/model.onnx", ["onnx/other.onnx"])
    (home / "onnx").rename(home / "kept")
    shutil.copyfile(minilm.folder / "model.safetensors", home / "model.safetensors")
    assert parts(Session(load_config(small), Path("../shipped")), "bf16@torch")["file"].value == "model.safetensors"
    (home.parent / "link").symlink_to(home)
    assert parts(Session(load_config(small), Path("../link")), "bf16@torch")["file"].value == "model.safetensors"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx/model_int4.onnx", r"no such file there; found onnx/model.onnx"),
        ("config.json", r"expected an \.onnx or \.gguf file, or"),
        ("../x.onnx", "leaves the folder"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_candidate_is_an_error(folder, minilm, name, message):
    home = folder("onnx/model.onnx")
    with pytest.raises(ArtifactProblem, match=message):
        open_artifact(Path(f"{home}#{name}"), minilm)


def test_a_pointer_of_git_lfs_is_named(folder, minilm):
    home = folder("onnx/model.onnx")
    (home / "onnx" / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90405214\n")
    with pytest.raises(ArtifactProblem, match=r"model.onnx is a pointer of Git LFS, not the file itself; run: git lfs pull"):
        open_artifact(home, minilm)


def test_a_folder_may_have_a_number_sign_in_its_name(tmp_path):
    (tmp_path / "a#b").mkdir()
    assert place(tmp_path / "a#b") == (tmp_path / "a#b", "")
    assert place(Path(f"{tmp_path / 'a#b'}#onnx/m.onnx")) == (tmp_path / "a#b", "onnx/m.onnx")


def parts(session, precision="fp32@onnx"):
    return {p.name: p for p in judged(session, Target(parse_precision(precision), "minilm", "own"))}


def test_what_is_judged_is_stated_with_its_source(small, minilm, fp32_onnx, tmp_path):
    shutil.copytree(minilm.folder, tmp_path / "a", ignore=shutil.ignore_patterns("onnx", "*.bin"))
    (tmp_path / "a" / "onnx").mkdir()
    shutil.copyfile(fp32_onnx, tmp_path / "a" / "onnx" / "model.onnx")
    config = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    found = parts(Session(load_config(small), tmp_path / "a"))
    said = {name: (p.value, p.source) for name, p in found.items()}
    assert said["file"] == ("onnx/model.onnx", "the only ONNX file")
    assert found["file"].others == ["model.safetensors"]
    assert said["runtime"] == ("onnx", "named by the precision")
    assert said["tokenizer"] == ("tokenizer.json of the artifact", "artifact")
    assert said["padding"] == ("left, token id 0", "artifact: tokenizer_config.json")
    assert said["input input_ids"] == ("token ids as int64", "its name")
    assert said["output"] == ("last_hidden_state float32 (any, any, 384)", "the name last_hidden_state")
    assert said["pooling"] == ("mean", "artifact")
    assert said["normalization"] == ("to unit length", "artifact")
    assert said["prompts"][0] == "none"
    assert said["length"][0] == "256 tokens, cut on the right"
    files, rest = told({"judged": [p.to_json() for p in found.values()]})
    assert files.startswith(
        "file onnx/model.onnx (the only ONNX file, not model.safetensors); input input_ids token ids as int64"
    )
    assert rest.startswith("runtime onnx (named by the precision); tokenizer tokenizer.json of the artifact (artifact)")


def test_a_bare_files_surroundings_are_the_models(small, fp32_onnx, tmp_path):
    shutil.copyfile(fp32_onnx, tmp_path / "m.onnx")
    found = parts(Session(load_config(small), tmp_path / "m.onnx"))
    assert (found["file"].value, found["file"].source) == ("m.onnx", "the file that was given")
    assert {found[name].source for name in ("tokenizer", "pooling", "normalization", "prompts", "length")} == {"model"}
    assert told({"judged": []}) == told({}) == []
