"""Whole-process time of the warm int8 gate against benchmarks/minimal_gate.py, in turn. Run in the project's root.

The ratio is that of the gate without generated texts, which the minimal script has none of; with them is a column of its own.
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


def timed(command: list[str]) -> float:
    """Seconds that a command takes, output discarded; it must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - start


harness = Session(load_config(Path()))
artifact = harness.artifact(parse_precision("int8"), "minilm")
with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as texts:
    json.dump(harness.suite("core").texts, texts)
    texts.flush()
    length = str(artifact.pipeline.max_seq_length)
    tokenizer = artifact.folder / "tokenizer.json"
    minimal = [sys.executable, "benchmarks/minimal_gate.py", str(artifact.file), str(tokenizer), texts.name, length]
    gate = [sys.executable, "-m", "pytest", "--pyargs", "qguard.gate", "--precision", "int8", "--qguard-latency=off"]
    plain = [*gate, "--qguard-robustness=off"]
    commands = {"minimal": minimal, "gate": plain, "robust": gate}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(8):
        for name, command in commands.items():
            seconds = timed(command)
            if repeat:  # the first of each warms the file cache
                times[name].append(seconds)
a, b, c = (statistics.median(times[k]) for k in commands)
print(
    f"texts {len(harness.suite('core').texts)}  minimal {a:.2f} s  gate {b:.2f} s  ratio {b / a:.2f}  with robustness {c:.2f} s"
)
