"""Texts are read as sentence-transformers reads them; those without a token are left out of a golden and told of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import GoldenProblem, MeasurementProblem, ModelProblem
from qguard.goldens.reference import fp32_outputs, open_fp32, preprocess
from qguard.judging.session import Session, Target
from qguard.models.model import resolve
from qguard.precisions import parse_precision
from qguard.suites import Pair, Suite
from tests import families
from tests.processes import gate

ODD = ("  both ends \n", "\tin front", "behind   ", "   ", "two  spaces", "\u200b", "İSTANBUL ΟΔΟΣ", "[SEP] </s> <s>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {f: families.write(f, root / f) for f in ("bert", "roberta", "xlm-roberta", "llama", "qwen3")}


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "llama"])
def test_texts_are_read_as_sentence_transformers_reads_them(folders, family, lower, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128, "do_lower_case": lower}))
    model = resolve("m", str(folder))
    assert TextTokenizer.open(model.root, model.pipeline)(ODD) == preprocess(open_fp32(model), list(ODD), 1)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_bytes_and_pieces_record_a_golden_on_core(folders, harness, family, tmp_path):
    model, core = resolve(family, str(folders[family])), harness.suite("core")
    review = golden.record(model, core, tmp_path, "first")
    kept = golden.read(tmp_path / family / "core")
    assert (len(kept.vectors), review.left_out, kept.left_out) == (len(core.texts), (), {})


NOTHING = Suite(
    "own", ("one text", "", "another text", "and a third"), ("a", "a", None, None),
    pairs=(Pair(0, 1, 1.0, None), Pair(0, 2, 1.0, None)), queries=(0,), documents=(1, 2, 3),
    qrels={0: {0: 1, 1: 2}}, query_ids=("q",), document_ids=("x", "y", "z"),
)  # fmt: skip


def without_frame(folder):
    """A tokenizer that puts nothing around a text: an empty one has no token."""
    file = folder / "tokenizer.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "post_processor": None}))
    return folder


def test_a_suite_without_some_texts_keeps_the_rest_together():
    rest = NOTHING.without({1})
    assert rest.texts == ("one text", "another text", "and a third")
    assert (rest.slices, rest.pairs) == (("a", None, None), (Pair(0, 1, 1.0, None),))
    assert (rest.queries, rest.documents, rest.document_ids) == ((0,), (1, 2), ("y", "z"))
    assert rest.qrels == {0: {0: 2}}
    assert NOTHING.without(()) is NOTHING
    assert NOTHING.without({0}).qrels == {}


def test_a_text_without_a_token_is_left_out_and_reported(folders, tmp_path):
    without_frame(shutil.copytree(folders["llama"], tmp_path / "model"))
    texts = ["", *(f"text number {i}" for i in range(40))]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nllama = "model"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nexamples = 5\n'
    )
    harness = Session(load_config(tmp_path))
    review = golden.record(harness.model("llama"), harness.suite("own"), harness.config.golden_root, "first")
    words = "'': it has no token in this model's tokenizer"
    assert review.left_out == (words,)
    assert f"texts left out: 1\n    {words}" in review.words
    assert not golden.record(harness.model("llama"), harness.suite("own"), harness.config.golden_root, "again").changed
    target = Target(parse_precision("fp32@torch"), "llama", "own")
    assert harness.comparison(target).golden.shape[0] == 40
    code, text = gate(tmp_path, "--qguard-report=r.json", "--qguard-report=r.html", "--qguard-report=r.md", precision="fp32")
    assert code == 0, text
    assert f"texts of own that the golden leaves out and no gate judges: 1\n       {words}" in text
    assert json.loads((tmp_path / "r.json").read_text())["runs"][0]["texts_left_out"] == [words]
    assert "it has no token in this model" in (tmp_path / "r.html").read_text()
    assert "it has no token in this model" in (tmp_path / "r.md").read_text()


def test_a_gate_on_a_slice_that_is_left_out_is_not_silent(folders, tmp_path):
    without_frame(shutil.copytree(folders["llama"], tmp_path / "model"))
    rows = [{"text": "", "slice": "blank"}, *({"text": f"text number {i}", "slice": "some"} for i in range(20))]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nllama = "model"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.gates.fp32]\n"embedding.cosine_min[blank]" = ">= 0.5"\n'
    )
    harness = Session(load_config(tmp_path))
    golden.record(harness.model("llama"), harness.suite("own"), harness.config.golden_root, "first")
    with pytest.raises(MeasurementProblem, match=r"no value for embedding.cosine_min\[blank\]"):
        harness.checks(Target(parse_precision("fp32@torch"), "llama", "own"), "embedding")


def test_leaving_out_other_texts_must_be_named(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "model")
    golden.record(resolve("llama", str(folder)), NOTHING, tmp_path / "golden", "first")
    model = resolve("llama", str(without_frame(folder)))
    with pytest.raises(GoldenProblem, match=r"\[tokenizer\].*texts that are left out: 0 → 1"):
        golden.record(model, NOTHING, tmp_path / "golden", "second")


def built_anew(folder):
    """A folder whose tokenizer Transformers builds anew, and then drops outer whitespace: XLM-RoBERTa's."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "XLMRobertaTokenizer"}))
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": None}))
    return folder


