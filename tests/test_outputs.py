"""What a failing and an attested run leave for people and machines: first lines, annotations, summary, code quality, JUnit."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from qguard.attest import statement
from qguard.gates.check import Check
from qguard.judging.cause import Cause
from qguard.metrics.bounds import Bound
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.report import CURRENT, as_codequality, as_markdown, assemble
from qguard.report.findings import findings, gate_line
from qguard.report.github import MOST, commands
from qguard.report.terminal import failure_text

OWN_TEST = """
def test_nothing_of_this_kind_is_found(qguard_target, qguard_encoder):
    a, b = qguard_encoder.encode(["a: b, c", "100 %"])
    assert a @ b > 2, "a: 100 % of, everything"
"""


@pytest.fixture(scope="module")
def run_in_ci(small, fp32_onnx, tmp_path_factory):
    """One failing run of a per-tensor file on GitHub, in 80 columns, with everything written: (folder, output)."""
    folder = tmp_path_factory.mktemp("ci") / "repository"
    shutil.copytree(small, folder / "models")
    project = folder / "models"
    gates = '\n[tool.qguard.gates.int8]\n# what users agreed to\n"ranking.overlap@10" = ">= 0.95"\n'
    (project / "pyproject.toml").write_text((project / "pyproject.toml").read_text() + gates)
    (project / "test_own.py").write_text(OWN_TEST)
    quantize(fp32_onnx, project / "pt.onnx", per_channel=False)
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {
        "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(folder), "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7", "COLUMNS": "80",
    }  # fmt: skip
    (folder / "summary.md").write_text("# another step's\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--precision", "int8"]
    command += ["--artifact=pt.onnx", "--qguard-attest=v.json", "--junitxml=j.xml"]
    command += [f"--qguard-report={name}" for name in ("r.json", "r.md", "r.codequality.json")]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    return project, done.stdout


def test_the_first_ten_lines_of_a_failure_say_what_by_how_much_on_which_text_and_what_to_do(run_in_ci):
    _, out = run_in_ci
    lines = out.splitlines()
    start = next(i for i, x in enumerate(lines) if x.startswith("int8 ranking.overlap@10"))
    first = lines[start : start + 10]
    assert all(len(x) <= 80 for x in first), first
    text = "\n".join(first)
    assert re.search(r"int8 ranking.overlap@10 0\.\d+, gate >= 0.95, missed by 0\.\d+ \(\+\d+ more\)\n", text), text
    assert re.search(r"\n  worst:  overlap 0\.\d '.*':\s+first", text), text
    assert "\n  why:    loss by quantization: fp32@onnx still reproduces" in text
    assert "\n  do:     see where accuracy is lost: qguard diagnose --precision int8 --artifact pt.onnx\n" in text.replace(
        ":\n          qguard", ": qguard"
    )
    assert '[tool.qguard.gates.int8] "ranking.overlap@10" = ">= 0.' in text


def test_the_first_ten_lines_of_the_summary_say_it_too(run_in_ci):
    _, out = run_in_ci
    first = out.partition("qguard: FAIL")[2].splitlines()[1:11]
    text = "\n".join(first)
    assert first[0].startswith("int8@onnx  minilm  own: FAIL")
    assert re.search(r"FAIL    ranking.overlap@10 0\.\d+, gate >= 0.95, missed by 0\.\d+ \(\+\d+ more\)", text), text
    assert re.search(r"worst:  “.+ keeps \d of its 10", text, re.S)
    assert "why:    loss by quantization" in text
    assert "do:     " in text
    assert all(len(x) <= 80 for x in first), first


@pytest.mark.parametrize("precision", ["int8", "int8-weight@torch"])
def test_a_long_text_leaves_room_for_what_to_do_within_ten_lines(precision):
    worst = "overlap 0.3 'a text that goes on and on, " + "with many words more " * 9 + "': is '" + "y" * 200 + "'"
    check = Check("ranking.overlap@10", "core", None, 0.7842, Bound(">=", 0.96), "fail", -0.1758, 1440, (worst,))
    cause = Cause.of("loss", {"fp32": "fp32@onnx", "texts": 63, "change": 3e-7, "quantized": ["model"]})
    diagnose = "qguard diagnose --precision int8-dynamic@onnx --artifact some/folder/model.onnx"
    asked = parse_precision(precision)
    lines = failure_text(asked, "core", [check, check], [], cause=cause, diagnose=diagnose).splitlines()
    first = lines[:10]
    assert all(len(x) <= 90 for x in first), first
    assert f"{precision} ranking.overlap@10 0.7842, gate >= 0.96" in first[0]
    assert "missed by 0.1758" in f"{first[0]} {first[1]}"
    assert [x.split(":")[0].strip() for x in first if re.match("  [a-z]+:", x)] == ["worst", "why", "do", "do"]
    assert '"ranking.overlap@10" = ">= 0.7842"' in f"{first[-1]} {first[-2]}"
    assert f"    {worst}" in lines  # whole, below


def test_every_report_says_what_is_judged_and_where_it_comes_from(run_in_ci):
    project, out = run_in_ci
    parts = {p["name"]: p for p in json.loads((project / "r.json").read_text())["runs"][0]["judged"]}
    assert (parts["file"]["value"], parts["file"]["source"]) == ("pt.onnx", "the file that was given")
    assert (parts["output"]["source"], parts["tokenizer"]["source"]) == ("the name last_hidden_state", "model")
    assert "judged: file pt.onnx (the file that was given)" in out
    assert "judged: kind dense (one vector to a text); runtime onnx" in out
    properties = {p.get("name"): p.get("value") for p in ET.parse(project / "j.xml").iter("property")}
    assert properties["int8@onnx/minilm/own/kind"] == "dense"
    assert re.search(r"- Judged: file pt.onnx \(the file that was given\)", (project / "r.md").read_text().replace("\\", ""))


def test_annotations_lie_on_the_gates_line_and_on_the_users_test(run_in_ci):
    project, out = run_in_ci
    found = [x for x in out.splitlines() if x.startswith("::error ")]
    lines = (project / "pyproject.toml").read_text().splitlines()
    gate, table = lines.index('"ranking.overlap@10" = ">= 0.95"') + 1, lines.index("[tool.qguard]") + 1
    assert 3 <= len(found) <= MOST
    ranking = next(x for x in found if "ranking.overlap@10" in x)
    assert ranking.startswith(f"::error file=models/pyproject.toml,line={gate},title=int8@onnx ranking.overlap@10 0.")
    assert "%2C gate >= 0.95::" in ranking
    assert re.search(r"%0Aworst text: “.+” keeps \d of its 10 neighbors", ranking)
    assert any(x.startswith(f"::error file=models/pyproject.toml,line={table},title=int8@onnx similarity.") for x in found)
    (own,) = (x for x in found if "test_own.py" in x)
    assert own.startswith("::error file=models/test_own.py,line=2,title=test_own.py%3A%3Atest_nothing_of_this_kind")
    assert "a: 100 %25 of, everything" in own


def test_the_jobs_summary_is_appended_verdict_first(run_in_ci):
    project, _ = run_in_ci
    text = (project.parent / "summary.md").read_text()
    assert text.startswith("# another step's\n## ❌ qguard: FAIL\n")
    assert text == "# another step's\n" + (project / "r.md").read_text() + "\n"
    assert re.search(r"- `ranking.overlap@10` .*\*\*missed by 0\.\d+\*\*", text)
    assert "| ❌ | `ranking.overlap@10` |" in text
    assert re.search(r"- worst: `“.+” keeps \d of its 10", text)


def test_code_quality_has_what_gitlab_demands(run_in_ci):
    project, _ = run_in_ci
    issues = json.loads((project / "r.codequality.json").read_text())
    assert {i["location"]["path"] for i in issues} == {"models/pyproject.toml", "models/test_own.py"}
    assert len({i["fingerprint"] for i in issues}) == len(issues)
    for i in issues:
        assert set(i) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert i["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert i["location"]["lines"]["begin"] >= 1


def test_junit_keeps_values_where_schemas_know_properties(run_in_ci):
    """The schema of Jenkins' xUnit plugin, junit-10: properties belong to a test suite, and a test case has none."""
    project, _ = run_in_ci
    root = ET.parse(project / "j.xml").getroot()
    cases = {"skipped", "error", "failure", "system-out", "system-err"}
    assert {e.tag for case in root.iter("testcase") for e in case} <= cases
    found = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert found["qguard.verdict"] == "fail"
    assert re.fullmatch(r"0\.\d+ \(>= 0.95: fail\)", found["int8@onnx/minilm/own/ranking.overlap@10"])
    suite = root.find("testsuite")
    assert suite is not None
    assert {e.tag for e in suite} <= {"properties", "testcase"}


