"""`qguard golden check` names what is wrong in the folder of goldens, with the command that mends it."""

from __future__ import annotations

import json
import shutil

import pytest

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.judging.session import Session
from tests.conftest import ROOT
from tests.goldens import project, rewrite


@pytest.fixture
def place(small, tmp_path):
    """A copy of the project; ``place()`` gives exit code, output and errors of the check."""
    project(small, tmp_path)
    return tmp_path


def check(place, capsys, *args: str) -> tuple[int, str, str]:
    code = main(["golden", "check", "--config", str(place), *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sound_folder_passes(place, capsys):
    (place / "golden" / "README.md").write_text("How we review goldens.")
    code, out, err = check(place, capsys)
    assert (code, err) == (0, "")
    assert "minilm/own: current (117 texts" in out


def test_the_committed_goldens_pass(capsys):
    assert check(ROOT, capsys)[0] == 0


def left_over(folder):
    (folder / ".manifest.json.x1y2.tmp").write_text("{")


def second_data(folder):
    (folder / "golden-0123456789abcdef.safetensors").write_bytes(b"old")


def note(folder):
    (folder / "notes.txt").write_text("mine")


def other_model(folder):
    shutil.copytree(folder.parent, folder.parent.parent / "mpnet")


def other_suite(folder):
    shutil.copytree(folder, folder.parent / "contracts")


def beside_models(folder):
    (folder.parent.parent / "dump.npy").write_bytes(b"1")


def beside_suites(folder):
    (folder.parent / "dump.npy").write_bytes(b"1")


def edited_summary(folder):
    file = folder / "summary.md"
    file.write_text(file.read_text().replace("| all |", "| All |", 1))


def no_summary(folder):
    (folder / "summary.md").unlink()


def no_golden(folder):
    shutil.rmtree(folder)


def no_data(folder):
    next(folder.glob("*.safetensors")).unlink()


ACCEPTED = {
    "precision": "int8@onnx", "machine": "x", "golden": {"suite": "0" * 16, "weights": "0" * 16}, "metric": "ranking.top1",
    "value": 0.9, "items": 120, "standard_error": 0.01, "reason": "r", "date": "2026-01-01",
}  # fmt: skip


def old_scores(folder):
    (folder / "accepted.json").write_text(json.dumps({"schema": 1, "latency": [], "scores": [ACCEPTED]}))


def damaged_scores(folder):
    (folder / "accepted.json").write_text('{"schema": 1, "latency": [], "scores": [3]}')


UPDATE = 'qguard golden update --model minilm --suite own --reason "…"'
CASES = {
    left_over: (
        2,
        "minilm/own/.manifest.json.x1y2.tmp: foreign: not named by the manifest; remove it: rm golden/",
    ),
    second_data: (2, "minilm/own/golden-0123456789abcdef.safetensors: foreign: not named by the manifest"),
    note: (2, "remove it: rm golden/minilm/own/notes.txt"),
    other_model: (2, "mpnet: unused: no model of that name is configured; remove it: rm -r golden/mpnet, or configure it"),
    other_suite: (2, "minilm/contracts: unused: no suite of that name is configured; remove it: rm -r golden/minilm/contracts"),
    beside_models: (2, "dump.npy: foreign: does not belong to a golden; remove it: rm golden/dump.npy"),
    beside_suites: (2, "minilm/dump.npy: foreign: does not belong to a golden; remove it: rm golden/minilm/dump.npy"),
    edited_summary: (3, "minilm/own/summary.md: not the file that the manifest describes"),
    no_summary: (3, f"minilm/own/summary.md: missing; restore it from version control, or: {UPDATE}"),
    no_golden: (3, f"golden minilm/own does not exist; record it with: {UPDATE}"),
    no_data: (3, "is missing; restore it from version control"),
    old_scores: (
        2,
        "1 scores of int8@onnx were accepted on other texts or weights and no longer apply; accept them again: qg",
    ),
    damaged_scores: (3, "accepted.json is damaged"),
}


@pytest.mark.parametrize("harm", CASES, ids=lambda harm: harm.__name__)
def test_what_is_wrong_is_named_with_what_mends_it(place, capsys, harm):
    harm(place / "golden" / "minilm" / "own")
    code, _, err = check(place, capsys)
    expected, words = CASES[harm]
    assert code == expected
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_selection_looks_at_its_own_goldens_alone(place, capsys):
    other_model(place / "golden" / "minilm" / "own")
    assert check(place, capsys, "--suite", "own")[0] == 0


def test_a_suite_that_only_calibrates_is_used_and_needed(place, capsys):
    with (place / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.vectors]\ncalibration = "core"\n')
    code, _, err = check(place, capsys)
    assert code == 3
    assert "golden minilm/core does not exist" in err


def test_a_golden_of_an_older_version_is_valid_without_a_summary(place, capsys):
    harness = Session(load_config(place))
    rewrite(harness, summary_sha256=None, pipeline=None)
    (place / "golden" / "minilm" / "own" / "summary.md").unlink()
    assert check(place, capsys)[0] == 0
    assert main(["golden", "show", "--config", str(place)]) == 0
    assert "summary.md: none, an older version recorded it" in capsys.readouterr().out


def test_show_says_where_a_golden_comes_from_and_what_it_holds(place, capsys):
    assert main(["golden", "show", "--config", str(place)]) == 0
    out = capsys.readouterr().out
    assert "minilm/own: recorded 2" in out
    assert "| all | 117 |" in out
    assert "## Nearest text of some" in out
    assert "| text | role |" not in out
    assert main(["golden", "show", "--config", str(place), "--texts"]) == 0
    assert "| text | role |" in capsys.readouterr().out
    assert main(["golden", "show", "--config", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == golden.read(place / "golden" / "minilm" / "own").manifest
