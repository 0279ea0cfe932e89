"""A verdict leads with separate answers, and a speed that was not measured is nowhere taken for one."""

from __future__ import annotations

import pytest

from qguard.judging.compare import Row, mark_best, table
from qguard.metrics.bounds import Bound
from qguard.plugin.outputs import properties
from qguard.report.answers import answers, sentences
from qguard.report.as_html import render as as_html
from qguard.report.as_html import view
from qguard.report.as_markdown import render as as_markdown
from qguard.report.findings import findings
from qguard.report.shape import checked
from qguard.report.terminal import summary_lines

BOUND = Bound(">=", 0.9).to_json()
BUSY = "speed: not measured, machine too busy\n    latency.speedup[64x1]: no pair in 10.2 s; machine too busy: 80% of the runs …"


def check(name, outcome="pass", part=None, bound=BOUND):
    value = 0.95 if outcome != "fail" else 0.5
    return {
        "name": name, "suite": "own", "slice": part, "value": value, "bound": bound, "outcome": outcome,
        "margin": None if bound is None else value - 0.9, "items": 9, "worst": ["a text"], "on": "value", "interval": None,
        "interval_note": "", "detectable": None, "unresolved": "", "accepted": None, "origin": "", "promised": None,
    }  # fmt: skip


def trial(bucket, outcome, ratio):
    return {
        "metric": "latency.speedup", "bucket": bucket, "outcome": outcome, "ratio": ratio, "interval": [None, None],
        "baseline_ms": 2.0, "candidate_ms": 1.0, "pairs": 4, "sessions": 2, "suspicious": False, "ratios": [ratio],
    }  # fmt: skip


def run_of(*checks, missing=(), errors=(), latency=(), left_out=()):
    verdict = "fail" if any(c["outcome"] == "fail" for c in checks) else "unmeasured" if missing else "pass"
    return {
        "model": "m", "precision": "int8", "runtime": "onnx", "vectors": "float32", "suite": "own", "verdict": verdict,
        "missing": list(missing), "errors": list(errors), "checks": list(checks), "latency": list(latency),
        "left_out": list(left_out), "host": None, "cause": None,
    }  # fmt: skip


GOOD = (check("ranking.overlap@10"), check("artifact.quantized_ops"), check("artifact.size_ratio"))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run_of(*GOOD), "Accuracy holds. Precision holds. Size holds."),
        (run_of(*GOOD, missing=["test_latency[64x1]"], errors=[BUSY]),
         "Accuracy holds. Precision holds. Size holds. Speed not measured: machine too busy."),
        (run_of(*GOOD, check("latency.speedup", "pass", "16x1"), check("latency.speedup", "inconclusive", "64x1"),
                missing=["test_latency[64x1]"]), "Accuracy holds. Precision holds. Size holds. Speed not measured."),
        (run_of(*GOOD, check("latency.speedup", "fail", "64x1")), "Accuracy holds. Precision holds. Size holds. Speed fails."),
        (run_of(check("ranking.overlap@10", "fail"), *GOOD[1:], check("latency.speedup", "pass", "64x1")),
         "Accuracy fails. Precision holds. Size holds. Speed holds."),
        (run_of(GOOD[0], check("artifact.quantized_ops", "fail"), GOOD[2]), "Accuracy holds. Precision fails. Size holds."),
        (run_of(*GOOD, check("artifact.unit_length", "fail")), "Accuracy fails. Precision holds. Size holds."),
        (run_of(*GOOD, check("latency.speedup", "reported", "64x1", None)),
         "Accuracy holds. Precision holds. Size holds. Speed not gated."),
        (run_of(*GOOD, left_out=["latency"]), "Accuracy holds. Precision holds. Size holds. Speed left out."),
        (run_of(*GOOD[1:], missing=["test_ranking"]), "Accuracy not measured. Precision holds. Size holds."),
        (run_of(GOOD[0], missing=["test_artifact_is_quantized"]), "Accuracy holds. Precision not measured. Size not measured."),
        (run_of(*GOOD, missing=["test_of_a_package_that_is_not_here"]),
         "Accuracy not measured. Precision holds. Size holds."),
    ],
)  # fmt: skip
def test_each_question_has_its_own_answer(run, said):
    assert sentences(run) == said


def test_only_accuracy_that_was_measured_holds():
    assert answers(run_of(missing=["test_golden_is_current"])) == {"Accuracy": "not measured"}


BUSY_RUN = run_of(*GOOD, missing=["test_latency[64x1]"], errors=[BUSY])
SAID = "Accuracy holds. Precision holds. Size holds. Speed not measured: machine too busy."


def test_every_report_leads_with_the_answers(tmp_path):
    report = {"schema": 2, "qguard": "0", "verdict": "unmeasured", "runs": [BUSY_RUN], "texts": {}}
    assert SAID in " ".join(" ".join(summary_lines(report)[1:3]).split())
    markdown = as_markdown(report).decode()
    assert SAID in markdown.splitlines()[2]
    assert SAID in as_html(report).decode().split("<dl>")[0]
    (found,) = findings(report, tmp_path / "pyproject.toml", tmp_path)
    assert SAID in found["message"].splitlines()[0]
    assert ("int8@onnx/m/own/answers", SAID) in properties(report)
    assert "--qguard-latency=off" in markdown


def speed_of(*latency, missing=()):
    run = checked({"schema": 2, "qguard": "0", "verdict": "pass", "runs": [run_of(*GOOD, latency=latency, missing=missing)]})
    found = view(run["runs"][0], {}, "key")
    return found["speedup"], found["unmeasured_speed"]


def test_a_mean_over_buckets_takes_what_was_measured_and_says_what_was_not():
    assert speed_of(trial("16x1", "pass", 2.0), trial("64x1", "pass", 8.0)) == (pytest.approx(4), "")
    assert speed_of(trial("16x1", "pass", 2.0), trial("64x1", "inconclusive", 8.0)) == (2, "1 of 2 buckets")
    assert speed_of(trial("16x1", "pass", 2.0), missing=["test_latency[64x1]"]) == (2, "1 of 2 buckets")
    assert speed_of(trial("64x1", "runner unfit", 8.0)) == (None, "not measured")
    assert speed_of(trial("64x1", "reported", 3.0)) == (3, "")


def row(name, speed, busy=()):
    return Row(name, "onnx", "m", "s", {"ranking.overlap@10": 0.9}, 100, 1536, {"64x1": speed, "64x32": speed}, busy, "pass")


def test_compare_marks_a_speed_that_was_interrupted_and_does_not_rank_it():
    slow, busy = mark_best([row("slow", 1.0), row("busy", 9.0, ("64x1",))])
    assert (slow.best, busy.best) == (True, False)
    cells = [list(c.cells) for c in table([slow, busy]).columns]
    assert ["1.00", "9.00?"] in cells
    assert ["1.00", "9.00"] in cells