def test_a_failing_run_attests_that_it_failed(run_in_ci):
    project, out = run_in_ci
    made = json.loads((project / "v.json").read_text())
    predicate = made["predicate"]
    assert predicate["result"] == "FAILED"
    assert {"own/test_ranking", "own/test_embeddings"} <= set(predicate["failedTests"])
    assert any("test_nothing_of_this_kind_is_found" in t for t in predicate["failedTests"])
    assert predicate["url"] == "https://github.example/a/b/actions/runs/7"
    assert [s["name"] for s in made["subject"]] == ["pt.onnx"]
    assert "v.json says FAILED: own/test_artifact_is_quantized" in out


def test_a_statement_holds_no_text_and_no_name_of_a_host(run_in_ci):
    import platform

    project, _ = run_in_ci
    text = (project / "v.json").read_text()
    said = [json.loads(line)["text"] for line in (project / "own.jsonl").read_text().splitlines()]
    assert not [t for t in said if t[:30] in text or json.dumps(t)[1:30] in text]
    assert platform.node() not in text
    assert str(project) not in text


def test_a_statement_is_what_the_in_toto_specification_says(run_in_ci):
    """Read by in-toto's own bindings, strictly: a field that the specification does not have would be an error."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    project, _ = run_in_ci
    made = json.loads((project / "v.json").read_text())
    Statement.copy_from_pb(json_format.ParseDict(made, statement_pb2.Statement())).validate()
    predicate = json_format.ParseDict(made["predicate"], TestResult())
    assert (predicate.result, made["predicateType"]) == ("FAILED", "https://in-toto.io/attestation/test-result/v0.1")
    for resource in predicate.configuration:
        ResourceDescriptor.copy_from_pb(resource).validate()
        assert resource.uri or resource.digest["sha256"]


TARGET = {"model": "m", "precision": "int8", "runtime": "onnx", "vectors": "float32", "suite": "s"}
TESTS = ("test_artifact_is_quantized", "test_embeddings", "test_similarity", "test_ranking", "test_invariance")
GATES = (CURRENT, *TESTS)
CHECK = {
    "name": "ranking.top1", "suite": "s", "slice": None, "value": 0.9, "bound": Bound(">=", 0.8).to_json(), "outcome": "pass",
    "margin": 0.1, "items": 9, "worst": [], "on": "value", "interval": None, "accepted": None, "promised": None,
}  # fmt: skip
FILES = {"m.onnx": "a" * 64}
EVIDENCE = {
    "files": FILES, "model": {"name": "m", "weights": "b" * 64, "tokenizer": "t", "pipeline": "p"}, "precision": {}, "host": {},
    "suite": {"name": "s", "sha256": "c" * 64, "texts": 9, "slices": []}, "scope": {}, "gates": {}, "settings": {},
    "golden": {"manifest": "d" * 64, "data": "e" * 64, "date": "2026-01-01"},
}  # fmt: skip


def records(*left_out: str, **change) -> list[dict]:
    """What a whole passing run leaves behind, without some tests."""
    names = [g for g in GATES if g not in left_out]
    return [{"target": TARGET, "gate": g, "checks": [CHECK | change], "done": True, "shipped": True} for g in names]


def verdict(found: list[dict], *, evidence=(EVIDENCE,), files=FILES, others=()) -> tuple[str, list[str]]:
    report = assemble([{**TARGET, "tests": TESTS}], found)
    predicate = statement(report, list(evidence), files, others)["predicate"]
    return predicate["result"], predicate["failedTests"]


def test_only_a_whole_run_over_unchanged_files_passes():
    assert verdict(records()) == ("PASSED", [])
    assert verdict(records("test_ranking")) == ("FAILED", ["s/test_ranking"])
    assert verdict([]) == ("FAILED", sorted(f"s/{g}" for g in GATES))
    assert verdict(records(outcome="fail"))[0] == "FAILED"
    assert verdict(records(), evidence=()) == ("FAILED", ["s/evidence"])
    assert verdict(records(), files={"m.onnx": "0" * 64}) == ("FAILED", ["s/files: the artifact changed during the run"])
    assert verdict(records(), others=["test_own.py::test_a"]) == ("FAILED", ["test_own.py::test_a"])


def test_a_test_of_ones_own_does_not_stand_for_the_gates():
    own = [r | {"shipped": r["gate"] != "test_ranking"} for r in records()]
    assert verdict(own) == ("FAILED", ["s/test_ranking"])


def test_the_date_is_utc():
    moment = datetime.datetime(2026, 3, 1, 1, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    made = statement(assemble([{**TARGET, "tests": TESTS}], records()), [EVIDENCE], FILES, (), moment)
    assert made["predicate"]["configuration"][0]["annotations"]["qguard"]["date"] == "2026-02-28T23:30:00Z"


def test_attest_is_of_one_artifact_and_needs_a_precision(small):
    for args, message in (
        (["--precision", "int8,bf16"], "a verdict is of one artifact, and this run judges 2: int8 of minilm, bf16 of minilm"),
        ([], "--qguard-attest needs --precision"),
    ):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--qguard-attest=v.json", *args]
        done = subprocess.run(command, cwd=small, capture_output=True, text=True, check=False)
        assert (done.returncode, message in done.stderr) == (4, True), done.stderr
    assert not (small / "v.json").exists()


def test_commands_escape_what_github_would_read():
    one = {"file": "a,b:c.toml", "line": 3, "check": "x", "title": "t: 5 %, more", "message": "one\r\n::error::two %"}
    (line,) = commands([one])
    assert line == "::error file=a%2Cb%3Ac.toml,line=3,title=t%3A 5 %25%2C more::one%0D%0A\\x3a:error::two %25"
    many = commands([one] * 13)
    assert len(many) == MOST
    assert many[-1] == "::error title=qguard::and 4 more failures; the log and the report have them all"
    assert commands([one | {"file": None}])[0].startswith("::error title=")
    assert commands([one | {"level": "warning"}])[0].startswith("::warning file=")


@pytest.mark.parametrize(
    ("label", "line"),
    [("ranking.top1", 7), ("ranking.overlap@10[legal]", 8), ("ranking.overlap@10[social]", 9), ("latency.speedup[64x1]", 11),
     ("similarity.bias", 2), ("ranking.rbo", 2)],
)  # fmt: skip
def test_a_gates_line_is_found(label, line):
    text = """[tool.ruff]