READ_IN_TWO_WAYS = Suite("own", ("one", "   ", " two\n words "), (None,) * 3)


@pytest.fixture(scope="module")
def rebuilt(folders, tmp_path_factory):
    """A project whose model's tokenizer.json is not what sentence-transformers reads texts with, and its golden."""
    root = tmp_path_factory.mktemp("rebuilt")
    built_anew(shutil.copytree(folders["xlm-roberta"], root / "model"))
    texts = (*READ_IN_TWO_WAYS.texts, *(f"text number {i}" for i in range(20)))
    (root / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (root / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ne5 = "model"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
    )
    harness = Session(load_config(root))
    golden.record(harness.model("e5"), harness.suite("own"), harness.config.golden_root, "first")
    return root


def test_token_ids_are_those_of_the_tokenizer_that_sentence_transformers_loads(rebuilt):
    harness = Session(load_config(rebuilt))
    model, kept, suite = harness.model("e5"), harness.golden("e5", "own"), harness.suite("own")
    assert kept.left_out == {}
    assert kept.token_ids == preprocess(open_fp32(model), list(suite.texts), 1)
    assert kept.token_ids != TextTokenizer.open(model.root, model.pipeline)(suite.texts)
    assert kept.token_ids == harness.reference_tokenizer("e5")(suite.texts)


def test_what_qguard_builds_carries_that_tokenizer(rebuilt):
    harness, target = Session(load_config(rebuilt)), Target(parse_precision("fp32"), "e5", "own")
    assert harness.token_ids(target) == harness.golden("e5", "own").token_ids
    assert {c.outcome for c in harness.checks(target, "embedding") if c.bound} == {"pass"}
    (mismatches,) = (c for c in harness.checks(target, "robustness") if c.name == "robustness.token_mismatches")
    assert mismatches.value == 0


def test_a_bare_file_is_read_with_the_tokenizer_of_the_golden(rebuilt, tmp_path):
    harness, fp32 = Session(load_config(rebuilt)), parse_precision("fp32")
    bare = shutil.copy(harness.artifact(fp32, "e5").file, tmp_path / "bare.onnx")
    given = Session(load_config(rebuilt), bare)
    assert given.token_ids(Target(fp32, "e5", "own")) == harness.golden("e5", "own").token_ids


def test_an_artifact_that_reads_texts_by_the_file_is_no_measurement(rebuilt, tmp_path):
    harness, fp32 = Session(load_config(rebuilt)), parse_precision("fp32")
    theirs = shutil.copytree(harness.artifact(fp32, "e5").folder, tmp_path / "theirs")
    (theirs / "qguard.json").unlink()
    shutil.copy(harness.model("e5").root / "tokenizer.json", theirs / "tokenizer.json")
    with pytest.raises(
        GoldenProblem, match=r"token ids differ from the golden's in 2 of 23 texts: the artifact's tokenizer is not"
    ):
        Session(load_config(rebuilt), theirs).token_ids(Target(fp32, "e5", "own"))


def test_the_stored_tokenizer_is_part_of_the_golden(rebuilt, tmp_path):
    from qguard.goldens.audit import unsigned

    folder = shutil.copytree(rebuilt / "golden" / "e5" / "own", tmp_path / "golden" / "e5" / "own")
    (file,) = folder.glob("tokenizer-*.json")
    assert list(unsigned(tmp_path / "golden", folder)) == []
    (folder / "tokenizer-0123456789abcdef.json").write_text("{}")
    assert [f.where for f in unsigned(tmp_path / "golden", folder)] == ["e5/own/tokenizer-0123456789abcdef.json"]
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    with pytest.raises(GoldenProblem, match=r"tokenizer-.*json is truncated or was edited.*qguard golden update"):
        golden.read(folder)
    file.unlink()
    with pytest.raises(GoldenProblem, match=r"its tokenizer 'tokenizer-.*' is missing; restore it"):
        golden.read(folder)


def test_a_golden_of_the_models_own_tokenizer_stores_none(folders, tmp_path):
    model = resolve("bert", str(folders["bert"]))
    golden.record(model, READ_IN_TWO_WAYS, tmp_path, "first")
    assert golden.read(tmp_path / "bert" / "own").tokenizer is None
    assert list((tmp_path / "bert" / "own").glob("tokenizer*")) == []


def test_a_mended_folder_reads_texts_in_one_way(folders, tmp_path):
    from transformers import AutoTokenizer

    folder = built_anew(shutil.copytree(folders["xlm-roberta"], tmp_path / "model"))
    assert fp32_outputs(resolve("e5", str(folder)), READ_IN_TWO_WAYS).tokenizer is not None
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    assert fp32_outputs(resolve("e5", str(folder)), READ_IN_TWO_WAYS).tokenizer is None


def test_settings_of_the_tokenizer_are_those_that_sentence_transformers_obeys(folders, tmp_path):
    """Of several lengths sentence_bert_config.json's counts; do_lower_case of tokenizer_config.json is the tokenizer's own."""
    folder = shutil.copytree(folders["bert"], tmp_path / "model")
    file = folder / "tokenizer.json"
    cut = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": cut}))
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 40}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 30}))
    model = resolve("m", str(folder))
    found = fp32_outputs(model, Suite("own", ("Rent is DUE " * 30, "Ünïcode"), (None,) * 2))
    assert len(found.token_ids[0]) == 30
    assert found.tokenizer is not None
    assert TextTokenizer.open(model.root, model.pipeline)(["DUE"]) == TextTokenizer.open(model.root, model.pipeline)(["due"])
    reference = TextTokenizer.read(found.tokenizer, model.pipeline, "stored", model.root)
    assert reference(["DUE"]) == preprocess(open_fp32(model), ["DUE"], 1) != reference(["due"])


def test_a_tokenizer_written_in_python_is_refused_in_words(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", "model_max_length": 30}))
    with pytest.raises(ModelProblem, match=r"the tokenizer of model 'm' \(ByT5Tokenizer\) is written in Python"):
        fp32_outputs(resolve("m", str(folder)), READ_IN_TWO_WAYS)


def test_a_folder_without_tokenizer_json_is_refused_with_the_command(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    words = r"has no tokenizer.json; make one with AutoTokenizer.from_pretrained\(folder\).save_pretrained\(folder\)"
    with pytest.raises(ModelProblem, match=words):
        fp32_outputs(resolve("m", str(folder)), READ_IN_TWO_WAYS)


def test_an_encoder_gives_no_vector_for_nothing(minilm, fp32_onnx):
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx)
    assert np.isfinite(encoder.encode_ids([[101, 102]])).all()
    with pytest.raises(MeasurementProblem, match="a text without a token has no vector"):
        encoder.encode_ids([[101, 102], []])
