"""Static models: an embedding table without a transformer, from the golden to the verdict."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem, ModelProblem, UsageProblem
from qguard.goldens.reference import open_fp32, preprocess
from qguard.judging import latency
from qguard.judging.artifact import measure_artifact
from qguard.judging.session import Session, Target
from qguard.metrics.bounds import Bound
from qguard.models.model import resolve
from qguard.precisions import RECIPES, parse_precision
from tests import static
from tests.machine import on_this_cpu

TEXTS = ["Rent is due on the first of the month.", "ok", "ok ok ok", "Das Paket ist neun Tage unterwegs.", "and so on " * 60]
OF_TABLE = [r.name for r in RECIPES.values() if r.of_table]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("static")
    return {"table": static.write(root / "table"), "model2vec": static.write_model2vec(root / "model2vec")}


@pytest.fixture(scope="module")
def models(folders):
    return {name: resolve(name, str(folder)) for name, folder in folders.items()}


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders["table"], tmp_path / "model")


def reference(model, texts=TEXTS):
    return open_fp32(model).encode(list(texts))


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


def values(model, name, artifact=None):
    chosen = parse_precision(name)
    artifact = artifact or chosen.build(model)
    found = measure_artifact(artifact, model, chosen.recipe, artifact.runtime(chosen.runtime))
    return artifact, {m.name.removeprefix("artifact."): m for m in found}


@pytest.mark.parametrize("kind", ["table", "model2vec"])
@pytest.mark.parametrize("name", on_this_cpu(OF_TABLE))
def test_every_precision_of_a_table_holds_what_it_promises(models, kind, name):
    model, chosen = models[kind], parse_precision(name)
    artifact, held = values(model, name)
    encoder = open_encoder(chosen.runtime, artifact.folder, artifact.pipeline, chosen.base, artifact.file)
    least = {"F32": 0.99999, "F16": 0.9999, "BF16": 0.999, "I8": 0.999}[chosen.recipe.weights]
    assert cosine(encoder.encode(TEXTS), reference(model)) >= least
    assert (held["quantized_ops"].value, held["quantized_bytes"].value) == (1, 1)
    if chosen.runtime != "torch":
        assert held["weight_error"].value <= held["weight_error"].bound.number
    if kind == "table":  # of the other, int8 is in bf16 what it was
        assert chosen.runtime == "torch" or (held["weight_error"].value > 0) is (chosen.recipe.weights != "F32")
        most = {"F32": 1.05, "F16": 0.55, "BF16": 0.55, "I8": 0.37}[chosen.recipe.weights]  # a graph weighs some kilobytes
        assert held["size_ratio"].value <= most


def test_the_model_reads_texts_as_sentence_transformers_does(folder):
    texts = [*TEXTS, "[CLS] spelled out", " outer  space "]
    for truncation in (None, {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}):
        file = folder / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": truncation}))
        model = resolve("m", str(folder))
        ids = TextTokenizer.open(model.root, model.pipeline)(texts)
        assert ids == preprocess(open_fp32(model), texts)
        assert max(map(len, ids)) > 100 if truncation is None else max(map(len, ids)) == 8


def test_a_setting_of_the_tokenizer_that_decides_ids_is_part_of_its_hash(folder, models):
    file = folder / "tokenizer.json"
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": cut}))
    assert resolve("m", str(folder)).tokenizer_sha256 != models["table"].tokenizer_sha256


@pytest.mark.parametrize("name", ["int4", "int8-dynamic", "int8@torch", "int8-weight@torch", "int8-legacy"])
def test_a_recipe_for_multiplications_is_refused_with_those_that_apply(models, name):
    words = (
        f"^{parse_precision(name).recipe.name} is made of multiplications .*it is one embedding table. Take one of fp32@onnx, .*"
    )
    for attempt in (parse_precision(name).check, parse_precision(name).build):
        with pytest.raises(UsageProblem, match=words):
            attempt(models["table"])


def test_a_table_in_float_is_no_int8(models):
    model = models["table"]
    _, held = values(model, "int8", parse_precision("fp32").build(model))
    assert held["quantized_ops"].value == 0
    assert held["quantized_ops"].worst == ("embedding.weight: Gather computes in lookup with F32 weights, not I8",)
    assert held["quantized_bytes"].value == 0


def test_the_table_of_another_model_is_told_by_its_values(models, tmp_path):
    """The same size and type, other rows: what a quantized table is held against is the model's own."""
    other = resolve("other", str(static.write(tmp_path / "other", seed=1)))
    model = models["table"]
    _, held = values(model, "int8", parse_precision("int8").build(other))
    assert "weight_error" not in held  # it is none of the model's matrices
    rolled = resolve("rolled", str(shutil.copytree(model.folder, tmp_path / "rolled")))
    from safetensors.numpy import load_file, save_file

    table = load_file(rolled.root / "model.safetensors")["embedding.weight"]
    table[:100] += 1
    save_file({"embedding.weight": table}, rolled.root / "model.safetensors")
    _, held = values(model, "int8", parse_precision("int8").build(resolve("rolled", str(rolled.folder))))
    assert held["weight_error"].value > held["weight_error"].bound.number


