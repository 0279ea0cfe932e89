"""llama.cpp itself: it gives the vectors of fp32, and its quantizer the bytes that are written here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.errors import ArtifactProblem, GoldenProblem, MeasurementProblem
from qguard.gguf.mixture import MIXTURES
from qguard.gguf.read import read_gguf
from qguard.judging.cause import find_cause
from qguard.judging.readings import Readers
from qguard.judging.session import Session, Target
from qguard.latency.arms import LocalArm
from qguard.latency.check import Bucket, spec_of
from qguard.models.model import resolve
from qguard.precisions import gguf, parse_precision
from tests import families
from tests.conftest import ROOT, minilm_project
from tests.ggufs import changed
from tests.llamacpp import encoder_of, modules, quantize, quantizer, without_llamacpp

pytestmark = pytest.mark.skipif(bool(without_llamacpp()), reason=without_llamacpp())

NETWORKS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
TEXTS = ("The ferry leaves at noon.", "ok", "Mein Paket ist seit neun Tagen unterwegs, und niemand weiß wo.", "한국어 문장")
Q8 = Target(parse_precision("q8_0"), "minilm", "own")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """fp32 of a tiny model in llama.cpp."""
    model = resolve("tiny", str(families.write("bert", tmp_path_factory.mktemp("tiny"))))
    artifact = parse_precision("fp32@llamacpp").build(model)
    return encoder_of(artifact)


@pytest.fixture(scope="module")
def project(harness, tmp_path_factory):
    """MiniLM and a suite of 16 texts."""
    folder = minilm_project(harness, tmp_path_factory.mktemp("llamacpp"), 16)
    with (folder / "pyproject.toml").open("a") as file:
        file.write(f"[tool.qguard.javascript]\nmodules = {json.dumps(str(modules()))}\n")
    return Session(load_config(folder))


@pytest.mark.parametrize("family", NETWORKS)
def test_fp32_reproduces_torch(family, tmp_path):
    model = resolve(family, str(families.write(family, tmp_path)))
    artifact = parse_precision("fp32@llamacpp").build(model)
    torch = open_encoder("torch", model.folder, model.pipeline, "fp32")
    ids = torch.tokenizer(TEXTS)
    found = encoder_of(artifact).encode_ids(ids)
    assert (found * torch.encode_ids(ids)).sum(1).min() > 0.999999


@pytest.mark.skipif(quantizer() is None, reason="the libraries of llama.cpp are not those of Linux")
@pytest.mark.parametrize(("layers", "width"), [(12, 256), (6, 96)])
def test_files_are_those_of_llama_cpps_own_quantizer(layers, width, tmp_path):
    config = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    model = resolve("tiny", str(families.write("bert", tmp_path, **config)))
    gguf.write(model, tmp_path, "F32")
    for mixture, (_, number) in list(MIXTURES.items())[1:]:
        gguf.write(model, tmp_path, mixture)
        quantize(tmp_path / "model-F32.gguf", tmp_path / "theirs.gguf", number)
        own, theirs = read_gguf(tmp_path / f"model-{mixture}.gguf"), read_gguf(tmp_path / "theirs.gguf")
        assert {n: t.kind.name for n, t in own.tensors.items()} == {n: t.kind.name for n, t in theirs.tensors.items()}
        assert all(np.array_equal(t.stored, theirs.tensors[n].stored) for n, t in own.tensors.items())
        assert {k: str(v) for k, v in own.metadata.items()} == {k: str(v) for k, v in theirs.metadata.items()}


def test_texts_fill_all_positions(opened):
    """node-llama-cpp refuses a text as long as its context, which is therefore one longer than the model's."""
    (long,) = opened.tokenizer(["ferry " * 300])
    assert (len(long), opened.runtime.room) == (128, families.POSITIONS)
    whole = [*long[:-1], long[1], long[1], long[-1]]
    assert np.isfinite(opened.encode_ids([whole])).all()
    with pytest.raises(MeasurementProblem, match="a text of 131 tokens, and the file has positions for 130"):
        opened.encode_ids([[*whole[:-1], long[1], long[-1]]])


def test_vectors_come_without_unit_length_and_are_normalized_here(opened):
    ids = opened.tokenizer([*TEXTS, ""])
    raw = np.concatenate([opened.runtime(np.asarray([row]), np.ones((1, len(row)), np.int64)) for row in ids])
    assert abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    assert np.allclose(np.linalg.norm(opened.encode_ids(ids), axis=1), 1, atol=1e-6)
    assert len(ids[-1]) == 2  # an empty text has its two special tokens; of no token, node-llama-cpp gives no vector


