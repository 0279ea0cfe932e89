"""Does another commit give the same answers? Both judge the same artifacts, and each value, outcome and interval is compared.

usage: python benchmarks/same_answers.py [REV] [PRECISION …]        (default: 6ad15be int8 fp32 int8-dynamic per-tensor)

Run in the project's root. ``REV`` is checked out into a temporary folder, with a cache of its own, and judges with the packages
of this environment. ``per-tensor`` is int8 with one scale a matrix, made here and judged by both. Latency is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qguard.report.shape import checked

FACTS = ("value", "outcome", "interval", "items", "margin", "detectable", "on")


def judged(root: Path, cache: Path, words: list[str], to: Path) -> dict[str, Any]:
    """The report of one gate, run with the code in ``root``; a gate that fails is what some of these should do."""
    environment = {**os.environ, "PYTHONPATH": str(root), "QGUARD_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--pyargs", "qguard.gate", *words, f"--qguard-report={to}"]
    options = ["--qguard-latency=off", "--no-qguard-strict", f"--qguard-config={root / 'pyproject.toml'}", "-p", "no:randomly"]
    done = subprocess.run([*command, *options], cwd=root, env=environment, check=False, capture_output=True, text=True)
    if not to.exists():
        raise SystemExit(done.stdout + done.stderr)
    return checked(json.loads(to.read_text(encoding="utf-8")))


def per_tensor(folder: Path) -> Path:
    """int8 with one scale a matrix."""
    from qguard.config import load_config
    from qguard.judging.session import Session
    from qguard.precisions import parse_precision
    from qguard.precisions.dynamic import quantize

    source = Session(load_config(Path())).artifact(parse_precision("fp32"), "minilm").file
    assert source is not None
    target = folder / "per-tensor.onnx"
    quantize(source, target, per_channel=False)
    return target


def differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, list[str]]:
    """How many checks both have, and what differs."""
    found, lines = 0, []
    for then, now in zip(before["runs"], after["runs"], strict=True):
        name = f"{then['precision']}@{then['runtime']}"
        if then["verdict"] != now["verdict"]:
            lines.append(f"{name}: verdict {then['verdict']}, now {now['verdict']}")
        old, new = ({(c["name"], c["slice"], bool(c["accepted"])): c for c in r["checks"]} for r in (then, now))
        lines += [f"{name}: {key} is missing" for key in old.keys() - new.keys()]
        lines += [f"{name}: {key} is new" for key in new.keys() - old.keys()]
        for key in old.keys() & new.keys():
            found += 1
            facts = [*FACTS, *(["bound"] if old[key]["bound"] else [])]
            lines += [f"{name}: {key} {f} {old[key][f]}, now {new[key][f]}" for f in facts if old[key][f] != new[key][f]]
    return found, lines


def main() -> None:
    """Judge with both, and compare."""
    rev, *names = sys.argv[1:] or ["6ad15be"]
    names = names or ["int8", "fp32", "int8-dynamic", "per-tensor"]
    failed = False
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        subprocess.run(["git", "clone", "-q", ".", str(folder / "then")], check=True)
        subprocess.run(["git", "checkout", "-q", rev], cwd=folder / "then", check=True)
        for name in names:
            words = ["--precision", name]
            if name == "per-tensor":
                words = ["--precision", "int8", "--artifact", str(per_tensor(folder))]
            reports = [
                judged(root, folder / f"cache-{side}", words, folder / f"{name}-{side}.json")
                for side, root in (("then", folder / "then"), ("now", Path().resolve()))
            ]
            count, lines = differences(*reports)
            failed |= bool(lines) or not count
            print(f"{name}: verdict {reports[1]['verdict']}, {count} checks compared, {len(lines)} differences", flush=True)
            for line in lines[:20]:
                print(f"  {line}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
