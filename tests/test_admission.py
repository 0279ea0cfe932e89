"""What qguard does not judge is refused in words, before sentence-transformers or Transformers opens the folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qguard.artifacts.artifact import open_artifact
from qguard.cli import main
from qguard.encoders import open_encoder
from qguard.encoders.network import open_network
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ModelProblem, QguardError, first_line
from qguard.goldens.reference import open_fp32, preprocess
from qguard.models.model import resolve
from qguard.precisions import parse_precision
from tests import families


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return families.write("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return families.write("roberta", tmp_path_factory.mktemp("models") / "roberta")


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    return shutil.copytree(bert, tmp_path / "model")


def edit(file: Path, **values: object) -> None:
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **values}))


def config(**values):
    return lambda folder: edit(folder / "config.json", **values)


def declared(**values):
    return lambda folder: edit(folder / "config_sentence_transformers.json", **values)


def modules(*types):
    def change(folder):
        kinds = [*types, *(["sentence_transformers.models.Pooling"] if len(types) == 1 else [])]
        entries = [{"idx": i, "name": str(i), "path": "" if not i else "1_Pooling", "type": k} for i, k in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(entries))

    return change


def routed_sparse(folder):
    """SpladePooling behind a Router, and no model_type that says so."""
    path = folder / "1_SpladePooling"
    path.mkdir()
    edit(path / "config.json", pooling_strategy="max")
    types = {
        "": "sentence_transformers.models.Transformer",
        "1_SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling",
    }
    edit(folder / "router_config.json", types=types, structure={"text": list(types)}, parameters={"default_route": "text"})
    modules("sentence_transformers.models.Router")(folder)


def raw(**values):
    """Vectors that are not normalized."""

    def change(folder):
        modules("sentence_transformers.models.Transformer")(folder)
        declared(**values)(folder)

    return change


def adapter(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "somebody/base"}))


def tensor(folder, name):
    """One more among the weights."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    save_file({**load_file(file), name: np.ones((4, 4), np.float32)}, file, metadata={"format": "pt"})


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REFUSED = {
    "cross-encoder": (declared(model_type="CrossEncoder"), "scores pairs by the modules Transformer, Pooling"),
    "multi-vector": (declared(model_type="MultiVectorEncoder"), "'Pooling' in 1_Pooling reads token_embeddings and gives"),
    "classifier": (
        config(architectures=["BertForSequenceClassification"]), "is a BertForSequenceClassification: it gives scores",
    ),
    "sparse modules behind a Router": (routed_sparse, "the Router sends queries and documents to different first modules"),
    "another class": (declared(model_type="Reader"), "expected one of SentenceTransformer, CrossEncoder.*found .Reader."),
    "a similarity of tokens": (
        declared(similarity_fn_name="maxsim"), "expected one of cosine, dot, euclidean, manhattan, found 'maxsim'",
    ),
    "truncated to nothing": (declared(truncate_dim=0), "truncate_dim .*: expected a number from 1 on, found 0"),
    "truncated by a word": (declared(truncate_dim="all"), "truncate_dim .*: expected a number from 1 on, found 'all'"),
    "custom module": (modules("custom_st.Transformer"), "has a module 'custom_st.Transformer', which is code that comes with it"),
    "adapter": (adapter, r"is a PEFT adapter.*merge_and_unload\(\)"),
    "adapter alone": (lambda f: (adapter(f), (f / "config.json").unlink(), pickled(f)), "is a PEFT adapter"),
    "shards of nothing": (
        lambda f: (
            (f / "model.safetensors").rename(f / "model-1.safetensors"), (f / "model.safetensors.index.json").write_text("{}")
        ),
        "has no weight_map",
    ),
    "masked language model": (
        lambda f: ((f / "modules.json").unlink(), config(architectures=["BertForMaskedLM"])(f)),
        r"is a BertForMaskedLM, and no modules.json says how it embeds texts; if .*SentenceTransformer\(FOLDER\).save\(COPY\)"
        r".*SPLADE\), state kind = .sparse.",
    ),
    "language model": (
        lambda f: ((f / "modules.json").unlink(), config(architectures=["BertLMHeadModel"])(f)), "is a BertLMHeadModel, and no"
    ),
    "two halves": (config(is_encoder_decoder=True), "an encoder with a decoder"),
    "T5 with its decoder": (
        lambda f: (config(model_type="t5", is_encoder_decoder=True)(f), tensor(f, "decoder.block.0.weight")),
        r"holds a decoder.*T5EncoderModel.from_pretrained\(FOLDER\)",
    ),
    "two towers": (config(model_type="clip"), "embeds images as well as texts.*Save the text tower"),
    "two towers of an older release": (
        modules("sentence_transformers.models.CLIPModel"), "is a CLIPModel, which embeds images as well as texts"
    ),
    "too long": (
        lambda f: edit(f / "sentence_bert_config.json", max_seq_length=512),
        r"may have 512 tokens \(max_seq_length\), and the model has positions for 130.*--max-seq-length 130",
    ),
    "pickled": (pickled, r"has only pytorch_model.bin; pickled weights are never read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_judged_is_refused_in_words(folder, name, monkeypatch, capsys):
    change, words = REFUSED[name]
    change(folder)
    with pytest.raises(ModelProblem, match=words):
        resolve("m", str(folder))
    monkeypatch.chdir(folder.parent)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # an import would raise
    assert main(["init", "model"]) == 3
    assert "Traceback" not in "".join(capsys.readouterr())
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "change",
    [
        declared(model_type="SentenceTransformer", similarity_fn_name="cosine"),
        declared(similarity_fn_name="dot"),  # of unit length, as euclidean
        declared(similarity_fn_name="euclidean"),
        raw(similarity_fn_name=None),
        *(raw(similarity_fn_name=name) for name in ("dot", "euclidean", "manhattan")),
        config(architectures=["BertForMaskedLM"]),
        config(auto_map={"AutoModel": "modeling.Own"}),  # its weights decide, when Transformers opens it
        modules("sentence_transformers.base.modules.transformer.Transformer"),
        lambda folder: (folder / "modules.json").unlink(),  # a plain encoder of Transformers
        lambda folder: edit(folder / "sentence_bert_config.json", transformer_task="feature-extraction"),
    ],
)
def test_what_says_the_same_in_another_way_is_judged(folder, change):
    change(folder)
    resolve("m", str(folder))


def test_the_layout_of_release_1_is_judged(folder):
    (folder / "0_BERT").mkdir()
    for path in [p for p in folder.iterdir() if p.name not in ("modules.json", "1_Pooling", "0_BERT")]:
        path.rename(folder / "0_BERT" / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0] |= {"path": "0_BERT"}
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config.json").write_text(json.dumps({"__version__": "1.0.4"}))  # of the whole model, as releases 1 and 2 wrote it
    model = resolve("m", str(folder))
    assert (model.root.name, model.pipeline.max_seq_length) == ("0_BERT", 128)
    texts = ["one text", "another one"]
    want = open_fp32(model).encode(texts)
    found = open_encoder("torch", model.folder, model.pipeline, "fp32").encode(texts)
    assert abs(found - want).max() < 1e-5


def test_shards_in_a_hub_cache_are_links(folder, tmp_path):
    """The hub's cache keeps files under their hashes and gives a snapshot links to them."""
    whole = resolve("m", str(folder))
    want = whole.weight_sha256
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for name, some in parts.items():
        save_file({n: tensors[n] for n in some}, folder / name, metadata={"format": "pt"})
    file.unlink()
    index = {"metadata": {}, "weight_map": {n: name for name, some in parts.items() for n in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for i, path in enumerate([p for p in folder.rglob("*") if p.is_file()]):
        path.rename(blobs / str(i))
        path.symlink_to(blobs / str(i))
    model = resolve("m", str(folder))
    assert model.weight_sha256 == want
    artifact = parse_precision("bf16").build(model)
    assert sorted(p.name for p in artifact.weight_files) == sorted(parts)
    found = open_encoder("torch", artifact.folder, artifact.pipeline, "bf16").encode(["a text"])
    assert abs(found - open_fp32(model).encode(["a text"])).max() < 0.05


class Pickled:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (open, (os.environ["QGUARD_RAN"], "w"))


def pickled_beside(folder):
    """Weights under a name that no library opens, and a pickle where each of them looks next."""
    import torch

    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    torch.save(Pickled(), folder / "pytorch_model.bin")


def index_to_a_pickle(folder):
    pickled_beside(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))


@pytest.mark.parametrize("plant", [pickled_beside, index_to_a_pickle])
def test_pickles_are_never_opened(folder, tmp_path, plant, monkeypatch):
    """Neither of a model, before sentence-transformers opens it, nor of an artifact."""
    import torch

    model = resolve("m", str(folder))
    artifact = shutil.copytree(folder, tmp_path / "artifact")
    monkeypatch.setenv("QGUARD_RAN", str(tmp_path / "ran"))
    plant(artifact)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail(f"torch.load of {a[0]}"))
    with pytest.raises(ModelProblem, match="pickled weights are never read"):
        resolve("m", str(artifact))
    opened = open_artifact(artifact, model)
    with pytest.raises(QguardError, match="pickled weights are never read"):
        open_encoder("torch", opened.folder, opened.pipeline, "fp16")
    assert not (tmp_path / "ran").exists()


def test_an_adapter_in_an_artifact_is_refused(folder, tmp_path):
    """Transformers would put its weights over the artifact's own, and open them where they are pickled."""
    model = resolve("m", str(folder))
    artifact = shutil.copytree(folder, tmp_path / "artifact")
    adapter(artifact)
    opened = open_artifact(artifact, model)
    with pytest.raises(ModelProblem, match="is a PEFT adapter"):
        open_encoder("torch", opened.folder, opened.pipeline, "fp16")


def test_positions_of_roberta_begin_behind_the_padding_token(roberta, tmp_path):
    folder = shutil.copytree(roberta, tmp_path / "model")
    assert resolve("m", str(folder)).pipeline.max_seq_length == 128
    edit(folder / "sentence_bert_config.json", max_seq_length=129)
    with pytest.raises(ModelProblem, match="has positions for 128"):
        resolve("m", str(folder))
    assert resolve("m", str(folder), None, {"max_seq_length": 128}).pipeline.max_seq_length == 128


def test_a_length_that_nobody_states_is_what_the_positions_allow(roberta, tmp_path):
    """sentence-transformers takes all rows of the table for it, and fails on texts that need the last two."""
    folder = shutil.copytree(roberta, tmp_path / "model")
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    model = resolve("m", str(folder))
    assert model.pipeline.max_seq_length == 128
    texts = ["ferry " * 200]
    st = open_fp32(model)
    want = st.encode(texts)
    artifact = parse_precision("fp32@torch").build(model)
    assert np.abs(open_encoder("torch", artifact.folder, artifact.pipeline, "fp32").encode(texts) - want).max() < 1e-5
    assert json.loads((artifact.folder / "sentence_bert_config.json").read_text()) == {"max_seq_length": 128}


@pytest.mark.parametrize("where", ["tokenizer_config.json", "tokenizer.json"])
def test_texts_are_cut_where_the_tokenizer_says(folder, tmp_path, where):
    """As Transformers takes it: ``truncation_side`` of its own file, else the direction in ``tokenizer.json``."""
    right = resolve("m", str(shutil.copytree(folder, tmp_path / "right")))
    if where == "tokenizer.json":
        edit(folder / where, truncation={"direction": "Left", "max_length": 64, "strategy": "LongestFirst", "stride": 0})
    else:
        edit(folder / where, truncation_side="left")
    left, texts = resolve("m", str(folder)), ["first " * 100 + "last " * 100]
    (found,), (other,) = (TextTokenizer.open(m.root, m.pipeline)(texts) for m in (left, right))
    assert [found] == preprocess(open_fp32(left), texts)
    assert [other] == preprocess(open_fp32(right), texts)
    assert found != other
    assert left.pipeline.sha256() != right.pipeline.sha256()
    edit(folder / "tokenizer_config.json", truncation_side="middle")
    with pytest.raises(ModelProblem, match="expected left or right, found 'middle'"):
        resolve("m", str(folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "brand_new"}, r"of type 'brand_new' \(model_type in config.json\), which transformers .* does not know"),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "modeling.Own"}},
            r"'own', which is code that comes with it.*never run",
        ),
        ({"model_type": ["bert"]}, r"expected model_type to name an architecture, found \['bert'\]"),
    ],
)
def test_a_type_that_transformers_does_not_know_is_refused(folder, values, words, monkeypatch, capsys):
    edit(folder / "config.json", **values)
    (folder / "modeling.py").write_text("raise SystemExit('this code ran')")
    for make in (open_fp32, parse_precision("int8").build, parse_precision("fp16").build):
        with pytest.raises(QguardError, match=words) as raised:
            make(resolve("m", str(folder)))
        assert "trust_remote_code" not in str(raised.value)
    monkeypatch.chdir(folder.parent)
    assert main(["init", "model"]) == 3
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_code_of_a_type_that_transformers_has_is_not_needed(folder):
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Own", "AutoConfig": "modeling.Config"})
    (folder / "modeling.py").write_text("raise SystemExit('this code ran')")
    tensor(folder, "lm_head.decoder.weight")  # a head, which no embedding passes
    model = resolve("m", str(folder))
    want = open_fp32(model).encode(["one", "another text"])
    found = open_encoder("torch", model.folder, model.pipeline, "fp32").encode(["one", "another text"])
    assert np.abs(found - want).max() < 1e-6