@pytest.mark.parametrize("kind", ["table", "model2vec"])
def test_from_init_to_the_verdict(folders, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(folders[kind]), "--name", "m"]) == 0
    out = capsys.readouterr().out
    assert "'': it has no token in this model's tokenizer" in out
    harness = Session(load_config(tmp_path))
    manifest = harness.golden("m", "core").manifest
    assert manifest["paths"]["confirmed"] == "NumPy with the mean of the table's rows"
    assert len(harness.golden("m", "core").left_out) == 3
    for name in ("int8", "int8@openvino"):
        chosen = parse_precision(name)
        target = Target(chosen, "m", "core")
        assert not [f.name for f in harness.families(target) if "process" in f.needs]  # a lookup promises no speed
        checks = [c for f in ("artifact", "embedding", "similarity", "invariance") for c in harness.checks(target, f)]
        assert {c.outcome for c in checks if c.bound} == {"pass"}
    with (tmp_path / "pyproject.toml").open("a") as file:  # random rows find documents by chance, and many tie
        file.write('[tool.qguard.gates.int8]\n"task.ndcg@10_retention" = ">= 0.9"\n"task.spearman_retention" = ">= 0.9"\n')
    assert main(["diagnose", "--precision", "int8"]) == 0
    assert "a static model has no layers to compare" in capsys.readouterr().out
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.latency]\nspeedup = ">= 0.5"\n')
    asked = latency.speedup(Session(load_config(tmp_path)), parse_precision("int8"), "m")
    assert asked is not None
    assert asked.bound == Bound(">=", 0.5)


def test_a_text_without_a_token_is_never_a_vector(models):
    encoder = open_encoder("onnx", models["table"].folder, models["table"].pipeline, "fp32", parse_precision("fp32").build(
        models["table"]
    ).file)  # fmt: skip
    with pytest.raises(MeasurementProblem, match="a text without a token has no vector"):
        encoder.encode(["fine", ""])


def test_modules_behind_the_table_are_applied(tmp_path):
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    torch.manual_seed(0)
    dense = Dense(static.WIDE, 24, activation_function=torch.nn.Tanh())
    model = resolve("dense", str(static.write(tmp_path / "dense", behind=(dense, Normalize()))))
    artifact = parse_precision("fp32").build(model)
    found = open_encoder("onnx", artifact.folder, artifact.pipeline, "fp32", artifact.file).encode(TEXTS)
    assert found.shape == (len(TEXTS), 24)
    assert cosine(found, reference(model)) >= 0.99999


REFUSED = {
    "pickled": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights are never read"),
    "another name": (lambda f: _stored(f, {"table": np.zeros((3, 4), np.float32)}), "holds no embedding table: expected embed"),
    "one dimension": (lambda f: _stored(f, {"embedding.weight": np.zeros(3, np.float32)}), r"two dimensions .*found F32 \[3\]"),
    "no floats": (lambda f: _stored(f, {"embeddings": np.zeros((3, 4), np.int8)}), "is int8 without weights"),
    "mapping to nothing": (
        lambda f: _stored(f, {"embeddings": np.zeros((3, 4), np.float32), "mapping": np.array([0, 3])}), "names rows that"
    ),
    "weights of others": (
        lambda f: _stored(f, {"embeddings": np.zeros((3, 4), np.int8), "weights": np.zeros(4, np.float32)}),
        r"expected one float for each of 3 tokens in weights, found F32 \[4\]",
    ),
}  # fmt: skip


def _stored(folder, tensors):
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_in_words(folder, name):
    change, words = REFUSED[name]
    change(folder)
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(folder))


def test_a_length_is_no_setting_of_a_static_model(folder):
    with pytest.raises(ModelProblem, match="is static and reads texts of any length; remove max_seq_length"):
        resolve("m", str(folder), None, {"max_seq_length": 64})


def exported(file, table, *, normalize):
    """A table as model2vec's script exports it: ``torch.onnx`` writes EmbeddingBag as a loop over the texts."""
    import torch

    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(table), mode="mean")

        def forward(self, input_ids, offsets):
            found = self.bag(input_ids, offsets)
            return torch.nn.functional.normalize(found) if normalize else found

    names = {"input_names": ["input_ids", "offsets"], "output_names": ["embeddings"]}
    axes = {"input_ids": {0: "tokens"}, "offsets": {0: "texts"}, "embeddings": {0: "texts"}}
    args = (torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2]))
    torch.onnx.export(Bag().eval(), args, str(file), dynamic_axes=axes, opset_version=14, dynamo=False, **names)
    return file


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_table_that_a_loop_looks_up_is_judged_and_must_normalize_itself(folders, tmp_path):
    from safetensors.numpy import load_file

    lines = "".join(json.dumps({"text": f"the rent of month {i} is due in {2 * i} days"}) + "\n" for i in range(24))
    (tmp_path / "own.jsonl").write_text(lines)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        f"[tool.qguard.models]\nm = {json.dumps(str(folders['table']))}\n"
    )
    config = load_config(tmp_path)
    model, suite = Session(config).model("m"), Session(config).suite("own")
    golden.record(model, suite, config.golden_root, "first")
    table = load_file(model.root / "model.safetensors")["embedding.weight"]
    other = table.copy()
    other[[5, 6]] = other[[6, 5]]

    def failed(name, table, normalize):
        session = Session(config, exported(tmp_path / name, table, normalize=normalize))
        target = Target(parse_precision("fp32@onnx"), "m", "own")
        checks = [c for f in ("artifact", "embedding") for c in session.checks(target, f)]
        return [c.name for c in checks if c.outcome == "fail"]

    assert failed("sound.onnx", table, normalize=True) == []
    assert failed("bare.onnx", table, normalize=False) == ["artifact.unit_length"]
    assert "artifact.wrong_rows" in failed("rows.onnx", other, normalize=True)
