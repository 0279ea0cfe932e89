"""Whole-process time of the warm int8 gate against benchmarks/minimal_gate.py, in turn. Run in the project's root.

usage: python benchmarks/warm_gate.py [REV [--whole]]

The ratio is that of the gate without generated texts, which the minimal script has none of; with them is a column of its own.
With REV the gate of that commit runs in turn with today's instead, with the packages of this environment, and the ratio is
today's time over its; both without generated texts. With --whole both judge every family in six latency buckets, as
`pytest --precision int8` does, five times each.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.precisions import parse_precision

# a warm gate has its bytecode cached, as Python does unless it is told otherwise
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


GATE = ["-m", "pytest", "--pyargs", "qguard.gate", "--precision", "int8", "--qguard-latency=off"]
REPEATS = 8


def medians(commands: dict[str, tuple[list[str], Path, dict[str, str]]], repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of each command, all of them in turn; the first time of each, which warms the file cache, is left out."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, (command, folder, environment) in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=folder)
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def against(rev: str, whole: bool) -> None:
    """Today's gate and that of another commit."""
    gate = ["-m", "pytest", "--pyargs", "qguard.gate", "--precision", "int8"] if whole else [*GATE, "--qguard-robustness=off"]
    here = Path().resolve()
    with tempfile.TemporaryDirectory() as work:
        then = Path(work) / "then"
        subprocess.run(["git", "clone", "-q", ".", str(then)], check=True)
        subprocess.run(["git", "checkout", "-q", rev], cwd=then, check=True)
        commands = {}
        for name, root in (("then", then), ("now", here)):
            paths = {"PYTHONPATH": str(root), "QGUARD_CACHE": str(Path(work) / f"cache-{name}"), "HF_HUB_OFFLINE": "1"}
            options = [f"--qguard-config={root / 'pyproject.toml'}", "--no-qguard-strict"]
            commands[name] = ([sys.executable, *gate, *options], root, ENVIRONMENT | paths)
        found = medians(commands, 5 if whole else REPEATS)
    name, ratio = "warm gate" + ", whole" * whole, found["now"] / found["then"]
    print(f"{name}: {rev} {found['then']:.2f} s, now {found['now']:.2f} s, ratio {ratio:.3f}")


def minimal() -> None:
    """Today's gate and the least script that loads and encodes once."""
    session = Session(load_config(Path()))
    artifact = session.artifact(parse_precision("int8"), "minilm")
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as texts:
        json.dump(session.suite("core").texts, texts)
        texts.flush()
        length = str(artifact.pipeline.max_seq_length)
        tokenizer = artifact.folder / "tokenizer.json"
        least = [sys.executable, "benchmarks/minimal_gate.py", str(artifact.file), str(tokenizer), texts.name, length]
        gate = [sys.executable, *GATE]
        commands = {"minimal": least, "gate": [*gate, "--qguard-robustness=off"], "robust": gate}
        a, b, c = medians({name: (command, Path(), ENVIRONMENT) for name, command in commands.items()}).values()
    print(
        f"texts {len(session.suite('core').texts)}  minimal {a:.2f} s  gate {b:.2f} s  ratio {b / a:.2f}  "
        f"with robustness {c:.2f} s"
    )


if __name__ == "__main__":
    against(sys.argv[1], "--whole" in sys.argv) if len(sys.argv) > 1 else minimal()
