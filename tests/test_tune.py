"""The search for the fastest or smallest artifact: halves, steps, settings, the state, and the verdict of the other half."""

from __future__ import annotations

import json
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qguard import goldens
from qguard.artifacts.layers import read_layers
from qguard.cli import main
from qguard.config import load_config
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.precisions.calibration import Calibration
from qguard.precisions.tuning import Tuning
from qguard.tuning import search as searching
from qguard.tuning.halves import FEWEST, halves
from qguard.tuning.measured import Measured, judged_on
from qguard.tuning.report import configuration, front, picture
from qguard.tuning.search import STATE, Search, Tuned
from qguard.tuning.space import described, steps
from tests import kinds

INT8 = parse_precision("int8")
LOOSE = """
[tool.qguard.latency]
mode = "off"
[tool.qguard.gates.int8]
"embedding.cosine_mean" = ">= 0.5"
"embedding.cosine_p01" = ">= 0.2"
"embedding.cosine_min" = ">= 0.1"
"similarity.spearman" = ">= 0.1"
"similarity.p99_error" = "<= 2"
"similarity.bias" = "<= 2"
"ranking.overlap@10" = ">= 0.1"
"ranking.overlap@10[*]" = ">= 0.1"
"ranking.top1" = ">= 0.1"
"ranking.inversions" = "<= 1"
"artifact.size_ratio" = "<= 1.2"
"""


def test_what_belongs_together_is_in_one_half_and_each_slice_is_halved(harness):
    suite = harness.suite("core")
    one, other = halves(suite)
    assert sorted(one + other) == list(range(len(suite.texts)))
    assert abs(len(one) - len(other)) <= 0.02 * len(suite.texts)
    side = dict.fromkeys(one, 0) | dict.fromkeys(other, 1)
    assert all(side[p.a] == side[p.b] for p in suite.pairs)
    counts = [Counter(suite.slices[i] for i in half) for half in (one, other)]
    assert all(abs(counts[0][s] - counts[1][s]) <= 0.2 * (counts[0][s] + counts[1][s]) for s in suite.slice_names)
    assert halves(suite) == (one, other)
    assert halves(suite, 1) != (one, other)


def test_too_few_texts_and_texts_that_all_belong_together_are_refused(harness):
    suite = harness.suite("core")
    few = suite.without(set(range(2 * FEWEST - 1, len(suite.texts))))
    with pytest.raises(MeasurementProblem, match=r"has 199 texts; expected at least 200, of which one half chooses"):
        halves(few)
    pair = suite.pairs[0]
    tied = replace(suite, pairs=tuple(replace(pair, a=0, b=i) for i in range(1, len(suite.texts))))
    with pytest.raises(MeasurementProblem, match="its texts belong together"):
        halves(tied)


def tunings(precision, holds, dearest=()):
    return [p.tuning for p in steps(precision, holds, dearest)]


def test_one_that_holds_is_made_cheaper_and_one_that_fails_more_accurate():
    assert tunings(INT8, True)[0] == Tuning(outliers=32)
    failing = tunings(INT8, False, ["encoder/layer.0/output/dense", "encoder/layer.1/output/dense"])
    assert failing[0] == Tuning(outliers=128)
    without = next(t for t in failing if t.exclude)
    assert without.exclude == ("encoder/layer.0/output/dense", "encoder/layer.0/output/dense/*")
    excluded = replace(INT8, tuning=without)
    more = next(
        t
        for t in tunings(excluded, False, ["encoder/layer.0/output/dense", "encoder/layer.1/output/dense"])
        if t.outliers is None
    )
    assert more is not None
    assert tunings(excluded, True)[0] is None  # back to the recipe as it is
    assert None in tunings(replace(INT8, tuning=Tuning(outliers=32)), False)
    assert list(steps(parse_precision("int8-dynamic"), False, ["x"])) == []
    own = Calibration(samples=7)
    assert [p.calibration for p in steps(parse_precision("int8@openvino"), True, (), [own])] == [own]


