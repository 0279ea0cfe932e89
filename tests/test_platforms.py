"""What differs between systems: calls that only some have, rights of files, and what a system says of its CPU."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys

import pytest

from qguard.files import copy_files, staged, sync_folder, write_atomic
from qguard.machine.cpu import linux, mac
from tests.conftest import ROOT

# modules and names of os and ctypes that Windows lacks
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
NAMES = {
    "O_DIRECTORY", "chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getuid", "killpg", "mkfifo", "nice",
    "posix_fadvise", "sched_getaffinity", "sched_setaffinity", "setsid", "sync", "sysconf", "uname", "wait4",
}  # fmt: skip
# where each is used, with an alternative beside it
KNOWN = {
    ("javascript/browser.py", "geteuid"), ("javascript/guard.py", "killpg"), ("latency/memory.py", "resource"),
    ("machine/cpu.py", "sched_getaffinity"),
}  # fmt: skip


def used(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names} & MODULES
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & MODULES
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found |= {node.attr} & NAMES
    return found


def test_no_call_that_windows_lacks_stands_without_an_alternative():
    found = {
        (f.relative_to(ROOT / "qguard").as_posix(), name)
        for f in (ROOT / "qguard").rglob("*.py")
        for name in used(ast.parse(f.read_text(encoding="utf-8")))
    }
    assert found == KNOWN


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077], indirect=True)
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, umask):
    """Whatever those of the source are; an artifact in the cache is for one user, or may not be written."""
    source = tmp_path / "source"
    (source / "onnx").mkdir(parents=True)
    (source / "onnx" / "model.onnx").write_bytes(b"x")
    (source / "onnx" / "model.onnx").chmod(0o400)
    (source / "onnx").chmod(0o500)
    source.chmod(0o700)
    copy_files(source, tmp_path / "out")
    write_atomic(tmp_path / "out" / "report.json", b"{}")
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert rights(path) == (0o777 if path.is_dir() else 0o666) & ~umask
    (source / "onnx").chmod(0o700)


def test_what_is_replaced_keeps_its_rights(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_bytes(b"a")
    file.chmod(0o640)
    write_atomic(file, b"b")
    assert (file.read_bytes(), rights(file)) == (b"b", 0o640)


def test_a_file_that_cannot_be_flushed_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        staged(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_opens_no_folders_is_not_asked_to(tmp_path, monkeypatch):
    """As Windows, whose os.open refuses a folder."""

    def refuses(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.delattr(os, "O_DIRECTORY")
    sync_folder(tmp_path)


X86 = (
    "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: avx2 avx512f\n\nprocessor\t: 1\nmodel name\t: other\nflags\t\t: x\n"
)
GRAVITON = "processor\t: 0\nFeatures\t: asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n\nprocessor\t: 1\n"
OTHER = "processor\t: 0\nFeatures\t: asimddp\nCPU implementer\t: 0xc0\nCPU part\t: 0xac3\n"
APPLE = "machdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n"


@pytest.mark.parametrize(
    ("read", "text", "name", "flags"),
    [
        (linux, X86, "AMD EPYC 9R14", {"avx2", "avx512f"}),
        (linux, GRAVITON, "Neoverse-V1", {"asimddp", "i8mm"}),
        (linux, OTHER, "ARM implementer 0xc0 part 0xac3", {"asimddp"}),
        (linux, "", "unknown", set()),
        (mac, APPLE, "Apple M2", {"asimddp"}),
        (mac, "", "unknown", set()),
    ],
)
def test_the_cpu_has_a_name_wherever_the_system_says_one(read, text, name, flags):
    assert read(text) == (name, flags)


def test_what_is_printed_fits_any_code_page(tmp_path):
    """As on Windows, whose pages lack most characters."""
    code = "import sys; from qguard.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "report", str(ROOT / "tests" / "data" / "report_schema_1.json"), "--out"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, str(tmp_path / "\u2713.md")], env=env, capture_output=True, check=False)
    assert (done.returncode, b"\\u2713.md: fail" in done.stdout) == (0, True), done.stderr