def test_weights_that_the_code_of_a_model_uses_and_transformers_does_not(folder):
    """As of Jina's adapters: what Transformers computes without them is another model."""
    tensor(folder, "encoder.layer.0.attention.self.query.lora_A")
    open_network(folder)  # a leftover, where no code may use it
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Own"})
    words = r"comes with code of its own .*leaves out 1 of its weights, such as encoder.layer.0.attention.self.query.lora_A"
    for make in (parse_precision("fp32").build, parse_precision("int8-legacy").build, opened):
        with pytest.raises(ModelProblem, match=words):
            make(resolve("m", str(folder)))


def opened(model):
    return open_encoder("torch", model.folder, model.pipeline, "fp32")


def test_weights_that_are_not_there_are_not_made_up(folder):
    """As of a folder whose model_type is of the architecture that it was derived from."""
    edit(folder / "config.json", num_hidden_layers=3)
    words = r"lacks 16 of the weights of a model of type 'bert', such as encoder.layer.2.*fill them with noise"
    for make in (parse_precision("fp32").build, opened):
        with pytest.raises(ModelProblem, match=words):
            make(resolve("m", str(folder)))


def test_a_folder_that_sentence_transformers_cannot_open(folder):
    edit(folder / "config.json", num_attention_heads=5)
    with pytest.raises(ModelProblem, match="sentence-transformers cannot open model 'm': ValueError: The hidden size"):
        open_fp32(resolve("m", str(folder)))


def test_what_another_library_says_is_one_line_without_advice():
    assert first_line(ValueError("one\x1b[31m\ntwo")) == "ValueError: one [31m"
    assert first_line(ValueError("pass trust_remote_code=True")) == "ValueError"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(RuntimeError("x" * 999))) < 250


def test_a_failed_init_leaves_the_configuration_as_it_was(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    Path("pyproject.toml").write_bytes(b"[project]\r\nname = 'mine'\r\n")
    edit(folder / "config.json", num_attention_heads=5)  # found out when it is opened
    assert main(["init", "model"]) == 3
    assert "cannot open model 'model'" in capsys.readouterr().err
    assert Path("pyproject.toml").read_bytes() == b"[project]\r\nname = 'mine'\r\n"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model", "pyproject.toml"]
