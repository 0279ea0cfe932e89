"""What tests in JavaScript need, and why they are skipped where it is absent."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from qguard.errors import MeasurementProblem
from qguard.javascript.browser import browser
from qguard.javascript.packages import NODE_MODULES, Packages, node

HOME = Path(__file__).parent
MODULES = HOME / NODE_MODULES
_FETCH = ("--fetch-retries=0", "--fetch-timeout=60000", "--no-audit", "--no-fund", "--no-package-lock")


@cache
def without_node() -> str:
    """Why no worker can be started here; empty where one can."""
    try:
        node()
    except MeasurementProblem as e:
        return str(e)
    return ""


@cache
def without_browser() -> str:
    """Why no page can be opened here; empty where one can."""
    try:
        browser()
    except MeasurementProblem as e:
        return str(e)
    return ""


def pinned() -> dict[str, str]:
    """The npm packages that tests use, and their versions."""
    found: dict[str, str] = json.loads((HOME / "package.json").read_text())["dependencies"]
    return found


def need_modules() -> Path:
    """The tests' own node_modules, installed now where it is not there yet; skips the test where npm cannot do so."""
    if why := without_node():
        pytest.skip(why)
    with FileLock(HOME / "install.lock"):
        if why := _install():
            pytest.skip(why)
    return MODULES


@cache
def _install() -> str:
    """Why the packages are not there; empty where they are."""
    if all(Packages(MODULES).version(name) == version for name, version in pinned().items()):
        return ""
    if shutil.which("npm") is None:
        return "npm is not installed"
    command = ["npm", "install", "--ignore-scripts", *_FETCH]
    try:
        done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return "npm install took more than 300 seconds"
    return "" if done.returncode == 0 else f"npm install failed: {done.stderr.strip()[-200:]}"
