"""A run with ``--precision`` that judges nothing is not green, and says which command judges."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest

from qguard.cli import main
from qguard.errors import UsageProblem
from qguard.precisions import parse_precisions
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
        (["tests/test_other.py"], ""),
        ([], "tests/test_other.py"),
        ([], "tests/test_other.py::test_other"),
        ([], "-k other"),
        ([], "--collect-only"),
        ([], "--co -p no:qguard-collector"),
        (["tests/test_other.py"], "-p no:qguard-collector -p no:qguard-junit"),
        (["tests/test_other.py", "-n", "1"], ""),
        (["-k", "other", "tests"], ""),
    ],
)
def test_a_strict_run_that_judges_nothing_fails_and_prints_what_works(project, args, addopts):
    code, text = run_pytest(project, "--precision", "fp32", *OFF, *args, CI="true", PYTEST_ADDOPTS=addopts)
    assert code in (1, 5), text  # a failure, and pytest's own code where every test was deselected
    assert "qguard: NOTHING WAS JUDGED" in text
    prefix = "PYTEST_ADDOPTS= " if addopts else ""
    assert f"no test that ran judges it. Run: {prefix}pytest --pyargs qguard.gate --precision=fp32\n" in text


@pytest.mark.parametrize(
    ("args", "addopts"), [(["tests"], ""), (["."], ""), ([], "tests"), (["--pyargs", "qguard.gate", "./tests"], "")]
)
def test_a_folder_does_not_turn_the_gate_off(project, args, addopts):
    """The lines of tox and nox: the whole gate joins the project's tests, once."""
    code, text = run_pytest(
        project, "--precision=fp32", "--collect-only", "-q", "--no-qguard-strict", *OFF, *args, PYTEST_ADDOPTS=addopts
    )
    assert code == 0, text
    assert "tests/test_other.py::test_other\n" in text
    assert text.count("::test_ranking[") == text.count("::test_golden_is_current[") == 1


def test_a_folder_beside_a_failing_gate_fails(project):
    file = project / "pyproject.toml"
    file.write_text(file.read_text() + '[tool.qguard.gates.fp32]\n"ranking.overlap@10" = ">= 1.5"\n')
    code, text = run_pytest(project, "--precision=fp32", *OFF, "tests", "-n", "1", "-v")
    assert (code, "qguard: FAIL" in text, "PASSED tests/test_other.py::test_other" in text) == (1, True, True), text
    assert len(re.findall("FAILED .*test_ranking", text)) == 2  # as it happens, and in the summary


@pytest.mark.parametrize("option", ["--fixtures", "--markers", "--help", "--version", "--fixtures-per-test"])
def test_what_only_shows_something_is_refused_under_strict(project, option):
    code, text = run_pytest(project, "--precision", "fp32", CI="true", PYTEST_ADDOPTS=option)
    assert (code, "nothing would be judged: another option only shows something" in text) == (4, True), text
    assert run_pytest(project, "--precision", "fp32", "--no-qguard-strict", option)[0] == 0


def test_a_test_that_looks_at_the_golden_alone_judges_nothing(project):
    (project / "tests" / "test_mine.py").write_text("def test_mine(qguard_golden):\n    assert len(qguard_golden.vectors)\n")
    code, text = run_pytest(project, "--precision", "fp32", "tests/test_mine.py", CI="true")
    assert (code, "NOTHING WAS JUDGED" in text) == (1, True), text


def test_the_printed_command_judges(project, fp32_onnx):
    file = project / "pyproject.toml"
    file.write_text(file.read_text().replace("[tool.pytest.ini_options]\n", '[tool.pytest.ini_options]\naddopts = "-k other"\n'))
    artifact = shutil.copy(fp32_onnx, project / "with space.onnx")
    code, text = run_pytest(project, "--precision", "fp32", f"--artifact={artifact}", CI="true", PYTEST_ADDOPTS="-k other")
    assert code in (1, 5), text
    line = re.search(r"Run: PYTEST_ADDOPTS= pytest (.*)", text)[1]
    assert line.startswith("-o addopts= --pyargs qguard.gate --precision=fp32 --artifact=")
    code, text = run_pytest(project, *shlex.split(line), CI="true", PYTEST_ADDOPTS="")
    assert code == 0, text
    assert "qguard: PASS" in text


def test_without_strict_it_is_said_and_does_not_fail(project):
    code, text = run_pytest(project, "--precision", "fp32", "--no-qguard-strict", "tests/test_other.py")
    assert code == 0, text
    assert "qguard: NOTHING WAS JUDGED" in text


def test_tests_of_the_projects_own_judge(project, fp32_onnx):
    (project / "tests" / "test_mine.py").write_text(
        "def test_mine(qguard_encoder):\n    assert qguard_encoder.encode(['a text']).shape == (1, 384)\n"
    )
    code, text = run_pytest(project, "--precision", "fp32", "tests/test_mine.py", CI="true")
    assert code == 0, text
    assert "NOTHING WAS JUDGED" not in text


@pytest.mark.parametrize("args", [["--precision="], ["--precision", " "], ["--qguard-precision="], ["--precision=,"]])
def test_an_empty_precision_is_an_error(project, args):
    code, text = run_pytest(project, *args)
    assert (code, "no precision given; expected for example --precision int8" in text) == (4, True), text


@pytest.mark.parametrize("text", ["fp32,", ",fp32", "fp32,,int8"])
def test_an_empty_place_in_a_list_of_precisions_is_an_error(text):
    with pytest.raises(UsageProblem, match="expected a precision before and after each comma"):
        parse_precisions(text, [])


@pytest.mark.parametrize("option", ["--artifact", "--qguard-attest", "--qguard-suite"])
def test_an_option_with_an_empty_value_is_an_error(project, option):
    code, text = run_pytest(project, "--precision", "fp32", *OFF, f"{option}=")
    assert (code, f"argument {option}: expected a value, found an empty one" in text) == (4, True), text


@pytest.mark.parametrize("args", [["--artifact="], ["--artifact", ""], ["--config", " "], ["--precision="]])
def test_a_command_with_an_empty_value_is_an_error(args, capsys):
    assert main(["diagnose", *args]) == 2
    assert f"qguard: {args[0].rstrip('=')}: expected a value, found an empty one" in capsys.readouterr().err