def test_padding_and_batches_change_nothing(opened):
    ids = opened.tokenizer(list(TEXTS))
    alone = opened.encode_batches(ids, [[i] for i in range(len(ids))])
    assert np.array_equal(alone, opened.encode_batches(ids, [list(range(len(ids)))], 7))


def test_tokens_that_node_llama_cpp_would_add_are_refused(opened):
    (ids,) = opened.tokenizer(["ferry"])
    with pytest.raises(MeasurementProblem, match="node-llama-cpp would put the file's own special tokens around these token ids"):
        opened.encode_ids([ids[1:]])


def test_own_token_ids_and_why_they_differ(project):
    runtime, tokenizer = project.encoder(Q8.precision, "minilm").runtime, project.tokenizer(Q8.precision, "minilm")
    texts = {
        "The ferry leaves at noon.": "",
        "우리는 지난 주말에": "it keeps the first letter of a Korean syllable, and loses its vowel and final",
        "बारिश से कल रात": "it drops vowel signs, as of Hindi, with the accents",
        "q" * 120: "it splits a word of more than 100 letters, which the model takes for unknown",
        "a [MASK] in a text": "node-llama-cpp takes the name of a special token for text",
        "q" * 120 + " 우리": "it keeps the first letter of a Korean syllable, and loses its vowel and final and it splits a word",
    }
    readers = Readers(tokenizer.plain)
    for (text, words), found in zip(texts.items(), runtime.token_ids(list(texts)), strict=True):
        assert (found != readers.ids(text)) == bool(words)
        assert not words or readers.cause(text, found).startswith(words)


def test_texts_that_are_read_otherwise_are_counted_by_cause(project):
    """The suite's own are read alike; of texts of core some are not."""
    (check,) = project.checks(Q8, "tokenizer")
    assert (check.name, check.value, check.outcome) == ("tokenizer.alike", 1.0, "pass")
    (core,) = Session(load_config(ROOT).model_copy(update={"javascript": project.config.javascript})).checks(
        replace(Q8, suite="core"), "tokenizer"
    )
    assert core.value == pytest.approx(1 - 8 / 1440)
    assert "3 texts: it keeps the first letter of a Korean syllable, and loses its vowel and final" in core.worst
    assert "3 texts: it drops vowel signs, as of Hindi, with the accents" in core.worst


def test_q8_0_passes_and_a_file_with_another_pooling_is_told(project, tmp_path):
    for family in ("artifact", "embedding", "ranking"):
        for check in project.checks(Q8, family):
            assert check.outcome in ("pass", "reported"), check
    source = project.artifact(Q8.precision, "minilm").file
    given = replace(project, artifact_path=changed(source, tmp_path / "model-Q8_0.gguf", {"bert.pooling_type": 2}))
    with pytest.raises(GoldenProblem, match=r"the GGUF file is not of this model: pooling_type is cls, the model's mean\. Conv"):
        given.checks(Q8, "embedding")


def test_loss_by_rounding_is_proved(project):
    loss = find_cause(project, Q8)
    assert (loss.kind, loss.facts["fp32"]) == ("loss", "fp32@llamacpp"), loss
    assert loss.facts["unrounded"] < loss.facts["distance"] / 5


def test_a_damaged_file_is_told_from_rounding(project, tmp_path):
    source = project.artifact(Q8.precision, "minilm").file
    name = "blk.2.attn_output_norm.bias"
    bias = np.zeros_like(read_gguf(source).tensors[name].stored)
    broken = changed(source, tmp_path / "model.gguf", tensors={name: ("F32", bias)})
    found = find_cause(replace(project, artifact_path=broken), Q8)
    assert (found.kind, found.facts["damage"][0]) == ("artifact", f"{name}: its weights differ by 100.0% from fp32's, more than "
                                                       "rounding explains")  # fmt: skip


def test_what_llama_cpp_cannot_load_is_told(project, tmp_path):
    source = project.artifact(Q8.precision, "minilm").file
    file = changed(source, tmp_path / "model.gguf", {"bert.attention.layer_norm_epsilon": None})
    given = replace(project, artifact_path=file)
    with pytest.raises(ArtifactProblem, match=r"llama\.cpp cannot load model\.gguf"):
        given.encoder(Q8.precision, "minilm")


def test_it_is_timed_in_the_worker(project):
    spec = spec_of(project.artifact(Q8.precision, "minilm"), Q8.precision, 1)
    arm = LocalArm(spec, Bucket(64, 2).fill(project.golden("minilm", "own").token_ids))
    arm.open()
    (wall, cpu), _ = arm.block(1, 2)
    assert 1e6 < cpu < 1.5 * wall
    arm.close()
