"""Processes that tests start. What one prints is its output and its errors together, so that a failing test shows both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_pytest(folder: Path, *args: str, **env: str) -> tuple[int, str]:
    """Exit code and what pytest prints in a folder."""
    return _run(["-m", "pytest", "-p", "no:cacheprovider", *args], folder, os.environ | env)


def gate(folder: Path, *args: str, precision: str = "int8-dynamic") -> tuple[int, str]:
    """Exit code and what the gate alone prints, without what takes longest."""
    off = ("--qguard-latency=off", "--qguard-robustness=off")
    return run_pytest(folder, "--pyargs", "qguard.gate", "--precision", precision, *off, *args)


def qguard(folder: Path, *args: str) -> tuple[int, str]:
    """Exit code and what a command prints, on a developer's machine without the hub."""
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"HF_HUB_OFFLINE": "1"}
    return _run(["-c", "import sys; from qguard.cli import main; sys.exit(main())", *args], folder, env)


def python(code: str, *args: str, folder: Path | None = None, **env: str) -> str:
    """What a program prints, stripped; it must succeed."""
    returned, text = _run(["-c", code, *args], folder, os.environ | env)
    assert returned == 0, text
    return text.strip()


def _run(args: list[str], folder: Path | None, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
