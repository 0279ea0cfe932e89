"""Every kind of fault that no text of a suite, no head and no order of batches may hide, each seen by the check that is meant."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from qguard import goldens as golden
from qguard.config import load_config
from qguard.faults import FAULTS
from qguard.faults.judging import CAUGHT, Failure, Judge, Result, judge_accuracy, judge_fault, sound_batches
from qguard.faults.repeats import Condition, judge_under, run_repeat
from qguard.faults.site import Candidate, FaultSite
from qguard.judging.cause import find_cause
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from tests import families
from tests.conftest import ROOT
from tests.machine import long_but

FP32, TEXTS = parse_precision("fp32"), 32
SEVERITIES = {
    "embedding-rows-swapped": ("2 words of no text", "the whole table reversed"),
    "embedding-rows-zeroed": ("1 word of no text", "1 word in 100", "every word"),
    "embedding-rows-foreign": ("1 word of no text", "1 word in 100", "every word"),
    "number-not-finite": ("1 word of no text", "1 channel of a layer"),
    "layers-swapped": ("1 matrix", "2 neighbors", "all in reverse order"),
    "positions-exchanged": ("full",),
    "positions-shifted": ("by 1", "by 2"),
    "output-wrong": ("the layer before the last", "what goes into the first layer"),
    "output-unnamed": ("full",),
    "vectors-scaled": ("1.01 times", "1.1 times", "half"),
    "pooling-wrong": ("last token",),
    "dense-missing": ("full",),
    "dense-missing-in-file": ("full",),
    "prompt-missing": ("full",),
    "padding-side-wrong": ("in tokenizer.json", "in tokenizer_config.json"),
    "lengths-kept-sorted": ("where they differ by 4", "where they differ"),
    "repeats-moved": ("full",),
    "cache-key-too-short": ("the same length",),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A tiny model with prompts and a Dense head that ranks by dot product, and some texts without repeats."""
    folder = tmp_path_factory.mktemp("kinds")
    model = families.write("bert", folder / "model", normalize=False)
    weights = np.random.default_rng(0).standard_normal((families.WIDE, families.WIDE)).astype(np.float32) / 8
    (model / "2_Dense").mkdir()
    save_file({"linear.weight": weights}, model / "2_Dense" / "model.safetensors")
    widths = {"in_features": families.WIDE, "out_features": families.WIDE, "bias": False}
    declared = {**widths, "activation_function": "torch.nn.modules.linear.Identity"}
    (model / "2_Dense" / "config.json").write_text(json.dumps(declared))
    modules = json.loads((model / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (model / "modules.json").write_text(json.dumps(modules))
    said = {"prompts": {"query": "query: ", "document": "passage: "}, "similarity_fn_name": "dot"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(said))
    corpus = (ROOT / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in corpus[:: len(corpus) // TEXTS][:TEXTS]]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": r["text"], "slice": "all"}) + "\n" for r in rows))
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = {json.dumps(str(model))}\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.robustness]\nmode = "off"\n'
        '[tool.qguard.latency]\nmode = "off"\n'
    )
    session = Session(load_config(folder))
    golden.record(session.model("tiny"), session.suite("own"), session.config.golden_root, "tests")
    return session


def judged(sound: Session, name: str, severity: str) -> Result:
    return judge_fault(sound, FP32, "tiny", ("own",), FAULTS[name], severity)


def test_the_sound_file_holds(sound):
    assert judge_accuracy(Judge.on(sound, Candidate()), Target(FP32, "tiny", "own")).failures == ()


@pytest.mark.parametrize(
    ("name", "severity"),
    long_but([(name, of[-1]) for name, of in SEVERITIES.items()], [(name, s) for name, of in SEVERITIES.items() for s in of]),
)
def test_the_fault_is_caught_by_the_check_that_is_meant_for_it(sound, name, severity):
    result = judged(sound, name, severity)
    assert result.status == CAUGHT, result.reason
    assert any(map(FAULTS[name].told_by, result.failures)), result.failures


def test_texts_without_repeats_would_not_show_that_repeats_are_moved(sound):
    """Only the batch in which a text comes twice does, and nothing else fails."""
    assert [(f.gate, f.check) for f in judged(sound, "repeats-moved", "full").failures] == [("invariance", "invariance.order")]


def test_batches_of_one_length_hide_an_order(sound, tmp_path):
    site = FaultSite(sound, FP32, "tiny", ("own",), tmp_path)
    rows = [[2, 9, 3], [2, 8, 3], [2, 7, 3]]
    found, own = (
        Judge.on(sound, candidate).encoder(FP32, "tiny").encode_batches([*rows, [2, 7, 8, 9, 3]], [[0, 1, 2], [3]])
        for candidate in (FAULTS["lengths-kept-sorted"].inject(site, "where they differ"), Candidate())
    )
    assert np.array_equal(found, own)
    assert len(np.unique(own.round(4), axis=0)) == 4


@pytest.mark.parametrize(
    ("name", "severity"),
    [("lengths-kept-sorted", "where they differ by 4"), ("rows-mixed-up", "2 texts of 1 batch in 8"),
     ("cache-key-too-short", "the same length")],
)  # fmt: skip
def test_the_vector_of_another_text_is_the_cause_and_no_rounding(small, int8, tmp_path, name, severity):
    """Without its rounding the file gives fp32's vectors, and what came back is none of the file's."""
    session = Session(load_config(small), int8.folder)
    target = Target(parse_precision("int8"), "minilm", "own")
    site = FaultSite(session, target.precision, "minilm", ("own",), tmp_path)
    cause = find_cause(Judge.on(session, FAULTS[name].inject(site, severity)), target)
    assert cause.kind == "artifact", cause.text
    assert re.search(r"\d+ of \d+ texts whose vectors moved have that of another text: .+ that of .+: batches come", cause.text)


def test_what_computes_as_the_sound_file_does_is_computed_once(sound):
    """For all faults of goldens and batches; never for a clean repeat."""
    judged(sound, "repeats-moved", "full")
    kept = sound_batches(sound, FP32, "tiny")
    before = len(kept)
    judged(sound, "golden-too-coarse", "1 decimal")
    judged(sound, "cache-key-too-short", "the same first 8 tokens")
    run_repeat(sound, FP32, "tiny", ("own",), 1)
    assert len(kept) == before > 0
    judge = judge_under(sound, FP32, "tiny", Condition.of(1))
    kept.clear()
    judge.encoder(FP32, "tiny").encode_ids([[2, 9, 3]])
    assert not kept


def test_what_a_fault_expects_is_a_part_a_metric_or_words():
    rows, side, order = FAULTS["embedding-rows-zeroed"], FAULTS["padding-side-wrong"], FAULTS["lengths-kept-sorted"]
    assert (rows.part, side.part, order.part) == ("artifact", "golden", "invariance")
    assert rows.told_by(Failure("artifact", "artifact.wrong_rows[x]", 1.0))
    assert not rows.told_by(Failure("artifact", "artifact.nonfinite", 1.0))
    assert not side.told_by(Failure("golden", words="token ids differ"))
    assert side.told_by(Failure("golden", words="padding_side is left"))
    assert order.told_by(Failure("invariance", words="a vector is NaN"))
