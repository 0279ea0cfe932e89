"""Bounds as values, and what is advised of typed facts."""

from __future__ import annotations

import math

import pytest

from qguard.gates.check import Check
from qguard.judging.cause import Cause
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from qguard.report import advice, as_markdown
from qguard.report.headline import headline
from qguard.report.terminal import failure_text, summary_lines

AT_LEAST, AT_MOST = Bound(">=", 0.9), Bound("<=", 0.1)
LOSS = Cause.of("loss", {"fp32": "fp32@onnx", "texts": 64, "change": 3e-7, "quantized": ["model"]})
STACK = Cause.of(
    "stack",
    {
        "fp32": "fp32@onnx", "texts": 64, "change": 4e-3, "drift": 1e-4, "loss": 1e-3, "versions": ["torch 1 → 2"],
        "command": "qguard golden update",
    },
)  # fmt: skip
FAR = {"fp32": "fp32@onnx", "texts": 64, "change": 3e-7, "precision": "int8", "mean_cosine": 0.1, "least_cosine": 0.9}
ANOTHER = Cause.of("artifact", FAR)


def test_the_bound_itself_holds_and_nan_never_does():
    for bound, good, bad in ((AT_LEAST, 0.91, 0.89), (AT_MOST, 0.09, 0.11)):
        assert [bound.holds(v) for v in (bound.number, good, bad, math.nan)] == [True, True, False, False]
        assert bound.margin(good) == pytest.approx(0.01)
        assert bound.margin(bad) == pytest.approx(-0.01)


def test_laxer_is_what_lets_more_pass():
    assert Bound(">=", 0.8).laxer(AT_LEAST)
    assert Bound("<=", 0.2).laxer(AT_MOST)
    assert not AT_LEAST.laxer(AT_LEAST)
    assert not Bound(">=", 0.95).laxer(AT_LEAST)
    assert not Bound("<=", 0.05).laxer(AT_MOST)
    assert AT_MOST.laxer(AT_LEAST)
    assert AT_LEAST.laxer(AT_MOST)


def test_the_bound_that_a_value_just_passes_is_rounded_to_its_side():
    assert AT_LEAST.passing(0.87659) == Bound(">=", 0.8765)
    assert AT_MOST.passing(0.12341) == Bound("<=", 0.1235)
    assert AT_LEAST.passing(0.87659).holds(0.87659)


def test_text_has_six_digits_unless_all_are_asked_for():
    bound = Bound(">=", 0.91234551)
    assert (str(bound), bound.exact, bound.printed.number) == (">= 0.912346", ">= 0.91234551", 0.912346)
    assert (str(Bound(">=", 1)), Bound(">=", 1.0).exact) == (">= 1", ">= 1")
    assert AT_LEAST.to_json() == {"op": ">=", "number": 0.9, "text": ">= 0.9"}


@pytest.mark.parametrize(
    "value",
    [
        None, ">= 0.9", 0.9, [">=", 0.9], {"op": ">", "number": 0.9}, {"op": ">="}, {"op": [], "number": 1},
        {"op": ">=", "number": "0.9"}, {"op": ">=", "number": True}, {"op": ">=", "number": math.nan},
        {"op": ">=", "number": -math.inf}, {"op": ">=", "number": 10**400},
    ],
)  # fmt: skip
def test_json_that_is_no_bound_is_refused(value):
    with pytest.raises(ValueError, match="expected a bound such as"):
        Bound.from_json(value)


def failed(name: str, **more) -> Check:
    return Check(name, "own", None, 0.8, AT_LEAST, "fail", -0.1, 9, **more)


def commands(*checks: Check, vectors: str = "float32", **facts) -> list[str]:
    case = advice.Case("int8", "int8@onnx", vectors, "own", checks, **facts)
    return [step.command for step in advice.steps(case)]


