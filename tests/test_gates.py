from __future__ import annotations

from dataclasses import replace

import pytest

from qguard.config import load_config
from qguard.config.tables import GateConfig
from qguard.encoders.runtimes import ENDPOINT, RUNTIMES
from qguard.endpoints.settings import Endpoint
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.gates import gates_for, parse_gate
from qguard.gates.check import Check, judge
from qguard.kinds import KINDS, MULTI_VECTOR
from qguard.metrics import Measured
from qguard.metrics.bootstrap import Uncertainty
from qguard.metrics.bounds import Bound
from qguard.precisions import Precision, parse_precision, precision_at
from qguard.precisions.bounds import DEFAULT_BOUNDS
from qguard.report.advice import Case, shadowed_gates, steps
from qguard.report.findings import gate_line
from qguard.tolerances import name_of
from qguard.vectors.quantized import FLOAT


@pytest.mark.parametrize("precision", DEFAULT_BOUNDS)
def test_every_default_gate_parses(precision):
    assert gates_for(parse_precision(f"fp32{precision}" if precision.startswith("+") else precision), {})


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UsageProblem, match=r"did you mean.*ranking\.overlap@10"):
        parse_gate("ranking.overlap@1", ">= 0.9")


@pytest.mark.parametrize("bound", ["0.9", "> 0.9", ">= high", ">= nan", ">= 1e999", ""])
def test_a_bound_that_is_no_bound_is_refused(bound):
    with pytest.raises(UsageProblem, match="expected a bound"):
        parse_gate("ranking.top1", bound)


def test_nan_never_passes():
    for op in (">= 0", "<= 1"):
        (check,) = judge([Measured("ranking.top1", None, float("nan"), 1, True)], [parse_gate("ranking.top1", op)], "s")
        assert check.outcome == "fail"


def gated(bound, on, low, high, value=0.95):
    """The check of one value with an interval, under a gate on its value or on an end."""
    spread = Uncertainty(low, high, 0.01, "because")
    measured = Measured("ranking.top1", None, value, 60, True, uncertainty=lambda: spread, noun="queries")
    return judge([measured], [parse_gate("ranking.top1", GateConfig(bound=bound, on=on))], "s")[0]


def test_a_gate_on_the_lower_end_asks_for_it():
    on_value, on_end = gated(">= 0.9", "value", 0.89, 0.98), gated(">= 0.9", "lower", 0.89, 0.98)
    assert (on_value.outcome, on_value.judged, on_value.margin) == ("pass", 0.95, pytest.approx(0.05))
    assert (on_end.outcome, on_end.judged, on_end.margin) == ("fail", 0.89, pytest.approx(-0.01))
    assert gated(">= 0.9", "lower", 0.91, 0.98).outcome == "pass"
    assert gated("<= 0.96", "upper", 0.91, 0.98).outcome == "fail"
    assert on_end.to_json()["interval"] == [0.89, 0.98]


def test_an_end_that_is_not_there_is_not_measured():
    with pytest.raises(MeasurementProblem, match=r"on = \"lower\", and there is no interval: because"):
        gated(">= 0.9", "lower", None, None)


def test_a_gate_nearer_than_the_suite_resolves_is_flagged_in_words():
    assert gated(">= 0.94", "value", 0.93, 0.97).unresolved == "60 queries cannot tell 0.95 from 0.94: they resolve 0.025"
    assert gated(">= 0.9", "value", 0.93, 0.97).unresolved == ""
    assert gated(">= 0.94", "value", 0.93, 0.97).outcome == "pass"


@pytest.mark.parametrize(
    ("key", "bound", "on", "message"),
    [
        ("ranking.top1", "<= 0.9", "lower", 'expected on = "upper"'),
        ("ranking.top1", ">= 0.9", "upper", 'expected on = "lower"'),
        ("embedding.cosine_min", ">= 0.9", "lower", "embedding.cosine_min has none"),
        ("artifact.size_ratio", "<= 0.3", "upper", "artifact.size_ratio has none"),
        ("invariance.order", ">= 0.3", "lower", "invariance.order has none"),
    ],
)
def test_an_end_that_no_gate_can_judge_is_refused(key, bound, on, message):
    with pytest.raises(UsageProblem, match=message):
        parse_gate(key, GateConfig(bound=bound, on=on))


def test_both_forms_of_a_gate_are_read(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.qguard.gates.int8]\n"ranking.top1" = ">= 0.9"\n"ranking.rbo" = {bound = ">= 0.8", on = "lower"}\n')
    gates = {g.metric: g for g in gates_for(parse_precision("int8"), load_config(file).gates)}
    assert (gates["ranking.top1"].bound, gates["ranking.top1"].on) == (Bound(">=", 0.9), "value")
    assert (gates["ranking.rbo"].bound, gates["ranking.rbo"].on) == (Bound(">=", 0.8), "lower")
    for wrong, message in (
        ("{bound = '>= 0.8', at = 'lower'}", "unknown key"),
        ("{on = 'lower'}", "bound"),
        ("7", "ranking.rbo"),
    ):
        file.write_text(f'[tool.qguard.gates.int8]\n"ranking.rbo" = {wrong}\n')
        with pytest.raises(UsageProblem, match=message):
            load_config(file)