def test_candidates_are_told_in_words():
    tuned = replace(INT8, tuning=Tuning(("encoder/layer.0", "encoder/layer.0/*"), 16, 0.7))
    assert described(tuned) == "int8 outliers=16 smooth=0.7 without encoder/layer.0"
    assert described(parse_precision("int8@openvino")) == "int8@openvino"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A tiny model and 240 texts of two lengths, with its golden."""
    folder = tmp_path_factory.mktemp("tune")
    kinds.tiny_dense(folder / "model")
    words = sorted({w.strip(".,!;()") for w in " ".join(kinds.TEXTS).split()})
    pick = np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(pick.choice(words, 3 + i % 9)) for i in range(260)))[:240]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t, "slice": "ab"[i % 2]}) + "\n" for i, t in enumerate(texts)))
    (folder / "pyproject.toml").write_text('[tool.qguard.models]\ntiny = "model"\n' + kinds.OWN_SUITE + LOOSE)
    session = Session(load_config(folder))
    goldens.record(session.model("tiny"), session.suite_of("own", "tiny"), session.config.golden_root, "tests")
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("qguard.judging.compare.SECONDS", 0.02)


def opened(project: Path, out: Path, **more) -> Search:
    out.mkdir(exist_ok=True)
    return Search(Session(load_config(project)), "tiny", "own", INT8, out, **more)


PRECISIONS = [INT8, parse_precision("int8-dynamic")]


def test_a_search_chooses_what_holds_on_both_halves(project, tmp_path, quick, capsys):
    config = ["--config", str(project)]
    assert main(["tune", "--out", str(tmp_path / "out"), "--precision", "int8,int8-dynamic", "--minutes", "0.3", *config]) == 0
    said = capsys.readouterr()
    assert "120 texts chose, 120 others judged" in said.out
    assert "the other half holds every gate" in said.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"artifact", "pareto.svg", "tune.json", "tuned.toml"}
    svg = ET.parse(tmp_path / "out" / "pareto.svg")
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}circle")) >= 3
    toml = (tmp_path / "out" / "tuned.toml").read_text()
    (project / "again").mkdir(exist_ok=True)
    again = project / "again" / "qguard.toml"
    again.write_text(
        (project / "pyproject.toml").read_text().replace("own.jsonl", "../own.jsonl").replace('"model"', '"../model"') + toml
    )
    made = parse_precision("tuned", load_config(again).own_precisions)
    record = json.loads((tmp_path / "out" / "artifact" / "qguard.json").read_text())["key"]
    key = made.key(Session(load_config(again)).model("tiny"))
    assert {k: key.get(k) for k in ("recipe", "tuning", "weights")} == {k: record.get(k) for k in ("recipe", "tuning", "weights")}


def test_a_stopped_search_goes_on_and_measures_nothing_twice(project, tmp_path, quick, monkeypatch):
    measured, done = searching.measured, []

    def stopping(session, target, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(described(target.precision))
        return measured(session, target, *rest)

    monkeypatch.setattr(searching, "measured", stopping)
    with pytest.raises(KeyboardInterrupt):
        opened(project, tmp_path).run(PRECISIONS, 10)
    assert len(json.loads((tmp_path / STATE).read_text())["measured"]) == 2
    monkeypatch.setattr(searching, "measured", lambda *a: done.append(described(a[1].precision)) or measured(*a))
    found = opened(project, tmp_path).run(PRECISIONS, 0.05)
    assert len(done) == len(set(done))
    assert {m.words for m in found.candidates} == set(done)


def test_a_state_of_something_else_is_refused(project, tmp_path, quick, capsys):
    opened(project, tmp_path / "a").run(PRECISIONS[:1], 0)
    with pytest.raises(UsageProblem, match=r"of another model, golden, suite, machine or other gates"):
        opened(project, tmp_path / "a", seed=1)
    (tmp_path / "a" / STATE).write_text("{}")
    with pytest.raises(UsageProblem, match="is no state of a search"):
        opened(project, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    assert main(["tune", "--out", str(tmp_path / "b"), "--config", str(project)]) == 2
    assert "expected an empty folder" in capsys.readouterr().err


def test_the_other_half_is_asked_and_may_say_no(project, tmp_path, quick):
    """The gate lies between what both halves hold: chosen on one half alone, the artifact would pass."""
    session = Session(load_config(project))
    for seed in range(20):
        one, other = halves(session.suite("own", "tiny"), seed)
        target = searching.Target(INT8, "tiny", "own")
        checks = [judged_on(session, target, rows, INT8) for rows in (one, other)]
        least = [next(c.value for c in some if c.name == "embedding.cosine_min" and c.slice is None) for some in checks]
        if least[0] > least[1]:
            break
    assert least[0] > least[1]
    folder = tmp_path / "p"
    folder.mkdir()
    between = sum(least) / 2
    text = (
        (project / "pyproject.toml")
        .read_text()
        .replace('"embedding.cosine_min" = ">= 0.1"', f'"embedding.cosine_min" = ">= {between}"')
    )
    config = text.replace("own.jsonl", str(project / "own.jsonl")).replace('"model"', json.dumps(str(project / "model")))
    (folder / "pyproject.toml").write_text(
        config.replace("[tool.qguard]\n", f"[tool.qguard]\ngolden = {json.dumps(str(project / 'golden'))}\n")
    )
    found = opened(folder, tmp_path / "out", seed=seed).run([INT8], 0)
    assert found.candidates[0].holds
    assert (found.chosen, found.asked) == (None, 1)
    assert any(c.name == "embedding.cosine_min" and c.outcome == "fail" for c in found.checks)


def test_settings_of_a_recipe_are_followed_and_declared(project):
    session = Session(load_config(project))
    plain = read_layers(session.artifact(INT8, "tiny")).layers
    names = [x.name for x in plain if x.computes == "integer"]
    out = next(n for n in names if n.endswith("output/dense"))
    tuned = replace(INT8, tuning=Tuning(exclude=(out,)))
    left = read_layers(session.artifact(tuned, "tiny")).layers
    assert [x.name for x in left if x.computes == "float" and x.name == out] == [out]
    assert [x.name for x in left if x.computes == "integer"] == [n for n in names if n != out]
    ops = {c.name: c for c in session.checks(searching.Target(tuned, "tiny", "own"), "artifact")}
    assert ops["artifact.quantized_ops"].value == 1
    assert tuned.key(session.model("tiny")) != INT8.key(session.model("tiny"))
    with pytest.raises(Exception, match="leaves every weight multiplication in float"):
        session.artifact(replace(INT8, tuning=Tuning(exclude=("*",))), "tiny")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('recipe = "int8-dynamic"\noutliers = 3', "int8-dynamic has no outliers; recipes that have: int8, int8-static@openvino"),
        ('recipe = "int8"\nsmooth = 2.0', "smooth"),
        ('recipe = "int8"\noutliers = -1', "outliers"),
    ],
)
def test_settings_that_a_recipe_does_not_have_are_refused(project, tmp_path, table, words):
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.models]\ntiny = "model"\n[tool.qguard.precision.mine]\n{table}\n')
    with pytest.raises(UsageProblem, match=words):
        load_config(tmp_path)


def row(words: str, speed: float, overlap: float, **more) -> Measured:
    values = {"ranking.overlap@10": overlap}
    return Measured(words, words, {"recipe": "int8@onnx"}, True, values=values, speed={"64x1": speed}, bytes=1000, **more)


def test_speeds_that_are_alike_leave_the_choice_to_accuracy(project, tmp_path):
    search = opened(project, tmp_path)
    rows = [(INT8, row(w, s, o)) for w, s, o in (("a", 3.0, 0.95), ("b", 2.95, 0.97), ("c", 2.0, 0.99), ("d", 2.96, 0.96))]
    assert [m.words for _, m in search.ordered(rows)] == ["b", "d", "a", "c"]
    search.objective = "smallest"
    small = [(INT8, replace(m, bytes=b)) for (_, m), b in zip(rows, (100, 102, 200, 101), strict=True)]
    assert [m.words for _, m in search.ordered(small)] == ["b", "d", "a", "c"]


def test_the_picture_and_the_configuration_hold_what_was_found():
    rows = [row("<b>", 1.0, 0.99), row("fast & loose", 3.0, 0.9), row("beaten", 0.9, 0.8), replace(row("x", 1, 1), error="no")]
    assert [m.words for m in front(rows)] == ["<b>", "fast & loose"]
    svg = picture(Tuned(rows, (INT8, rows[1])))
    titles = [t.text for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "<b>: 1.00 x, 0.9900, 0.0 MB"
    assert ET.fromstring(picture(Tuned())) is not None
    settings = {"recipe": "int8@onnx", "exclude": ['a"b', "c/*"], "outliers": 16, "smooth": 0.7}
    toml = tomllib.loads(configuration(replace(rows[0], settings=settings)))
    assert toml["tool"]["qguard"]["precision"]["tuned"] == settings
    assert tomllib.loads(configuration(rows[0]))["tool"]["qguard"]["precision"]["tuned"] == {"recipe": "int8@onnx"}


def test_calibration_texts_are_told_where_the_configuration_finds_them(project, tmp_path):
    config = load_config(project)
    own = config.calibration(str(project / "own.jsonl"))
    tuned = replace(INT8, calibration=own, tuning=Tuning(outliers=8))
    expected = {"recipe": "int8@onnx", "calibration": "own.jsonl", "outliers": 8}
    assert searching.settings_of(tuned, config) == expected
    (project / "deep").mkdir(exist_ok=True)
    deep = config.model_copy(update={"folder": project / "deep"})
    assert searching.settings_of(tuned, deep)["calibration"] == "../own.jsonl"
    suite = replace(INT8, calibration=config.calibration("core"))
    assert searching.settings_of(suite, config) == {"recipe": "int8@onnx", "calibration": "core"}
    assert searching.settings_of(INT8, config) == {"recipe": "int8@onnx"}