[tool.qguard]
golden = "golden"
[tool.qguard.gates.int4]
"ranking.top1" = ">= 0.1"
[tool.qguard.gates."int8@onnx"]  # ours
ranking.top1 = ">= 0.9"
"ranking.overlap@10[legal]" = ">= 0.9"
'ranking.overlap@10[*]' = {bound = ">= 0.9"}
[tool.qguard.latency]
speedup = ">= 1.5"
""".splitlines()
    assert gate_line(text, TARGET, label) == line


def test_a_finding_outside_the_repository_names_no_file(tmp_path):
    report = assemble([{**TARGET, "tests": TESTS}], records(outcome="fail", margin=-0.1))
    (found,) = findings(report, tmp_path / "pyproject.toml", tmp_path / "repository")
    assert (found["file"], found["line"]) == (None, 1)
    assert json.loads(as_codequality.render(report | {"findings": [found]})) == []


def test_markdown_shows_any_text_as_it_is():
    from markdown_it import MarkdownIt

    hostile = "``` <img src=x onerror=alert(1)> | [a](javascript:b) `x` \n# not a heading"
    change = {"outcome": "fail", "margin": -0.1, "worst": [hostile], "slice": "a|<img src=x>`b`"}
    report = assemble(
        [{**TARGET, "model": hostile, "tests": TESTS}], [r | {"target": TARGET | {"model": hostile}} for r in records(**change)]
    )
    text = as_markdown.render(report).decode()
    assert "- worst: ```` ``` <img src=x onerror=alert(1)> | [a](javascript:b) `x` # not a heading ````" in text
    assert "\n# not a heading" not in text
    page = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)
    assert "<img" not in page
    assert 'javascript:b"' not in page
    assert page.count("<h1") == 0
    assert as_markdown.escape("<b> | [x](y) *z* @all") == r"\<b\> \| \[x\]\(y\) \*z\* \@&#8203;all"


def test_markdown_of_nothing_is_no_pass_and_a_large_one_is_cut():
    assert as_markdown.render(assemble([], [])).startswith("## ⚠️ qguard: UNMEASURED\n".encode())
    expected = [{**TARGET, "suite": f"s{i}", "tests": TESTS} for i in range(4000)]
    data = as_markdown.render(assemble(expected, []))
    assert len(data) <= as_markdown.LARGEST
    assert b"The rest is left out" in data
    data.decode()
