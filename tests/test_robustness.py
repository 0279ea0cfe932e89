"""Generated texts: what holds on the real model, and what a damaged one is shrunk to."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qguard.config import load_config
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ArtifactProblem, MeasurementProblem, UsageProblem
from qguard.gates import Gate
from qguard.judging.fp32 import fp32_encoder
from qguard.judging.robustness import probe_of
from qguard.judging.session import Session, Target
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from qguard.robustness import drawn as drawing
from qguard.robustness.exact import Exact
from qguard.robustness.features import describe, scripts
from qguard.robustness.kept import read_kept
from qguard.robustness.metrics import Tried
from qguard.robustness.search import CLIMBS, search
from tests import faults
from tests.conftest import ROOT
from tests.processes import run_pytest


@pytest.fixture(autouse=True)
def worst_texts(tmp_path, monkeypatch):
    """The folder of kept texts, empty."""
    monkeypatch.setattr("qguard.robustness.kept.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "robustness"


def judged(small, precision="int8", artifact=None, **settings):
    """The checks by name, and those that fail."""
    config = load_config(small)
    config = config.model_copy(
        update={"robustness": config.robustness.model_copy(update={"mode": "gate", "examples": 30, **settings})}
    )
    checks = Session(config, artifact).checks(Target(parse_precision(precision), "minilm", "own"), "robustness")
    return {c.name: c for c in checks}, {c.name for c in checks if c.outcome == "fail"}


def first_text(check) -> str:
    """The text that a check shows first."""
    return re.match(r"\S+  ('.*?'|\".*?\")…?  \(", check.worst[0])[1][1:-1]


def test_int8_holds_on_generated_text(small, int8, worst_texts):
    checks, failed = judged(small)
    assert not failed
    assert checks["robustness.cosine_min"].items > 60
    assert 0.5 < checks["robustness.cosine_min"].value < 0.9999
    assert checks["robustness.broken_vectors"].value == 0
    assert len(read_kept(next(worst_texts.iterdir()))) > 5


def test_equal_seeds_try_equal_texts(small, int8):
    harness = Session(load_config(small))
    probe = probe_of(harness, parse_precision("int8"), "minilm")
    runs = [search(probe, [], 12, seed) for seed in (3, 3, 4)]
    assert runs[0].tried == runs[1].tried
    assert [t.text for t in runs[0].tried] != [t.text for t in runs[2].tried]


def test_report_measures_and_never_fails(small, int8):
    checks, failed = judged(small, mode="report", examples=3)
    assert not failed
    assert {c.outcome for c in checks.values()} == {"reported"}


def test_a_gate_that_no_text_gave_a_value_for_is_not_measured(small, int8):
    """The first batch is of one text, which has no order."""
    with pytest.raises(
        MeasurementProblem,
        match=r"no value for robustness\.batch_cosine_min, robustness\.order_cosine_min: .*; try more of them: examples = 20",
    ):
        judged(small, examples=1)


@pytest.fixture
def without_emoji(int8, tmp_path):
    """An artifact whose tokenizer throws emoji away."""
    folder = tmp_path / "without_emoji"
    shutil.copytree(int8.folder, folder)
    (folder / "qguard.json").unlink()
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    drop = {"type": "Replace", "pattern": {"Regex": "[\\x{1F300}-\\x{1FAFF}]"}, "content": ""}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [drop, tokenizer["normalizer"]]}
    file.write_text(json.dumps(tokenizer))
    return folder


def test_a_tokenizer_that_drops_emoji_is_shrunk_to_one_and_tried_first_next_time(small, without_emoji, worst_texts):
    checks, failed = judged(small, artifact=without_emoji)
    assert "robustness.token_mismatches" in failed
    check = checks["robustness.token_mismatches"]
    text = first_text(check)
    assert len(text) <= 3
    assert any(0x1F300 <= ord(c) <= 0x1FAFF for c in text)
    assert "emoji and symbols" in check.worst[0]
    assert "shrunk by Hypothesis, seed 0" in check.worst[-1]
    assert read_kept(next(worst_texts.iterdir()))[0] == text
    again, failed = judged(small, artifact=without_emoji)
    assert "tried first" in again["robustness.token_mismatches"].worst[-1]
    assert again["robustness.cosine_min"].items <= 8
    assert "robustness.token_mismatches" in failed


def test_a_graph_that_goes_wrong_for_long_texts_is_shrunk_to_the_length_where_it_does(small, fp32_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr("qguard.robustness.search.SHRINKING", 4.0)
    model = onnx.load(str(fp32_onnx))
    (positions,) = (t for t in model.graph.initializer if list(t.dims) == [512, 384])
    table = numpy_helper.to_array(positions).copy()
    table[32:] = -table[32:]
    positions.CopyFrom(numpy_helper.from_array(table, positions.name))
    onnx.save(model, str(tmp_path / "m.onnx"))
    checks, failed = judged(small, "fp32", tmp_path / "m.onnx")
    assert "robustness.cosine_min" in failed
    assert "robustness.token_mismatches" not in failed
    tokens = int(re.search(r"(\d+) tokens", checks["robustness.cosine_min"].worst[0])[1])
    assert 32 < tokens <= 48


def test_attention_that_sees_padding_is_shrunk_to_a_short_text(small, fp32_onnx, tmp_path):
    artifact = faults.mask_dropped(fp32_onnx, tmp_path / "m.onnx")
    checks, failed = judged(small, "fp32", artifact)
    assert "robustness.padding_cosine_min" in failed
    assert len(first_text(checks["robustness.padding_cosine_min"])) <= 3


def test_what_fails_is_the_furthest_beyond_its_bound_and_ends_the_search():
    def look(texts, ways=True):
        return [Tried(t, {"robustness.cosine_min": 0.5 if any(map(str.isdigit, t)) else 1.0}) for t in texts]

    gate = Gate("robustness.cosine_min", None, Bound(">=", 0.9))
    found = search(look, [gate], 60)
    assert (found.broken, found.batch, found.replayed) == ("0", ("0",), False)
    assert search(look, [], 5).broken is None
    known = search(look, [gate], 60, known=["a", "22"])
    assert (known.broken, known.replayed, [t.text for t in known.tried]) == ("22", True, ["a", "22"])


def test_what_goes_wrong_in_company_is_shrunk_to_two_texts():
    def look(texts, ways=True):
        low = len({len(t) for t in texts}) > 1
        return [Tried(t, {"robustness.cosine_min": 1.0, "robustness.batch_cosine_min": 0.5 if low else 1.0}) for t in texts]

    found = search(look, [Gate("robustness.batch_cosine_min", None, Bound(">=", 0.9))], 30)
    assert len(found.batch) == 2


def test_texts_are_described_by_what_tells_them_apart(minilm):
    tokenizer = TextTokenizer.open(minilm.root, minilm.pipeline)
    assert scripts("Ωα b 1 🙂") == ["Greek", "Latin", "emoji and symbols", "numbers"]
    words = describe("🙂 hello", tokenizer)
    assert words == "'🙂 hello'  (7 characters, 4 tokens, 25% unknown, Latin, emoji and symbols)"
    assert "…" in describe("long " * 100, tokenizer)


def test_a_file_of_hard_texts_is_tried_first(small, int8, tmp_path):
    (tmp_path / "hard.jsonl").write_text('{"text": "a very particular text", "slice": "hard"}\n')
    config = load_config(small)
    settings = config.robustness.model_copy(update={"replay": str(tmp_path / "hard.jsonl"), "examples": 1})
    harness = Session(config.model_copy(update={"robustness": settings}))
    from qguard.judging.robustness import replayed

    assert replayed(harness) == ["a very particular text"]


def test_a_replay_that_is_not_there_is_refused(small, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    file = tmp_path / "p" / "pyproject.toml"
    file.write_text(file.read_text().replace("[tool.qguard.robustness]\n", '[tool.qguard.robustness]\nreplay = "hart"\n'))
    with pytest.raises(UsageProblem, match=r"robustness\.replay 'hart': no file or folder of that name"):
        load_config(tmp_path / "p")


def test_the_example_of_the_documentation_runs(small, int8):
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    scope: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], scope)
    encoder = Session(load_config(small)).encoder(parse_precision("int8"), "minilm")
    tests = [f for name, f in scope.items() if name.startswith("test_")]
    for test in tests:
        test(qguard_encoder=encoder)
    assert tests


def test_switched_off_is_said_and_costs_no_import_of_hypothesis(small, int8, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    (tmp_path / "p" / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure(config):\n    print('LOADED', 'hypothesis' in sys.modules)\n"
    )
    args = ["-p", "no:randomly", "-q", "--precision", "int8", "--qguard-robustness=off", "--qguard-report=r.json"]
    _, out = run_pytest(tmp_path / "p", *args)
    assert "qguard: PASS" in out, out
    assert "left out: robustness (--qguard-robustness=off), latency (--qguard-latency=off)" in out
    assert "LOADED False" in out
    report = json.loads((tmp_path / "p" / "r.json").read_text())
    assert report["runs"][0]["left_out"] == ["robustness", "latency"]


def test_the_gate_tries_generated_texts(small, int8, tmp_path):
    shutil.copytree(small, tmp_path / "p")
    file = tmp_path / "p" / "pyproject.toml"
    file.write_text(file.read_text().replace('[tool.qguard.robustness]\nmode = "off"', "[tool.qguard.robustness]\nexamples = 5"))
    _, out = run_pytest(tmp_path / "p", "-q", "--precision", "int8", "--qguard-report=r.json")
    assert "qguard: PASS" in out, out
    assert "ok   robustness.cosine_min" in out
    run = json.loads((tmp_path / "p" / "r.json").read_text())["runs"][0]
    assert [c["items"] > 5 for c in run["checks"] if c["name"] == "robustness.cosine_min"] == [True]
    assert run["left_out"] == ["latency"]


def test_options_of_hypothesis_reach_the_gate(pytester, small, int8, monkeypatch):
    shutil.copytree(small, pytester.path, dirs_exist_ok=True)
    pytester.makeconftest(
        "from hypothesis import settings\nsettings.register_profile('wide', max_examples=7, derandomize=True)\n"
        "def pytest_collection_finish(session):\n"
        "    from qguard.plugin.state import STATE\n"
        "    print('ROBUSTNESS', session.config.stash[STATE].session.config.robustness)\n"
    )
    args = ("-p", "no:randomly", "-s", "--precision", "int8", "--qguard-robustness=gate", "--collect-only", "-q")
    out = pytester.runpytest_subprocess(*args, "--hypothesis-profile", "wide", "--hypothesis-seed", "11").stdout.str()
    assert "examples=7 seed=11" in out
    assert "test_robustness[int8-minilm-own]" in out


def test_a_warm_run_draws_nothing_and_runs_no_fp32(small, int8, monkeypatch, tmp_path):
    """Equal seeds give equal texts; what was known of them is known."""
    for module in ("drawn", "exact"):
        monkeypatch.setattr(f"qguard.robustness.{module}.cache_folder", lambda: tmp_path)
    first, _ = judged(small, artifact=int8.file)
    drew, ran = [], []
    draw = drawing._draw
    monkeypatch.setattr(drawing, "_draw", lambda *a: drew.append(a) or draw(*a))
    monkeypatch.setattr("qguard.judging.robustness.fp32_encoder", lambda *a: ran.append(a) or fp32_encoder(*a))
    second, _ = judged(small, artifact=int8.file)
    assert (drew, ran) == ([], [])
    assert {n: c.value for n, c in first.items()} == {n: c.value for n, c in second.items()}
    for name in ("drawn.json", "fp32-*.npz"):
        (file,) = (tmp_path / "robustness").glob(name)
        file.write_bytes(file.read_bytes()[:-20])  # a damaged cache is computed again
    third, _ = judged(small, artifact=int8.file)
    assert (len(drew), len(ran)) == (1, 1)
    assert {n: c.value for n, c in first.items()} == {n: c.value for n, c in third.items()}


def test_other_seeds_and_other_machines_know_nothing_of_each_other(monkeypatch, tmp_path):
    for module in ("drawn", "exact"):
        monkeypatch.setattr(f"qguard.robustness.{module}.cache_folder", lambda: tmp_path)
    one = drawing.drawn(5, 0)
    assert drawing.drawn(5, 0) == one
    assert drawing.drawn(5, 1) != one
    assert len(drawing.drawn(9, 0)) > len(one)
    ran = []

    def encode(ids):
        ran.append(len(ids))
        return np.array([[sum(row), 1.0] for row in ids])

    def exact(key):
        made = Exact(encode, key)
        out = np.concatenate(made([[1, 2], [3], [1, 2]]))
        made.keep()
        return out

    assert exact(["a"]).tolist() == [[3, 1], [3, 1], [3, 1]]
    assert exact(["a"]).tolist() == [[3, 1], [3, 1], [3, 1]]
    assert ran == [2]
    exact(["b"])
    exact(None)
    assert ran == [2, 2, 2]


def test_an_encoder_that_fails_on_a_text_is_told_with_a_small_batch():
    def look(texts, ways=True):
        if any("e" in t for t in texts):
            raise ArtifactProblem("the runtime fell over")
        return [Tried(t, {"robustness.cosine_min": 1.0}) for t in texts]

    with pytest.raises(MeasurementProblem, match=r"the runtime fell over; the smallest batch found .*\['"):
        search(look, [Gate("robustness.cosine_min", None, Bound(">=", 0.9))], 40)


def test_changes_of_the_worst_texts_are_tried_too():
    """The last batches are no drawn ones; of these one in three is encoded in all the ways that must agree."""
    looked = []

    def look(texts, ways=True):
        looked.append((tuple(texts), ways))
        return [Tried(t, {"robustness.cosine_min": 1.0 - 0.001 * (t.count(".") + t.count("!"))}) for t in texts]

    found = search(look, [Gate("robustness.cosine_min", None, Bound(">=", 0.1))], 12)
    drawn_batches = drawing.drawn(12, 0)
    assert [texts for texts, _ in looked[-CLIMBS:]] != [tuple(b) for b in drawn_batches[-CLIMBS:]]
    assert sorted(w for _, w in looked) == [False] * (len(looked) - 4) + [True] * 4  # one of three of twelve
    assert found.broken is None


def test_norms_are_numbers(small, int8):
    probe = probe_of(Session(load_config(small)), parse_precision("int8"), "minilm")
    tried = probe(["", "a", "words of a longer text", "\x00"])
    assert [t.text for t in tried] == ["", "a", "words of a longer text", "\x00"]
    assert all(np.isfinite(v) for t in tried for v in t.values.values())
    assert all(t.values["robustness.norm_error"] < 1e-6 for t in tried)
