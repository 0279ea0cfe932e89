"""``qguard history``: reports over time, changes told from noise, and slow rot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.history_simulated import METRICS, changes, jump, planted, reports, stable
from qguard.cli import main
from qguard.metrics.bounds import Bound
from qguard.report import moment
from qguard.trend.history import history
from qguard.trend.shapes import SIDE, count, normal, probability, surest
from qguard.trend.source import natural

OLD = Path(__file__).parent / "data" / "report_schema_1.json"
HOST = {"cpu": "AMD EPYC 9R14", "class": "x86_64 avx2", "cores": 2, "system": "Linux", "python": "3.12", "versions": {}}
OVERLAP = ("ranking.overlap@10", None)


def check(
    name: str = "ranking.overlap@10", value: float = 0.97, error: float | None = 0.002, part: str | None = None, **more
) -> dict:
    spread = None if error is None else [value - 1.96 * error, value + 1.96 * error]
    return {
        "name": name, "suite": "s", "slice": part, "value": value, "bound": Bound(">=", 0.9).to_json(), "margin": value - 0.9,
        "outcome": "pass", "items": 777, "interval": spread, "accepted": None, **more,
    }  # fmt: skip


def report(*checks: dict, file: str = "a", golden: str = "g", host: dict = HOST, versions: dict | None = None, **more) -> dict:
    run = {
        "model": "m", "suite": "s", "precision": "int8", "runtime": "onnx", "vectors": "float32", "verdict": "pass",
        "missing": [], "errors": [], "checks": list(checks) or [check()], "latency": [], "host": host, "cause": None,
        "artifact": {"sha256": file * 64, "bytes": 1},
        "scope": {"golden": {"suite": "t", "weights": "w"}, "machine": host["class"]},
        "details": {"provenance": {"golden": {"data_sha256": golden}, "versions": versions or {"onnxruntime": "1.31.0"}}},
    }  # fmt: skip
    return {"schema": 2, "qguard": "0.1.0", "verdict": "pass", "runs": [run], **more}


@pytest.fixture
def run(tmp_path, capsys):
    """Reports in a folder, judged: exit code, what the user sees, and the JSON."""

    def call(reports_, *options, names=None):
        folder = tmp_path / "reports"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for i, r in enumerate(reports_):
            (folder / (names[i] if names else f"r{i}.json")).write_text(r if isinstance(r, str) else json.dumps(r))
        out = tmp_path / "h.json"
        code = main(["history", str(folder), "--json", str(out), *options])
        said = capsys.readouterr()
        return code, said.out + said.err, json.loads(out.read_text()) if out.exists() else None

    return call


def steady(values, **more):
    """Reports of one metric, with another file where the value is another."""
    return [report(check(value=v, **more), file=f"{sorted(set(values)).index(v):x}"[-1]) for v in values]


# ---- one jump, slow rot, rounding


def test_a_jump_after_equal_values_is_a_change_for_sure_at_its_step(run):
    code, said, found = run(steady([0.97] * 5 + [0.96]), "--gate")
    assert code == 1
    assert (
        "FAIL fall: ranking.overlap@10 of int8@onnx · m · s fell at step 6 (r5.json): 0.9700 → 0.9600 (-0.01 ± 0, for sure"
        in said
    )
    assert "artifact 111111111111 → 000000000000" in said
    assert "--since r5.json" in said
    (series,) = found["series"]
    assert [(c["from_step"], c["to_step"], c["kind"], c["error"]) for c in series["changes"]] == [(4, 5, "sure", 0.0)]
    assert found["verdict"] == "fell"


def test_a_fall_within_what_other_texts_would_give_is_shown_and_does_not_fail(run):
    code, said, _ = run(steady([0.97] * 5 + [0.966]), "--gate")
    assert code == 0
    assert "\nfall: ranking.overlap@10" in said
    assert "other texts like these: ±0.0055" in said


def test_a_level_at_which_nothing_is_lost_says_nothing_of_noise(run):
    """Of 230 queries one found more than fp32; its error is that of the level before, as 0 would make every step a fall."""
    found = [
        report(check("task.recall@10_retention", v, e), file="ab"[v == 1]) for v, e in [(1.0043, 0.004)] * 4 + [(1.0, 0)] * 9
    ]
    code, said, _ = run(found, "--gate")
    assert (code, "other texts like these: ±0.011" in said) == (0, True)
    unknown = [report(check("task.recall@10_retention", v, 0), file="ab"[v == 1]) for v in [1.0043] * 4 + [1.0] * 9]
    assert run(unknown, "--gate")[0] == 0


def test_a_jump_is_not_sure_where_the_file_is_another_each_time(run):
    values = [0.97] * 5 + [0.96]
    code, said, _ = run([report(check(value=v), file=f"{i:x}") for i, v in enumerate(values)], "--gate")
    assert code == 3
    assert "not judged: int8@onnx · m · s: 6 reports can be compared: expected at least 10" in said
    assert "fell" not in said.replace("reports fell", "")


def test_equal_files_that_give_other_values_prove_that_nothing_is_sure(run):
    values = [0.97, 0.97, 0.971, 0.97, 0.97, 0.97, 0.96]
    found = [report(check(value=v), file="b" if v == 0.96 else "a") for v in values]
    code, said, _ = run(found, "--gate")
    assert (code, "not deterministic: int8@onnx · m · s: the same file and versions gave other values at 2 of 5" in said) == (
        3,
        True,
    )


@pytest.mark.parametrize(
    ("name", "values"), [("embedding.cosine_mean", (0.99951, 0.99947)), ("ranking.top1", (760 / 777, 761 / 777))]
)
def test_rounding_is_no_change(run, name, values):
    """1e-4 at most, or one text of 777."""
    rng = np.random.default_rng(1)
    found = [report(check(name, values[i], 1e-9), file="ab"[i]) for i in rng.integers(0, 2, 30)]
    code, said, history_ = run(found, "--gate")
    assert (code, history_["verdict"]) == (0, "holds"), said
    assert not history_["series"][0]["changes"]


def test_slow_rot_of_ten_steps_each_within_noise_fails_the_gate(run):
    values = [0.97] * 10 + [0.97 - 0.001 * i for i in range(1, 11)] + [0.96] * 10
    code, said, found = run([report(check(value=round(v, 4)), file=f"{i % 16:x}") for i, v in enumerate(values)], "--gate")
    assert code == 1
    assert (
        "FAIL slow rot: ranking.overlap@10 of int8@onnx · m · s fell slowly from step 10 (r9.json) to step 20 (r19.json)" in said
    )
    (change,) = found["series"][0]["changes"]
    assert change["size"] == pytest.approx(-0.01)
    assert max(abs(a - b) for a, b in pairwise(values)) < change["noise"] < 0.01


def test_a_fall_that_was_made_good_passes_and_since_leaves_the_past_out(run):
    values = [0.97] * 8 + [0.95] * 8 + [0.97] * 8
    assert run(steady(values), "--gate")[0] == 0
    assert run(steady(values[:16]), "--gate")[0] == 1
    assert run(steady(values[:16]), "--gate", "--since", "r8.json")[0] == 0
    code, said, _ = run(steady(values[:16]), "--since", "nothing")
    assert (code, "expected the name or the commit of one of 16 reports: r0.json … r15.json" in said) == (2, True)


def test_of_a_metric_for_which_less_is_better_a_rise_fails(run):
    rises = [report(check("similarity.p99_error", v, 0.001), file="ab"[v > 0.02]) for v in [0.02] * 6 + [0.03] * 6]
    code, said, _ = run(rises, "--gate")
    assert (code, "fall: similarity.p99_error of int8@onnx · m · s rose at step 7" in said) == (1, True)
    assert run(rises[::-1], "--gate")[0] == 0


# ---- what is explained


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"golden": "h"}, "golden g → h"),
        ({"host": {**HOST, "class": "aarch64", "cpu": "N2"}}, "AMD EPYC 9R14, 2 cores, x86_64 avx2; N2, 2 cores, aarch64"),
    ],
)
def test_another_golden_or_host_explains_a_step(run, other, words):
    before = [report(check(value=0.97)) for _ in range(12)]
    after = [report(check(value=0.9), **other) for _ in range(12)]
    code, said, found = run(before + after, "--gate")
    assert (code, words in said) == (0, True), said
    assert "explained: " in said
    assert [len(s["points"]) for s in found["series"]] == [12, 12]


def test_a_gate_that_was_moved_is_named_and_no_change(run):
    loose = check()
    loose["bound"] = Bound(">=", 0.8).to_json()
    code, _, found = run([report()] * 6 + [report(loose)] * 6, "--gate")
    assert code == 0
    assert found["steps"][6]["differs"] == [
        {"target": ["int8@onnx", "m", "s"], "words": ["gate of ranking.overlap@10 >= 0.9 → >= 0.8"]}
    ]


def test_versions_are_named_at_the_step_where_they_changed(run):
    old = [report(check(value=0.97)) for _ in range(6)]
    new = [report(check(value=0.95), versions={"onnxruntime": "1.32.0"}) for _ in range(3)]
    _, said, _ = run(old + new, "--gate")
    assert "fell at step 7 (r6.json)" in said
    assert "onnxruntime 1.31.0 → 1.32.0" in said


def test_a_target_that_is_no_longer_judged_is_named(run):
    other = report()
    other["runs"][0]["precision"] = "bf16"
    _, said, _ = run([{**other, "runs": [*other["runs"], *report()["runs"]]}] * 5 + [report()] * 5)
    assert "no longer judged: bf16@onnx · m · s, since step 6 (r5.json)" in said


def test_targets_with_a_file_each_are_all_judged(run):
    """One that fell, though the newest file is of the other."""
    found = []
    for r in steady([0.97] * 5 + [0.95] * 2):
        other = report()
        other["runs"][0]["precision"] = "bf16"
        found += [r, other]
    code, said, _ = run(found, "--gate")
    assert (code, "FAIL fall: ranking.overlap@10 of int8@onnx" in said) == (1, True)
    assert "no longer judged" not in said


def test_a_family_that_the_newest_report_did_not_measure_is_no_pass(run):
    whole, part = report(check(), check("embedding.cosine_mean", 0.999)), report(check())
    code, said, _ = run([whole] * 6 + [part], "--gate")
    assert (code, "not judged: int8@onnx · m · s: its newest report has no value of embedding" in said) == (3, True)
    part["runs"][0]["left_out"] = ["embedding"]
    assert run([whole] * 6 + [part], "--gate")[0] == 0


def test_an_empty_newest_report_is_no_pass(run):
    empty = {"schema": 2, "qguard": "0.1.0", "verdict": "unmeasured", "runs": []}
    code, said, _ = run([report()] * 6 + [empty], "--gate")
    assert (code, "not judged: the newest report is empty" in said) == (3, True)


# ---- nothing to judge


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_reports_are_never_a_pass(run, count):
    for options in ([], ["--gate"]):
        code, said, _ = run([report()] * count, *options)
        assert code == 3
        assert "not judged: int8@onnx · m · s:" in said


def test_an_empty_folder_is_not_measured(run):
    code, said, _ = run([])
    assert (code, "holds no report: expected files that pytest" in said) == (3, True)


def test_what_is_no_report_is_named(run):
    assert run([report(), "{"], "--gate")[0] == 2
    code, said, _ = run([report(), {"schema": 2}])
    assert (code, "r1.json is damaged or is not a report of this version: qguard: Field required" in said) == (2, True)


def test_a_new_golden_is_too_little_to_judge_again(run):
    code, said, _ = run([report()] * 12 + [report(golden="h")] * 2, "--gate")
    assert (code, "2 reports can be compared" in said) == (3, True)


def test_reports_of_schema_1_are_read(run):
    old = json.loads(OLD.read_text(encoding="utf-8"))
    code, said, found = run([old] * 4, "--gate")
    assert code == 0, said
    assert len({s["suite"] for s in found["series"]}) > 1
    assert "series, of which" in said


# ---- order


def test_names_are_ordered_as_people_count_and_times_go_before_them(run):
    assert sorted(["r10", "r2", "r1"], key=natural) == ["r1", "r2", "r10"]
    _, said, found = run([report()] * 3, names=["r10.json", "r2.json", "r1.json"])
    assert [s["name"] for s in found["steps"]] == ["r1.json", "r2.json", "r10.json"]
    assert "the file names, because 3 of 3 reports do not say when they were made" in said
    dated = [report(created=f"2026-01-0{d}T00:00:00Z") for d in (3, 1, 2)]
    _, said, found = run(dated)
    assert [s["name"] for s in found["steps"]] == ["r1.json", "r2.json", "r0.json"]
    assert "ordered by the time in each report" in said


def test_files_are_taken_in_the_order_given(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(report()))
    main(["history", str(tmp_path / "b.json"), str(tmp_path / "a.json")])
    assert "ordered by their place on the command line" in (said := capsys.readouterr().out)
    assert "b.json … a.json" in said


def git(folder: Path, *words: str) -> None:
    identity = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "log.showSignature=true",
    )
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    place = tmp_path / "repo"
    (place / "reports").mkdir(parents=True)
    git(place, "init", "-q", "-b", "main")
    for i, value in enumerate([0.97] * 5 + ["{"] + [0.95] * 2):
        text = value if isinstance(value, str) else json.dumps(report(check(value=value), file="ab"[value < 0.96]))
        (place / "reports" / "r.json").write_text(text + "\n" * i)
        git(place, "add", "-A")
        git(place, "commit", "-qm", f"change <b>{i}</b>")
    return place


def test_a_committed_report_is_followed_over_the_commits(repository, capsys, tmp_path):
    page = tmp_path / "h.html"
    assert main(["history", f"git:{repository}/reports/r.json", "--gate", "--out", str(page)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("7 reports, ordered by the commits of the main line: ")
    assert re.search(r"not read: [0-9a-f]{10} \(change <b>5</b>\): not valid JSON", said)
    assert re.search(r"FAIL fall: ranking.overlap@10 of int8@onnx · m · s fell at step 6 \([0-9a-f]{10}\)", said)
    assert "change &lt;b&gt;6&lt;/b&gt;" in page.read_text()
    assert "<b>6</b>" not in page.read_text()


def test_the_newest_version_that_cannot_be_read_is_no_pass(repository, capsys):
    (repository / "reports" / "r.json").write_text("[]")
    git(repository, "commit", "-qam", "broken")
    git(repository, "tag", "broken")
    assert main(["history", f"git:{repository}/reports/r.json", "--gate", "--since", "nothing"]) == 2
    capsys.readouterr()
    good = repository / "reports" / "q.json"
    for i in range(5):
        good.write_text(json.dumps(report()) + "\n" * i)
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", str(i))
    assert main(["history", f"git:{good}", "--gate"]) == 0
    good.write_text("[]")
    git(repository, "commit", "-qam", "broken")
    assert main(["history", f"git:{good}", "--gate"]) == 3
    assert "not judged: the newest version could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "words", "code"),
    [
        ("reports/none.json", "no commit of the current branch holds a report there", 3),
        ("none/r.json", "none is no folder", 2),
        ("reports/--output=x", "no commit of the current branch holds a report there", 3),
    ],
)
def test_what_git_does_not_have_is_said_in_words(repository, capsys, path, words, code):
    assert main(["history", f"git:{repository}/{path}"]) == code
    assert words in capsys.readouterr().err


def test_a_shallow_clone_and_a_folder_without_git_are_said_in_words(repository, capsys, tmp_path):
    subprocess.run(
        ["git", "clone", "-q", "--depth", "2", f"file://{repository}", str(tmp_path / "shallow")], check=True, capture_output=True
    )
    assert main(["history", f"git:{tmp_path}/shallow/reports/r.json"]) == 2
    assert "this clone is shallow, so that its past is missing; fetch it: git fetch --unshallow" in capsys.readouterr().err
    (tmp_path / "plain").mkdir()
    assert main(["history", f"git:{tmp_path}/plain/r.json"]) == 2
    assert "git rev-parse failed: fatal: not a git repository" in capsys.readouterr().err


# ---- the page


def test_the_page_loads_nothing_and_obeys_no_text(run, tmp_path):
    hostile = "</title><script>window.hit=1</script>"
    found = steady([0.97] * 6 + [0.95] * 6)
    for r in found:
        r["runs"][0] |= {"model": hostile, "suite": hostile}
        r["runs"][0]["checks"] += [check("ranking.top1", 0.95, 0.01, part='a"><i>'), check("latency.speedup", 2.2, part="64x1")]
    page = tmp_path / "trend.html"
    code, _, _ = run(found, "--out", str(page))
    text = page.read_text()
    assert code == 0
    assert "<script>window" not in text
    assert '"><i>' not in text
    assert not re.search(r"(?:src|href)=(?![\"']?(?:#|data:,))", text)
    assert "default-src 'none'" in text
    assert text.count("<svg") == 2
    for words in ("ranking.overlap@10", "fell at step 7", "&gt;= 0.9", "artifact", "AMD EPYC 9R14"):
        assert words in text


def test_a_page_has_its_suffix(run):
    code, said, _ = run([report()] * 4, "--out", "trend.md")
    assert (code, "expected a file that ends in .html; --json FILE writes JSON" in said) == (2, True)


# ---- the reports' own time and commit


def test_a_report_says_when_and_of_which_commit_it_is(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert moment.created() == "2023-11-14T22:13:20Z"
    for odd in ("", "x", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", odd)
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment.created())
    for name in moment._COMMITS:
        monkeypatch.delenv(name, raising=False)
    assert moment.commit() is None
    monkeypatch.setenv("GITHUB_SHA", "$(rm)")
    monkeypatch.setenv("CI_COMMIT_SHA", "0123456789ABCDEF")
    assert moment.commit() == "0123456789abcdef"


# ---- statistics


def test_the_normal_deviate_of_t_has_its_tail():
    """Wallace's approximation: it errs on the side of noise, by less than a factor of three in the probability."""
    stats = pytest.importorskip("scipy.stats")
    for freedom in (6, 12, 25, 50):
        for p in (1e-3, 1e-6, 1e-9):
            t = stats.t.isf(p / 2, freedom)
            assert 0.98 * p < probability(float(normal(np.float64(t), np.float64(freedom)))) < 3 * p, (freedom, p)


