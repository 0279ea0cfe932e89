"""Whether every system and Python has a wheel of everything that qguard needs: a dry run, nothing is downloaded or installed.

usage: python -m benchmarks.platforms [--newest]    exit code 1 where one is missing; needs pip install uv

Each set is resolved by uv with the markers and tags of that system, from wheels alone: a source build may need compilers, and may
download more. By default with the versions of constraints.txt; ``--newest`` takes the newest ones, as a user without it would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("completion", "data", "demo", "openvino", "sign", "static", "torchao")
# ONNX Runtime has no wheels for Macs with Intel processors, nor for macOS before 14; OpenVINO's for ARM needs glibc 2.35
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Linux x86-64, glibc 2.28": ("x86_64-manylinux_2_28", EXTRAS),
    "Linux ARM, glibc 2.28": ("aarch64-manylinux_2_28", tuple(e for e in EXTRAS if e not in ("openvino", "static"))),
    "Linux ARM, glibc 2.35": ("aarch64-manylinux_2_35", EXTRAS),
    "macOS 14, Apple silicon": ("aarch64-apple-darwin", EXTRAS),
    "Windows x86-64": ("x86_64-pc-windows-msvc", EXTRAS),
}


def missing(platform: str, extras: tuple[str, ...], python: str, newest: bool) -> str:
    """What cannot be resolved, in uv's words; empty where everything can."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-build", "--no-header"]
    command += ["--python-platform", platform, "--python-version", python, "--output-file", os.devnull]
    command += [word for extra in extras for word in ("--extra", extra)]
    command += [] if newest else ["--constraint", str(ROOT / "constraints.txt")]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(
        [*command, str(ROOT / "pyproject.toml")], env=env, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    """One line for each system and Python."""
    newest, failed = "--newest" in sys.argv[1:], 0
    for system, (platform, extras) in SYSTEMS.items():
        for python in PYTHONS:
            why = missing(platform, extras, python, newest)
            failed += bool(why)
            print(f"{system}, Python {python}: {why or 'every wheel is there'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
