"""The registry of metric families: what asks for the checks that exist asks it, and a family that lacks a piece is an error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qguard.families import FAMILIES, Family, infos, metric_names
from qguard.gate import test_quantization as gate
from qguard.judging.session import Target
from qguard.metrics import MetricInfo
from qguard.precisions import parse_precision
from qguard.precisions.bounds import DEFAULT_BOUNDS
from qguard.registry import Registry
from qguard.report import CURRENT, assemble

WHOLE = FAMILIES["embedding"]


def test_every_family_has_its_test_in_the_gate_and_every_test_a_family():
    tests = {name for name in vars(gate) if name.startswith("test_")}
    assert tests == {CURRENT} | {f.test for f in FAMILIES.values()}
    for f in FAMILIES.values():
        if f.test != "test_latency":
            assert getattr(gate, f.test).__name__ == f.test


def test_every_default_bound_is_on_a_metric_of_a_family():
    bounded = {key.partition("[")[0] for table in DEFAULT_BOUNDS.values() for key in table}
    assert bounded <= set(metric_names())
    assert set(metric_names()) < set(infos())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Has Spaces"}, "expected lower-case letters"),
        ({"question": ""}, "does not say what it measures"),
        ({"test": ""}, "no gate test judges it"),
        ({"needs": ()}, "does not say what it needs"),
        ({"needs": ("luck",)}, "it needs luck, which qguard does not know"),
        ({"metrics": ()}, "it has no metrics"),
        ({"metrics": FAMILIES["ranking"].metrics}, "is not named embedding.SOMETHING"),
        ({"bounded_by": ""}, "no bound judges it"),
        ({"bounds": {"embedding.luck": ">= 1"}}, "bounds 'embedding.luck', which is not one of its metrics"),
        ({"parts": ""}, "does not say how its values are computed"),
        ({"judge": "a:b"}, "does not say how its values are computed"),
    ],
)
def test_a_family_that_lacks_a_piece_says_which(change, words):
    assert not list(WHOLE.lacks())
    assert any(words in said for said in replace(WHOLE, **change).lacks())


@pytest.mark.parametrize("part", ["unit", "description", "source"])
def test_a_metric_without_unit_description_or_source_is_refused(part):
    facts = {"unit": "texts", "description": "what it says", "source": "qguard"}
    metric = MetricInfo("embedding.new", higher_is_better=True, **facts | {part: ""})
    assert f"its metric embedding.new has no {part}" in list(replace(WHOLE, metrics=(metric,)).lacks())


def test_a_registry_refuses_an_incomplete_record_and_a_second_of_one_name():
    from qguard.errors import RegistryProblem, UsageProblem

    def registry(*records: Family) -> Registry[Family]:
        return Registry("metric family", "qguard.no_such_group", Family, lambda: records)

    assert list(registry(WHOLE)) == ["embedding"]
    with pytest.raises(RegistryProblem, match="'embedding' of qguard is not complete: no gate test judges it"):
        len(registry(replace(WHOLE, test="")))
    with pytest.raises(RegistryProblem, match="that name is taken already"):
        len(registry(WHOLE, WHOLE))
    with pytest.raises(UsageProblem, match="unknown metric family 'embeding'; did you mean embedding"):
        registry(WHOLE).find("embeding")


def test_a_target_is_judged_in_the_families_whose_needs_it_meets(harness):
    def names(precision: str, suite: str) -> list[str]:
        return [f.name for f in harness.families(Target(parse_precision(precision), "minilm", suite))]

    always = ["artifact", "embedding", "similarity", "ranking", "invariance"]
    assert [n for n in names("int8", "own") if n in always] == always
    assert "robustness" not in names("fp32+int8", "own")  # the model is that of the plain precision


def test_a_family_without_a_record_of_its_test_is_missing_from_the_verdict():
    target = {"model": "m", "precision": "int8", "runtime": "onnx", "vectors": "float32", "suite": "s"}
    check = {"name": "ranking.top1", "outcome": "pass", "bound": None}
    record = {"target": target, "gate": CURRENT, "checks": [check], "done": True}
    (run,) = assemble([{**target, "tests": ["test_embeddings"]}], [record])["runs"]
    assert (run["verdict"], run["missing"]) == ("unmeasured", ["test_embeddings"])


def test_no_family_takes_over_the_test_of_another():
    from qguard.errors import RegistryProblem
    from qguard.families import Families

    taken = replace(WHOLE, test="test_ranking")
    registry = Families("metric family", "qguard.no_such_group", Family, lambda: [taken, FAMILIES["ranking"]])
    with pytest.raises(RegistryProblem, match="'embedding' and 'ranking' have the same gate test: test_ranking"):
        len(registry)


@pytest.fixture
def asked(harness, monkeypatch):
    """Another package's family ``extra`` beside qguard's own: ``asked(**fields)`` gives a target that it judges."""

    def register(**fields) -> Target:
        metric = MetricInfo("extra.value", higher_is_better=True, unit="score", description="what it says", source="qguard")
        record = {"name": "extra", "question": "?", "test": "test_extra", "needs": ("vectors",), "metrics": (metric,)}
        extra = Family(**record | {"bounded_by": "itself", "judge": lambda session, target: []} | fields)
        assert not list(extra.lacks())
        monkeypatch.setattr(FAMILIES, "_parts", {**FAMILIES, "extra": extra})
        return Target(parse_precision("int8"), "minilm", "core")

    return register


def test_a_family_that_gives_no_value_is_not_measured(harness, asked):
    from qguard.errors import MeasurementProblem

    target = asked()
    with pytest.raises(MeasurementProblem, match="the metric family 'extra' gave no value"):
        harness.checks(target, "extra")


@pytest.mark.parametrize("needs", [("vectors",), ("process",)])
def test_the_report_expects_the_test_of_every_family_that_judges(harness, asked, needs):
    from qguard.judging.families import families_of, tests_of

    target = asked(needs=needs)
    assert "extra" in [f.name for f in families_of(harness, target)]
    assert "test_extra" in tests_of(harness, target)