def test_intervals_of_slices_are_computed_only_where_they_are_shown_or_judged():
    asked = []

    def values():
        for part in (None, "legal"):
            yield Measured(
                "ranking.top1", part, 0.95, 9, True, uncertainty=lambda s=part: asked.append(s) or Uncertainty(0.9, 1, 0.1)
            )

    judge(values(), [parse_gate("ranking.top1", ">= 0.9"), parse_gate("ranking.top1[*]", ">= 0.5")], "s")
    assert asked == [None]
    judge(values(), [parse_gate("ranking.top1[*]", GateConfig(bound=">= 0.5", on="lower"))], "s")
    assert asked == [None, "legal"]
    judge(values(), [], "s", intervals=True)
    assert asked == [None, "legal", None, "legal"]


def test_a_slice_gate_wins_over_the_star():
    gates = [parse_gate("ranking.top1[*]", ">= 0.9"), parse_gate("ranking.top1[legal]", ">= 0.5")]
    found = judge([Measured("ranking.top1", s, 0.6, 1, True) for s in ("legal", "news", None)], gates, "s")
    assert [c.outcome for c in found] == ["pass", "fail", "reported"]


@pytest.mark.parametrize(
    ("precision", "tables", "wins"),
    [
        ("int8", ("int8", "int8@onnx"), ">= 0.8"),
        ("int8@openvino", ("int8",), ">= 0.9"),
        ("int8:256", ("int8", "int8@onnx", "int8:256"), ">= 0.7"),
        ("int8+binary", ("+binary", "int8+binary"), ">= 0.5"),
    ],
)
def test_a_gate_knows_the_tables_that_set_it_and_the_last_one_wins(precision, tables, wins):
    own = {"int8": ">= 0.9", "int8@onnx": ">= 0.8", "int8:256": ">= 0.7", "+binary": ">= 0.6", "int8+binary": ">= 0.5"}
    gates = gates_for(parse_precision(precision), {name: {"ranking.top1": bound} for name, bound in own.items()})
    (gate,) = [g for g in gates if g.key == "ranking.top1"]
    assert (gate.tables, str(gate.bound)) == (tables, wins)
    assert {g.tables for g in gates if g.key != "ranking.top1"} == {()}


def checked(tables, bound=">= 0.96"):
    gate = replace(parse_gate("ranking.top1", bound), tables=tables)
    return judge([Measured("ranking.top1", None, 0.9, 10, True)], [gate], "s")[0]


def test_advice_names_the_table_that_wins_and_reports_what_it_shadows():
    def advice(tables):
        case = Case("int8", "int8@onnx", FLOAT, "s", [checked(tables)])
        return steps(case)[-1]

    shadowed = advice(("int8", "int8@onnx"))
    assert shadowed.command == '[tool.qguard.gates."int8@onnx"] "ranking.top1" = ">= 0.9000"'
    assert shadowed.words.endswith("(int8@onnx wins over int8)")
    assert advice(()).command == advice(("int8",)).command == '[tool.qguard.gates.int8] "ranking.top1" = ">= 0.9000"'
    stored = checked(("int8", "int8@onnx")).to_json()
    assert shadowed_gates([stored, checked(("int8",)).to_json(), {"name": "x"}]) == [
        "ranking.top1: several tables of [tool.qguard.gates] set the bound; int8@onnx wins over int8"
    ]
    assert Check.from_json(stored) == checked(("int8", "int8@onnx"))


def test_advice_on_an_index_names_the_index_and_no_layer():
    short = replace(checked(()), name="index.hits", slice="graph 1%")
    commands = [step.command for step in steps(Case("int8", "int8", FLOAT, "s", [short], diagnose="qguard diagnose"))]
    assert commands[0] == "qguard index sweep --index graph --precision int8"
    assert not any(command.startswith("qguard diagnose") for command in commands)


def test_the_annotated_line_is_that_of_the_table_that_wins():
    lines = [
        "[tool.qguard.gates.int8]",
        '"ranking.top1" = ">= 0.9"',
        '[tool.qguard.gates."int8@onnx"]',
        '"ranking.top1" = ">= 0.96"',
    ]
    run = {"precision": "int8", "runtime": "onnx", "vectors": FLOAT}
    assert gate_line(lines, run, "ranking.top1", ("int8", "int8@onnx")) == 4
    assert gate_line(lines, run, "ranking.top1", ("int8",)) == 2


def test_tolerances_write_where_the_bound_has_effect():
    own = Precision("mine", "onnx", base="int8")
    assert (name_of(own), name_of(own, {"mine@onnx"}), name_of(parse_precision("int8"))) == ("mine", "mine@onnx", "int8@onnx")


@pytest.mark.parametrize("kind", [k for k in KINDS if k != MULTI_VECTOR])
@pytest.mark.parametrize("base", ["int8", "int8@openvino", "fp16"])
def test_a_server_has_the_gates_of_what_it_should_compute(kind, base):
    def bounds(precision):
        return {g.metric: g.bound for g in gates_for(precision, {}, kind=kind)}

    served, own = bounds(precision_at(Endpoint("live", "http://localhost"), base)), bounds(parse_precision(base))
    no_words = RUNTIMES.find(ENDPOINT).cannot_measure
    assert served == {metric: bound for metric, bound in own.items() if not no_words(metric)}
