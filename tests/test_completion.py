"""``qguard --print-completion``: scripts that the shells read, and what they complete."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from qguard.commands.completion import SHELLS
from tests.processes import python

# what bash does on TAB: the words of the line, and which of them the cursor is in
TAB = """
source {script}
tab() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_qguard; echo "${{COMPREPLY[*]}}"; }}
{lines}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        command = [sys.executable, "-c", "from qguard.cli import main; main()", "--print-completion", shell]
        (folder / shell).write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_its_script(scripts, shell):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dia", "diagnose"),
        ("diagnose --layers", "--layers-only"),
        ("quantize --precision int8-w", "int8-weight int8-weight@torch int8-weight@onnx-cuda"),
        ("tolerances --precision a", "all"),
        ("golden up", "update"),
        ("golden update --accept-change st", "stack"),
        ("selftest --fault golden-m", "golden-missing"),
        ("init --pooling c", "cls"),
        ("report own.j", "own.json"),
        ("quantize --out own", "own-folder"),
        ("hunt --corpus own.j", "own.json"),
    ],
)
def test_bash_completes(scripts, tmp_path, line, words):
    (tmp_path / "own.json").touch()
    (tmp_path / "own-folder").mkdir()
    text = TAB.format(script=scripts / "bash", lines=f"tab qguard {line}")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == words


def test_fish_completes(scripts):
    if not shutil.which("fish"):
        pytest.skip("no fish here")
    text = f'source {scripts / "fish"}; complete -C "qguard diagnose --precision int8-w"'
    done = subprocess.run(["fish", "-c", text], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "int8-weight",
        "int8-weight@torch",
        "int8-weight@onnx-cuda",
    ]


def test_without_shtab_it_names_the_extra():
    code = "import sys; sys.modules['shtab'] = None\nfrom qguard.cli import main\nmain(['--print-completion', 'bash'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "qguard: completion needs shtab: pip install 'qguard[completion]'\n"


def test_a_command_does_not_load_what_completion_needs():
    code = "import sys\nfrom qguard.cli import parser\nparser()\n"
    code += "print(sorted({'shtab', 'qguard.faults', 'onnx', 'numpy'} & set(sys.modules)))"
    assert python(code) == "[]"
