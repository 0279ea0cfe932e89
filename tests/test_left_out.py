"""What a tokenizer cannot read, or reads in two ways, is left out of a golden and told of; outer whitespace is text."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import GoldenProblem, MeasurementProblem
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


def test_a_few_texts_that_are_read_in_two_ways_are_left_out(folders, tmp_path):
    model = resolve("e5", str(built_anew(shutil.copytree(folders["xlm-roberta"], tmp_path / "model"))))
    texts = (*(f"text number {i}" for i in range(150)), "   ")
    found = fp32_outputs(model, Suite("own", texts, (None,) * len(texts)))
    assert found.left_out == {150: "tokenizer.json and Transformers' XLMRobertaTokenizer read it differently"}
    assert found.vectors.shape[0] == len(found.token_ids) == len(found.suite.texts) == 150


def test_one_odd_text_does_not_refuse_a_small_suite(folders, tmp_path):
    model = resolve("e5", str(built_anew(shutil.copytree(folders["xlm-roberta"], tmp_path / "model"))))
    texts = (*(f"text number {i}" for i in range(29)), "   ")
    assert list(fp32_outputs(model, Suite("own", texts, (None,) * 30)).left_out) == [29]


def test_many_texts_that_are_read_in_two_ways_refuse_the_golden(folders, tmp_path):
    model = resolve("e5", str(built_anew(shutil.copytree(folders["xlm-roberta"], tmp_path / "model"))))
    with pytest.raises(GoldenProblem, match=r"read 1 of 3 texts differently; the first is '   '.*save_pretrained\('COPY'\)"):
        golden.record(model, Suite("own", ("one", "   ", "two"), (None,) * 3), tmp_path / "golden", "first")
    assert not (tmp_path / "golden").exists()
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model.folder).save_pretrained(model.folder)  # what the message says
    mended = resolve("e5", str(model.folder))
    assert fp32_outputs(mended, Suite("own", ("one", "   ", "two"), (None,) * 3)).left_out == {}


def test_an_encoder_gives_no_vector_for_nothing(minilm, fp32_onnx):
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", fp32_onnx)
    assert np.isfinite(encoder.encode_ids([[101, 102]])).all()
    with pytest.raises(MeasurementProblem, match="a text without a token has no vector"):
        encoder.encode_ids([[101, 102], []])