def test_a_series_shorter_than_two_sides_has_no_shapes():
    assert count(2 * SIDE - 1) == 0
    assert surest(np.zeros((3, 9)), np.ones(3)) == [None] * 3
    assert count(2 * SIDE) == 1


def test_stable_histories_have_no_change():
    """One of each kind; benchmarks/history_simulated.py has hundreds."""
    for kind, series, false in stable(np.random.default_rng(7), 7):
        assert series >= 249
        assert not false, (kind, false[0])


@pytest.mark.parametrize("kind", ["equal", "white", "ar"])
def test_what_is_planted_is_found_at_its_place(kind):
    sd = METRICS[OVERLAP[0]][1] / 2
    rot = planted(np.random.default_rng(3), kind, "rot", OVERLAP, sd, 2)
    assert (rot["found"], rot["fails"], rot["false"]) == (1, 1, 0)
    found = planted(np.random.default_rng(4), kind, "jump", OVERLAP, sd, 2)
    assert (found["found"], found["fails"], found["near"], found["slow"], found["false"]) == (1, 1, 1, 0, 0)


def test_a_bump_in_the_middle_does_not_hide_itself():
    rng = np.random.default_rng(5)

    def bump(found):
        jump(("latency.speedup", "64x1"), 0.6, 20)(found)
        jump(("latency.speedup", "64x1"), -0.6, 34)(found)

    h = history(reports(rng, "white", 54, bump))
    assert [c.first for c in changes(h)] == [20, 34]
    assert not h.falls  # made good
