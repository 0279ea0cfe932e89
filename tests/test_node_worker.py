"""The worker of Node.js: frames, errors in words, and an end with its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qguard.errors import MeasurementProblem
from qguard.javascript.frames import LARGEST
from qguard.javascript.packages import Packages, node
from qguard.javascript.worker import NodeWorker, RefusedByWorker
from tests.conftest import ROOT
from tests.javascript import without_node

ECHO = Path(__file__).parent / "javascript" / "echo.mjs"
needs_node = pytest.mark.skipif(bool(without_node()), reason=without_node())


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    """A node_modules with one package, which npm would lay out so: only ECMAScript's ``import`` may open it."""
    folder = tmp_path_factory.mktemp("project") / "node_modules"
    package = folder / "@acme" / "numbers"
    package.mkdir(parents=True)
    about = {"name": "@acme/numbers", "version": "1.2.3", "type": "module", "exports": {".": {"import": "./main.js"}}}
    (package / "package.json").write_text(json.dumps(about))
    (package / "main.js").write_text("export default { seven: 7 };\n")
    return folder


@pytest.fixture(scope="module")
def worker(modules):
    with NodeWorker(ECHO, modules) as worker:
        yield worker


@needs_node
def test_values_and_arrays_come_back_as_they_were_sent(worker):
    arrays = {
        "bytes": np.array([1, 2, 255], np.uint8),  # what follows starts at no multiple of its size
        "vectors": np.float32([[np.nan, -0.0, 1e-45], [np.inf, 0.1, 3]]),
        "ids": np.array([[-(2**63), 2**63 - 1]]),
        "none": np.empty((0, 384), np.float32),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    }
    texts = ["plain", "\ud800 alone", "각 \u0000 🧪", "x" * 100_000]
    answer = worker.ask("echo", arrays, texts=texts)
    assert answer.values["texts"] == texts
    for name, array in arrays.items():
        assert answer.arrays[name].dtype == array.dtype
        assert answer.arrays[name].shape == array.shape
        assert answer.arrays[name].tobytes() == np.ascontiguousarray(array).tobytes()


@needs_node
def test_a_large_frame_comes_whole(worker):
    large = np.random.default_rng(0).standard_normal(2_000_000)
    assert np.array_equal(worker.ask("echo", {"large": large}).arrays["large"], large)
    with pytest.raises(MeasurementProblem, match=f"a worker takes {LARGEST} at most"):
        worker.ask("echo", {"larger": np.broadcast_to(0.0, LARGEST // 8)})
    assert worker.ask("echo", still="there").values == {"still": "there"}


@needs_node
def test_packages_are_those_of_the_given_folder(worker):
    assert worker.ask("load", name="@acme/numbers").values == {"seven": 7}
    assert worker.packages.need("@acme/numbers") == {"@acme/numbers": "1.2.3"}


@needs_node
def test_an_error_of_the_script_is_told_and_the_worker_goes_on(worker):
    with pytest.raises(RefusedByWorker, match=r"^RangeError: a text of 600 tokens is too long$"):
        worker.ask("raise")
    with pytest.raises(RefusedByWorker, match="no task toString"):
        worker.ask("toString")
    assert worker.ask("print").values == {}  # what a package prints is no answer


@needs_node
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("die", r"ended or cannot be read: Error: out of memory\\x1b\[2J"),
        ("garble", "something else than an answer"),
        ("sleep", "no answer in 0.5 seconds"),
        ("spin", "no answer in 0.5 seconds"),
    ],
)
def test_a_worker_that_ends_or_hangs_is_an_error_in_words(modules, task, words):
    worker = NodeWorker(ECHO, modules)
    if "0.5 seconds" in words:
        worker._timeout = 0.5
    with pytest.raises(MeasurementProblem, match=words):
        worker.ask(task)
    with pytest.raises(MeasurementProblem, match="ended"):
        worker.ask("echo")
    assert not _alive(worker.pid)


@needs_node
def test_it_ends_with_the_process_that_started_it(modules):
    code = (
        "import sys, time; from pathlib import Path; from qguard.javascript.worker import NodeWorker\n"
        "worker = NodeWorker(Path(sys.argv[1]), Path(sys.argv[2])); print(worker.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(ECHO), str(modules)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while _alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_without_node_the_message_says_what_to_install():
    with pytest.raises(MeasurementProblem, match=r"Node.js 20 or newer, found no program 'no-such-node'; install it"):
        node("no-such-node")


def test_a_node_that_is_too_old_is_refused(tmp_path):
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v18.19.0\n")
    old.chmod(0o755)
    with pytest.raises(MeasurementProblem, match=r"'.*node' says v18\.19\.0"):
        node(str(old))


def test_an_absent_package_is_named_with_the_command_that_installs_it(tmp_path):
    packages = Packages(tmp_path / "node_modules")
    with pytest.raises(MeasurementProblem, match="@huggingface/transformers is not installed") as e:
        packages.need("@huggingface/transformers")
    assert f"npm install --ignore-scripts --prefix {tmp_path} @huggingface/transformers@4.3.1" in str(e.value)
    with pytest.raises(MeasurementProblem, match="expected a folder called node_modules"):
        NodeWorker(ECHO, tmp_path)
