"""``qguard merge``: one verdict of several jobs and machines, never better than the worst of them."""

from __future__ import annotations

import json

import pytest

from qguard.cli import main
from qguard.metrics.bounds import Bound
from qguard.report.merge import table

HOSTS = {
    name: {"cpu": cpu, "class": kind, "cores": 4, "system": "Linux", "python": "3.12", "versions": {}}
    for name, cpu, kind in (("amd", "AMD EPYC 9R14", "x86_64 avx2 avx512_vnni"), ("arm", "Neoverse-N2", "aarch64 i8mm"))
}  # fmt: skip


def report(precision: str = "int8", host: str = "amd", verdict: str = "pass", value: float = 0.97) -> dict:
    check = {
        "name": "ranking.overlap@10", "suite": "s", "slice": None, "value": value, "bound": Bound(">=", 0.96).to_json(),
        "margin": value - 0.96, "outcome": "pass" if value >= 0.96 else "fail", "items": 9,
        "worst": [], "on": "value", "interval": None, "accepted": None,
    }  # fmt: skip
    run = {
        "model": "m", "suite": "s", "precision": precision, "runtime": "onnx", "vectors": "float32", "verdict": verdict,
        "missing": [] if verdict != "unmeasured" else ["test_ranking"], "errors": [], "checks": [check], "latency": [],
        "host": HOSTS[host], "cause": None,
    }  # fmt: skip
    return {"schema": 2, "qguard": "0.1.0", "verdict": verdict, "runs": [run]}


@pytest.fixture
def merge(tmp_path):
    def call(*reports, names=None):
        paths = []
        for i, r in enumerate(reports):
            path = tmp_path / (names[i] if names else f"r{i}.json")
            path.write_text(r if isinstance(r, str) else json.dumps(r))
            paths.append(str(path))
        code = main(["merge", *paths, "--out", str(tmp_path / "m.json"), "--out", str(tmp_path / "m.md")])
        out = tmp_path / "m.json"
        return code, json.loads(out.read_text()) if out.exists() else None

    return call


def test_the_kind_of_each_run_is_kept(merge):
    scored = report("int8")
    scored["runs"][0]["kind"] = "cross-encoder"
    _, merged = merge(scored, report("bf16"))
    assert [(r["precision"], r.get("kind")) for r in merged["runs"]] == [("bf16", None), ("int8", "cross-encoder")]


def test_the_moment_is_the_last_ones_and_the_commit_is_kept_if_it_is_one(merge):
    early = {**report("int8"), "created": "2026-01-01T00:00:00Z", "commit": "abcdef1"}
    late = {**report("bf16"), "created": "2026-01-02T00:00:00Z", "commit": "abcdef1"}
    _, merged = merge(early, late)
    assert (merged["created"], merged["commit"]) == ("2026-01-02T00:00:00Z", "abcdef1")
    _, merged = merge(early, {**late, "commit": "abcdef2"}, report("fp16"))
    assert (merged["created"], merged["commit"]) == (None, None)


def test_a_matrix_becomes_one_report_and_a_table_of_precisions_and_hosts(merge, capsys, tmp_path):
    reports = [report("int8", "amd"), report("int8", "arm", "fail", 0.9), report("bf16", "amd")]
    code, merged = merge(*reports)
    assert (code, merged["verdict"], len(merged["runs"])) == (1, "fail", 3)
    assert capsys.readouterr().out.splitlines() == [
        "precision      host 1  host 2",
        "bf16@onnx m s  pass    not run",
        "int8@onnx m s  pass    FAIL ranking.overlap@10 0.9",
        "host 1: AMD EPYC 9R14, 4 cores, x86_64 avx2 avx512_vnni",
        "host 2: Neoverse-N2, 4 cores, aarch64 i8mm",
        "3 runs: FAIL",
    ]
    assert (tmp_path / "m.md").read_text().startswith("## ❌ qguard: FAIL")
    assert max(map(len, table(merged, 50)[:3])) <= 50


@pytest.mark.parametrize(("verdicts", "code"), [(["pass", "pass"], 0), (["pass", "unmeasured"], 3), (["unmeasured", "fail"], 1)])
def test_the_verdict_is_the_worst_of_all(merge, verdicts, code):
    found, merged = merge(*(report(p, verdict=v) for p, v in zip(("int8", "bf16"), verdicts, strict=True)))
    assert (found, {0: "pass", 1: "fail", 3: "unmeasured"}[code]) == (code, merged["verdict"])


def test_nothing_never_passes(merge, capsys):
    assert main(["merge"]) == 2
    assert "nothing measured is no pass" in capsys.readouterr().err
    empty = {"schema": 2, "qguard": "0.1.0", "verdict": "unmeasured", "runs": []}
    assert merge(empty)[0] == 3
    assert merge(empty, report())[0] == 3


def test_a_report_whose_verdict_is_worse_than_its_runs_keeps_it(merge):
    assert merge(report() | {"verdict": "fail"})[0] == 1


def test_the_same_run_twice_counts_once_and_another_one_of_the_host_is_an_error(merge, capsys):
    code, merged = merge(report(), report())
    assert (code, len(merged["runs"])) == (0, 1)
    assert merge(report(), report(value=0.98), names=["first.json", "second.json"])[0] == 2
    text = capsys.readouterr().err
    assert "first.json and " in text
    assert "second.json hold different runs of int8@onnx of m on s, both on AMD EPYC 9R14, 4 cores" in text


def test_a_merged_report_can_be_merged_again(merge):
    _, once = merge(report("int8"), report("bf16", "arm"))
    _, twice = merge(once, report("fp32"))
    assert [r["precision"] for r in twice["runs"]] == ["bf16", "fp32", "int8"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: "{", "is not valid JSON"),
        (lambda r: r | {"schema": 3}, "expected a report of schema 2"),
        (lambda r: r | {"verdict": "fine"}, "expected a report of schema 2"),
        (lambda r: r | {"runs": [{"model": "m"}]}, "a run has no suite, precision"),
        (lambda r: r | {"runs": [{k: v for k, v in r["runs"][0].items() if k != "host"}]}, "an older qguard wrote it"),
    ],
)
def test_what_is_no_report_is_a_usage_error(merge, capsys, damage, message):
    assert merge(damage(report()))[0] == 2
    assert message in capsys.readouterr().err


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path, capsys):
    assert main(["merge", "nowhere.json", "--out", str(tmp_path / "m.txt")]) == 2
    assert "expected a file that ends in .json, .html, .md" in capsys.readouterr().err
