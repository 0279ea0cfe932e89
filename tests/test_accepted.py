"""Accepted scores are a ratchet: a fall below one by more than its noise fails where the gate still holds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qguard.accepted import read
from qguard.accepted.scores import directions, noise
from qguard.accepting.acceptance import accept
from qguard.accepting.measured import measure_now
from qguard.cli import main
from qguard.config import load_config
from qguard.errors import UsageProblem
from qguard.judging.cause import find_cause
from qguard.judging.session import Session
from qguard.metrics.bootstrap import standard_error
from qguard.precisions import parse_precision
from qguard.report.terminal import failure_text
from tests.goldens import project
from tests.processes import run_pytest

METRIC = "ranking.overlap@10"


@pytest.fixture(scope="module")
def accepted(small, int8, tmp_path_factory):
    """A project whose int8 was accepted by running it."""
    folder = tmp_path_factory.mktemp("accepted")
    project(small, folder)
    assert main(["accept", "--precision", "int8", "--reason", "first", "--config", str(folder)]) == 0
    return folder


@pytest.fixture
def place(accepted, tmp_path):
    return project(accepted, tmp_path).config.folder


def stored(place):
    return place / "golden" / "minilm" / "own" / "accepted.json"


def edit(place, metric=METRIC, **change):
    """Change entries of one metric; a function is given the old entry."""
    file = stored(place)
    value = json.loads(file.read_text())
    for entry in value["scores"]:
        if entry["metric"] == metric:
            entry.update({k: v(entry) if callable(v) else v for k, v in change.items()})
    file.write_text(json.dumps(value))


def ranking(place):
    harness = Session(load_config(place))
    (target,) = harness.targets([parse_precision("int8")])
    return harness, target, harness.checks(target, "ranking")


def test_what_is_stored_is_value_items_and_standard_error_of_every_metric(accepted):
    entries = read(accepted / "golden" / "minilm" / "own")["scores"]
    assert {e["metric"] for e in entries} >= {METRIC, "embedding.cosine_min", "similarity.p99_error"}
    assert {e["metric"] for e in entries} <= set(directions())
    (entry,) = [e for e in entries if e["metric"] == METRIC]
    assert (entry["precision"], entry["items"], entry["reason"]) == ("int8@onnx", 117, "first")
    assert 0 < entry["standard_error"] < 0.02
    assert {"machine", "golden", "date", "value"} <= set(entry)
    assert len((accepted / "golden" / "minilm" / "own" / "accepted.json").read_bytes()) < 20_000


def test_equal_scores_hold_and_nothing_new_is_stored(place, capsys):
    _, _, checks = ranking(place)
    assert {c.outcome for c in checks if c.accepted} == {"pass"}
    before = stored(place).read_bytes()
    assert main(["accept", "--precision", "int8", "--reason", "again", "--config", str(place)]) == 0
    assert "nothing new" in capsys.readouterr().out
    assert stored(place).read_bytes() == before


def test_a_fall_beyond_the_noise_fails_although_the_gate_holds(place):
    edit(place, value=lambda e: e["value"] + 2 * noise(e), date="2026-01-02")
    harness, target, checks = ranking(place)
    (failed,) = [c for c in checks if c.outcome == "fail"]
    assert (failed.name, failed.accepted is not None) == (METRIC, True)
    assert [c.outcome for c in checks if c.name == METRIC and c.slice is None and not c.accepted] == ["pass"]
    text = failure_text(target.precision, "own", checks, [], cause=find_cause(harness, target))
    first = text.splitlines()[0]
    assert first.startswith(f"int8 {METRIC} {failed.value:.4f}, accepted ")
    assert f"on 2026-01-02, now {failed.value:.4f}, more than its noise 0.0" in first
    assert 'to accept the lower score:\n          qguard accept --precision int8 --suite own --lower --reason "…"\n' in text
    assert "relax the gate" not in text


def test_a_fall_within_the_noise_is_none(place):
    edit(place, value=lambda e: e["value"] + 0.5 * noise(e))
    assert "fail" not in {c.outcome for c in ranking(place)[2]}


def test_a_metric_that_should_be_low_fails_when_it_rises(place):
    edit(place, "ranking.inversions", value=-1.0, standard_error=0.0)
    (failed,) = [c for c in ranking(place)[2] if c.outcome == "fail"]
    assert failed.name == "ranking.inversions"


@pytest.mark.parametrize("other", [{"machine": "aarch64 i8mm"}, {"precision": "int8@openvino"}, {"golden": {"suite": "0"}}])
def test_another_machine_precision_or_suite_is_compared_with_nothing(place, other):
    edit(place, value=2.0, **other)
    assert METRIC not in {c.name for c in ranking(place)[2] if c.accepted}


def test_the_ratchet_goes_up_by_itself_and_down_only_when_asked(place):
    harness, _, checks = ranking(place)
    now = checks[0].value

    def again(reason: str, lower: bool = False) -> str:
        report = measure_now(harness, [parse_precision("int8")], lambda _: None)
        return "\n".join(accept(report, harness.config.golden_root, reason, lower))

    edit(place, value=now - 0.001)
    assert again("better") == f"minilm/own int8@onnx {METRIC} {now - 0.001:.4f} → {now:.4f}"
    edit(place, value=lambda e: now + 0.5 * noise(e))
    assert f"{METRIC} stays " in again("within the noise")
    edit(place, value=now + 0.5)
    with pytest.raises(UsageProblem, match="fails by accepted scores alone: --lower replaces them"):
        again("worse")
    with pytest.raises(UsageProblem, match="needs a reason"):
        again(" ", lower=True)
    assert again("smaller file", lower=True) == f"minilm/own int8@onnx {METRIC} {now + 0.5:.4f} → {now:.4f}"
    (entry,) = [e for e in read(stored(place).parent)["scores"] if e["metric"] == METRIC]
    assert (entry["value"], entry["reason"]) == (now, "smaller file")


def test_what_fails_its_gates_is_not_accepted(place, capsys):
    with (place / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.gates.int8]\n"ranking.overlap@10" = ">= 0.9999"\n')
    before = stored(place).read_bytes()
    assert main(["accept", "--precision", "int8", "--config", str(place), "--reason", "x", "--lower"]) == 1
    assert f"only what passes can be accepted: int8 {METRIC} 0.9" in capsys.readouterr().err
    assert stored(place).read_bytes() == before


def test_a_report_and_a_run_accept_the_same(accepted, small, tmp_path):
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    code, out = run_pytest(tmp_path, "--precision", "int8", "--qguard-report=r.json")
    assert code == 0, out
    report = json.loads((tmp_path / "r.json").read_text())
    lines = accept(report, tmp_path / "golden", "first")
    assert len(lines) > 8
    assert read(tmp_path / "golden" / "minilm" / "own") == read(accepted / "golden" / "minilm" / "own")
    _, out = run_pytest(tmp_path, "--precision", "int8")
    assert f"ok   {len(lines)} of {len(lines)} accepted scores hold within their noise" in out
    report["runs"][0]["verdict"] = report["verdict"] = "fail"
    with pytest.raises(UsageProblem, match="no run of this report passed"):
        accept(report, tmp_path / "golden", "x", lower=True)


def test_either_a_report_or_a_precision(place, capsys):
    for args in ([], ["r.json", "--precision", "int8"]):
        assert main(["accept", *args, "--reason", "x", "--config", str(place)]) == 2
        assert "expected either REPORT.json or --precision" in capsys.readouterr().err


def test_the_standard_error_is_that_of_the_mean_and_the_same_in_every_run():
    rows = np.random.default_rng(1).normal(0, 2, (400, 1))

    def mean(r):
        return r[..., 0].mean(-1)

    found = standard_error(mean, rows, 0)
    assert abs(found / (rows.std(ddof=1) / 20) - 1) < 0.1
    assert found == standard_error(mean, rows, 0)
    paired = np.hstack((rows, rows + 1))
    assert standard_error(lambda r: r[..., 1].mean(-1) - r[..., 0].mean(-1), paired, 0) < 1e-12
