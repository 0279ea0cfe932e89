"""A real cluster of three local nodes: the same results as from one process, and kills of workers, nodes and drivers."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from qguard.config import load_config
from qguard.goldens import corpus as recorded
from qguard.judging.session import Session
from tests.conftest import ROOT
from tests.test_large import BLOCK, low, project, target  # noqa: F401

pytest.importorskip("ray", reason="needs ray, which the extra ray installs")
pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="several nodes on one machine need Linux")]

# a driver: it encodes and searches, and prints what it found
DRIVER = """
import hashlib, json, sys
from pathlib import Path
from qguard.config import load_config
from qguard.fleet import connect
from qguard.judging.session import Session
from tests import test_large as t
import pytest
with pytest.MonkeyPatch.context() as patch:
    t.low(patch)
    session = Session(load_config(Path(sys.argv[1])), fleet=connect(sys.argv[2], "alike" in sys.argv) if sys.argv[2] else None)
    from qguard.vectors import shards
    shards.SMALLEST = 100
    found = session.comparison(t.target()).neighbours
    vectors = session.corpus_vectors(t.target())
    print(json.dumps([hashlib.sha256(x).hexdigest() for x in (
        vectors.path.read_bytes(), (vectors.path.parent / "state.json").read_bytes(), found.candidate.tobytes(),
        found.rescored.tobytes())]))
"""


class Nodes:
    """A head and two more nodes, of one CPU each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.room = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self.room)
        # at addresses of their own: a driver belongs to the node of its machine's address, which is the head
        self.addresses = itertools.count(2)
        for _ in range(2):
            self.add()
        self.address = self.cluster.address

    def replace_one(self, chance):
        others = [n for n in self.cluster.list_all_nodes() if n is not self.cluster.head_node]
        self.cluster.remove_node(chance.choice(others), allow_graceful=False)
        self.add()

    def add(self, **how):
        return self.cluster.add_node(**self.room, node_ip_address=f"127.0.0.{next(self.addresses)}", **how)

    def kill_worker(self, chance):
        raylets = {str(n.all_processes["raylet"][0].process.pid) for n in self.cluster.list_all_nodes()}
        shown = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in shown.splitlines()]
        # a node ends when one of its agents does, and these bear names like workers
        workers = [
            int(pid) for pid, parent, name in rows if parent in raylets and name.startswith("ray::") and "Agent" not in name
        ]
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("QGUARD_CACHE", str(tmp_path_factory.mktemp("nodes")))  # the nodes' own
        found = Nodes()
        yield found
        found.cluster.shutdown()


def driver(folder, cache, address="", *options):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "QGUARD_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-c", DRIVER, str(folder), address, *options]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def found(process, again=None):
    out, err = process.communicate(timeout=300)
    if process.returncode and again and "results so far are kept" in err:  # it belonged to the node that was killed
        return found(again())
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 1, out  # nothing of Ray's own on stdout
    return json.loads(out)


def test_three_nodes_find_what_one_process_finds(project, nodes, tmp_path):  # noqa: F811
    alone = found(driver(project[0], tmp_path / "alone"))
    assert found(driver(project[0], tmp_path / "ray", nodes.address)) == alone


def test_kills_lose_nothing(project, nodes, tmp_path):  # noqa: F811
    alone, chance = found(driver(project[0], tmp_path / "alone")), random.Random(1)
    for number, what in enumerate(("worker", "node", "driver", "worker", "driver", "node")):
        start = partial(driver, project[0], tmp_path / f"ray-{number}", nodes.address)
        process = start()
        time.sleep(chance.uniform(3, 7))
        if what == "driver":
            process.kill()
            process.communicate()
            process = start()
        elif what == "node":
            nodes.replace_one(chance)
        else:
            nodes.kill_worker(chance)
        assert found(process, start) == alone, what


def test_a_node_that_differs_is_refused_or_left_out(project, nodes, tmp_path):  # noqa: F811
    alone = found(driver(project[0], tmp_path / "alone"))
    other = nodes.add(env_vars={"OPENBLAS_CORETYPE": "Haswell"})
    try:
        process = driver(project[0], tmp_path / "refused", nodes.address)
        out, err = process.communicate(timeout=300)
        assert process.returncode
        assert out == ""
        assert "1 of 4 nodes of the Ray cluster would compute other results than this machine:" in err
        assert "(1 CPUs): OPENBLAS_CORETYPE is Haswell, here absent" in err
        assert found(driver(project[0], tmp_path / "alike", nodes.address, "alike")) == alone
    finally:
        nodes.cluster.remove_node(other)


def test_a_cluster_that_is_not_there_is_told_in_words(judged):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "qguard.cli", "compare", "--precision", "int8", "--ray", "127.0.0.1:9"]
    done = subprocess.run(line, cwd=judged("dense"), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "--ray 127.0.0.1:9: no Ray cluster answers there" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_matrix_and_a_self_test_on_nodes(judged, nodes, tmp_path):
    folder = judged("dense")

    def run(name, *options):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "QGUARD_CACHE": str(tmp_path / "cache")}
        out = tmp_path / f"{name}-{len(options)}.json"
        line = [sys.executable, "-m", "qguard.cli", name, "--precision", "fp32", "--json", str(out), *options]
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        value = json.loads(out.read_text())
        for row in (*value.get("results", ()), *value.get("repeats", ()), *value.get("rows", ())):
            for key in ("seconds", "process", "speed", "busy", "best"):
                row.pop(key, None)
        return value

    few = ("--fault", "pooling-wrong", "--fault", "golden-missing", "--repeats", "2")
    for name, options in (("compare", ()), ("selftest", few)):
        alone, there = run(name, *options), run(name, *options, "--ray", nodes.address)
        assert there.pop("fleet")["nodes"] == 3
        assert there == alone


def test_the_suite_is_large(project, monkeypatch):  # noqa: F811
    low(monkeypatch)
    assert Session(load_config(project[0])).suite("large").corpus is not None
    assert recorded.BLOCK == BLOCK
    assert str(target()) == "int8-tiny-large"