COMPARE = "qguard compare --precision int8@onnx,int8,int8-weight,bf16@openvino --suite own"
AGREE = '[tool.qguard.gates.int8] "{}" = ">= 0.8000"'


def test_what_to_do_follows_from_the_check_and_the_cause():
    ranking = failed("ranking.top1")
    agree = AGREE.format("ranking.top1")
    assert commands(ranking, cause=STACK, diagnose="look") == ["qguard golden update"]
    assert commands(ranking, cause=LOSS, diagnose="look") == ["look", COMPARE, agree]
    assert commands(ranking, cause=LOSS) == [COMPARE, agree]
    assert commands(ranking, cause=ANOTHER, diagnose="look") == ["look"]
    assert commands(ranking, fp32="fp32") == ["pytest --precision fp32 --qguard-suite own", COMPARE, agree]
    assert commands(failed("robustness.order"), fp32="fp32") == [COMPARE, AGREE.format("robustness.order")]
    assert commands(failed("artifact.granularity")) == ["qguard quantize --precision int8@onnx --out DIR"]
    assert commands(failed("latency.speedup")) == ["qguard calibrate"]
    assert commands(failed("memory.ratio")) == [AGREE.format("memory.ratio")]
    assert commands(failed("latency.speedup"), ranking, cause=LOSS) == [COMPARE, "qguard calibrate", agree]
    assert commands(failed("ranking.top1", accepted="accepted 0.9")) == [
        'qguard accept --precision int8@onnx --suite own --lower --reason "…"'
    ]
    assert commands(ranking, vectors="binary", cause=LOSS) == [
        "pytest --precision int8@onnx,fp32+binary --qguard-suite own",
        COMPARE.replace("int8@onnx,", "int8@onnx+binary,"),
        '[tool.qguard.gates."int8+binary"] "ranking.top1" = ">= 0.8000"',
    ]


def test_terminal_and_markdown_give_the_same_advice():
    check = failed("ranking.top1")
    run = {
        "model": "m", "suite": "own", "precision": "int8", "runtime": "onnx", "vectors": "float32", "verdict": "fail",
        "missing": [], "errors": [], "checks": [check.to_json()], "latency": [], "cause": LOSS.to_json(),
    }  # fmt: skip
    report = {"schema": 2, "verdict": "fail", "runs": [run]}
    first, *_, last = headline(run).steps
    shown = as_markdown.render(report).decode()
    text = failure_text(parse_precision("int8"), "own", [check], [], cause=LOSS, diagnose=first.command)
    for step in (first, last):
        assert f": `{step.command}`" in shown
        assert step.words in shown
        assert f"  do:     {step.words[0].lower()}{step.words[1:]}:\n          {step.command}\n" in text
    assert f"  do:     {first.words[0].lower()}{first.words[1:]}:" in "\n".join(summary_lines(report))


def test_a_command_names_the_suite_where_the_items_are_generated():
    check = failed("robustness.order_cosine_min", worst=("a text",))
    text = failure_text(parse_precision("int8"), "own", [check], [], items="generated text")
    assert "--suite own\n" in text
    assert "worst by robustness.order_cosine_min (9 items of generated text):" in text


def test_a_cause_stands_alone_or_beside_its_steps():
    assert advice.why(LOSS) == advice.told(LOSS) == LOSS.text
    assert advice.why(STACK) == STACK.text
    assert advice.told(STACK) == f"{STACK.text}. Review the change, then record the golden again: qguard golden update"
    assert "rounding to int8 keeps it at 0.9 or above" in ANOTHER.text
    assert advice.why(ANOTHER) == f"{ANOTHER.text}. {advice.CHECK}"
    assert advice.told(None) == ""


def test_a_number_that_json_lacks_is_not_known():
    cause = Cause.of("stack", {**STACK.facts, "change": math.nan})
    assert cause.to_json()["facts"]["change"] is None
    assert "change" not in Cause.from_json(cause.to_json()).facts
