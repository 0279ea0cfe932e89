"""A golden survives kills, concurrent writers, a full disk and a read-only folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qguard import goldens as golden
from qguard.config import load_config
from qguard.goldens import recording, stored
from qguard.goldens.reference import Outputs
from qguard.judging.session import Session
from tests.machine import long_but

# For each line that it reads, a process that stores two goldens in turn, for ever, through the code that `golden update`
# stores with; the slow encoding is left out, and so are fifty starts of Python.
WRITERS = """
import hashlib, os, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save
from qguard import goldens as golden
folder = Path(sys.argv[1])
for _ in sys.stdin:
    if not os.fork():
        break
    os.wait()
    print("dead", flush=True)
else:
    sys.exit()
for i in range(10**9):
    v = np.full((40, 384), float(i % 2 + 1), np.float32)
    data = save({"vectors": v, "token_ids": np.ones(40, np.int32), "token_offsets": np.arange(41, dtype=np.int64)})
    hashes = dict.fromkeys(("weights", "tokenizer", "pipeline", "suite"), str(i % 2))
    summary = b"turn %d" % (i % 2)
    sums = {"data_sha256": hashlib.sha256(data).hexdigest(), "summary_sha256": hashlib.sha256(summary).hexdigest()}
    manifest = {"schema": 1, "hashes": hashes, **sums}
    with golden.locked(folder):
        golden.store(folder, data, manifest, summary)
    if i == 0:
        print(os.getpid(), flush=True)
"""


def whole(folder) -> None:
    found = golden.read(folder)
    value = float(found.manifest["hashes"]["weights"]) + 1
    assert np.array_equal(found.vectors, np.full((40, 384), value, np.float32))


class Writers:
    """Starts writers, one at a time, and kills them."""

    def __init__(self, folder):
        command = [sys.executable, "-c", WRITERS, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.writer = int(self.process.stdout.readline())

    def kill(self):
        os.kill(self.writer, signal.SIGKILL)
        assert self.process.stdout.readline() == "dead\n"

    def close(self):
        self.process.communicate()


@pytest.mark.parametrize("count", long_but([10], [10, 50]))
def test_kill_at_random_moments_leaves_a_whole_golden(tmp_path, count):
    folder = tmp_path / "m" / "s"
    folder.mkdir(parents=True)
    moments, writers = random.Random(0), Writers(folder)
    for _ in range(count):
        writers.start()
        time.sleep(moments.uniform(0, 0.05))
        writers.kill()
        whole(folder)
    writers.close()


def test_two_writers_and_a_reader_never_see_a_torn_golden(tmp_path):
    folder = tmp_path / "m" / "s"
    folder.mkdir(parents=True)
    both = [Writers(folder), Writers(folder)]
    for writers in both:
        writers.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            whole(folder)
    finally:
        for writers in both:
            writers.kill()
            writers.close()


def test_a_failed_write_leaves_the_old_golden(judged, tmp_path, monkeypatch):
    import shutil

    from qguard.errors import GoldenProblem

    session, folder = Session(load_config(judged("dense"))), tmp_path / "tiny" / "own"
    shutil.copytree(session.config.golden_root / "tiny" / "own", folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    old = golden.read(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "fp32_outputs", lambda _, s: Outputs(s, old.vectors + np.float32(1e-6), old.token_ids, {}))
    monkeypatch.setattr(recording, "confirm", lambda *_: {"mean": old.vectors})
    monkeypatch.setattr(stored, "write_atomic", full)
    with pytest.raises(GoldenProblem, match=r"No space left on device; the old golden is untouched"):
        golden.record(session.model("tiny"), session.suite_of("own", "tiny"), tmp_path, "why")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
