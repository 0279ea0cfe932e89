"""A run with ``--precision`` that judges nothing is not green, and says which command judges."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest

from tests.processes import run_pytest

OFF = ("--qguard-latency=off", "--qguard-robustness=off")


@pytest.fixture
def project(tmp_path, small):
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_other.py").write_text("def test_other():\n    pass\n")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "addopts"),
    [
        (["tests"], ""),
        ([], "tests"),
        ([], "tests/test_other.py::test_other"),
        ([], "-k other"),
        ([], "--collect-only"),
        ([], "--co -p no:qguard-collector"),
        (["tests"], "-p no:qguard-collector -p no:qguard-junit"),
        (["tests", "-n", "1"], ""),
        (["-m", "not qguard", "tests"], ""),
    ],
)
def test_a_strict_run_that_judges_nothing_fails_and_prints_what_works(project, args, addopts):
    code, text = run_pytest(project, "--precision", "fp32", *OFF, *args, CI="true", PYTEST_ADDOPTS=addopts)
    assert code in (1, 5), text  # a failure, and pytest's own code where every test was deselected
    assert "qguard: NOTHING WAS JUDGED" in text
    prefix = "PYTEST_ADDOPTS= " if addopts else ""
    assert f"no test that ran judges it. Run: {prefix}pytest --pyargs qguard.gate --precision=fp32\n" in text


@pytest.mark.parametrize("option", ["--fixtures", "--markers", "--help", "--version", "--fixtures-per-test"])
def test_what_only_shows_something_is_refused_under_strict(project, option):
    code, text = run_pytest(project, "--precision", "fp32", CI="true", PYTEST_ADDOPTS=option)
    assert (code, "nothing would be judged: another option only shows something" in text) == (4, True), text
    assert run_pytest(project, "--precision", "fp32", "--no-qguard-strict", option)[0] == 0


def test_a_test_that_looks_at_the_golden_alone_judges_nothing(project):
    (project / "tests" / "test_mine.py").write_text("def test_mine(qguard_golden):\n    assert len(qguard_golden.vectors)\n")
    code, text = run_pytest(project, "--precision", "fp32", "tests", CI="true")
    assert (code, "NOTHING WAS JUDGED" in text) == (1, True), text


def test_the_printed_command_judges(project, fp32_onnx):
    file = project / "pyproject.toml"
    file.write_text(file.read_text().replace("[tool.pytest.ini_options]\n", '[tool.pytest.ini_options]\naddopts = "-k other"\n'))
    artifact = shutil.copy(fp32_onnx, project / "with space.onnx")
    code, text = run_pytest(project, "--precision", "fp32", f"--artifact={artifact}", CI="true", PYTEST_ADDOPTS="tests")
    assert code in (1, 5), text
    line = re.search(r"Run: PYTEST_ADDOPTS= pytest (.*)", text)[1]
    assert line.startswith("-o addopts= --pyargs qguard.gate --precision=fp32 --artifact=")
    code, text = run_pytest(project, *shlex.split(line), CI="true", PYTEST_ADDOPTS="")
    assert code == 0, text
    assert "qguard: PASS" in text


def test_without_strict_it_is_said_and_does_not_fail(project):
    code, text = run_pytest(project, "--precision", "fp32", "--no-qguard-strict", "tests")
    assert code == 0, text
    assert "qguard: NOTHING WAS JUDGED" in text


def test_tests_of_the_projects_own_judge(project, fp32_onnx):
    (project / "tests" / "test_mine.py").write_text(
        "def test_mine(qguard_encoder):\n    assert qguard_encoder.encode(['a text']).shape == (1, 384)\n"
    )
    code, text = run_pytest(project, "--precision", "fp32", "tests", CI="true")
    assert code == 0, text
    assert "NOTHING WAS JUDGED" not in text


@pytest.mark.parametrize("args", [["--precision="], ["--precision", " "], ["--qguard-precision="], ["--precision=,"]])
def test_an_empty_precision_is_an_error(project, args):
    code, text = run_pytest(project, *args)
    assert (code, "no precision given; expected for example --precision int8" in text) == (4, True), text
