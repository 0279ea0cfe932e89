"""A Ray cluster as a fleet: Ray schedules tasks and tries them again when a worker or a node is gone."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qguard.errors import LibraryProblem, MeasurementProblem, UsageProblem, first_line
from qguard.extras import install
from qguard.fleet.fleet import Item, Result
from qguard.fleet.kept import Kept
from qguard.fleet.nodes import Node, digest, facts, refusal, unlike
from qguard.fleet.work import Shared, Told, perform, result_of

RETRIES = 5  # of a task whose worker or node is gone; Ray counts them
AHEAD = 2  # tasks in flight for each CPU: the next one is there when one is done
BUFFERED = 4  # results for each CPU that wait for an earlier one
ANSWER = 120.0  # seconds that a node may take to say what it is: its first worker starts meanwhile
ALONE = 60.0  # seconds without any node before the run gives up; what is done is kept
CONNECT = 5.0  # seconds
_LOOK = 5.0  # seconds between two looks at the nodes while nothing comes
# one thread a task: Ray gives a worker OMP_NUM_THREADS of its own, which the environment of a node may override
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
# what Ray raises where the process of a task, or its machine, ended
_GONE = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "ActorDiedError", "TaskUnschedulableError")
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")


def connect(address: str, alike: bool = False) -> RayFleet:
    """The fleet of a running Ray cluster, once every node has told what it is.

    Args:
        address: ``auto`` for the cluster that this machine is a node of, or ``HOST:PORT`` of its head.
        alike: Leave out nodes that differ from this machine, in place of refusing them.

    Raises:
        LibraryProblem: where Ray is not installed.
        UsageProblem: for an address of another form.
        MeasurementProblem: where no cluster answers, or a node differs from this machine in what decides results.
    """
    try:
        import ray
    except ModuleNotFoundError as e:
        raise LibraryProblem(f"--ray needs ray, which is not installed; run: {install('ray')}") from e
    _reach(address)
    start = "start one: ray start --head, and on each further machine: ray start --address HOST:6379"
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will be; Ray warns until it is said
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": _ENVIRONMENT})
        except Exception as e:  # ConnectionError, RuntimeError for other versions, and errors of its own
            raise MeasurementProblem(f"--ray {address}: cannot join the Ray cluster ({first_line(e)}); {start}") from None
    _keep_quiet()
    found = RayFleet(ray, *_told(ray), alike)
    return found


def _keep_quiet() -> None:
    """Ray prints the death of a node to standard output, whatever it was told of logs; there a command writes its results."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):  # no public setting turns it off
        worker.print_to_stdstream = lambda *_, **__: None


def _reach(address: str) -> None:
    """An address of the right form, at which something listens."""
    if address == "auto":
        return
    found = _ADDRESS.fullmatch(address)
    if address.startswith("ray://"):
        raise UsageProblem(
            f"--ray {address}: expected auto or HOST:PORT, found an address of Ray Client, through which every block of a suite "
            "would be sent twice; run the command on a machine of the cluster: ray start --address HOST:6379"
        )
    if found is None or int(found["port"]) > 65535:
        raise UsageProblem(f"--ray {address}: expected auto, or HOST:PORT such as 10.0.0.1:6379")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), CONNECT).close()
    except OSError as e:
        raise MeasurementProblem(
            f"--ray {address}: no Ray cluster answers there ({e.strerror or e}); start one with ray start --head, which prints "
            "its address, or check the address"
        ) from None


def _told(ray: Any) -> tuple[list[Node], dict[str, str]]:
    """What each node is; and the nodes that could not say it, by id, each with why. A node that ends meanwhile is none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(probe)
    asked: dict[Any, dict[str, Any]] = {}

    def ask(node: dict[str, Any]) -> None:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[remote.options(scheduling_strategy=here).remote()] = node

    for node in _alive(ray):
        if node["Resources"].get("CPU", 0) >= 1:
            ask(node)
    nodes, silent, end = list[Node](), dict[str, str](), time.monotonic() + ANSWER
    while asked and time.monotonic() < end:
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK)
        lost = list[dict[str, Any]]()
        for ref in done:
            node = asked.pop(ref)
            try:
                nodes.append(Node(node["NodeID"], str(node["NodeManagerAddress"]), _cpus(node), ray.get(ref)))
            except Exception as e:  # it has no qguard, another Python, or is gone
                if type(e).__name__ in _GONE:
                    lost.append(node)
                else:
                    silent[node["NodeID"]] = f"node {node['NodeManagerAddress']} ({_cpus(node)} CPUs): {_why(e)}"
        if asked or lost:
            still = {n["NodeID"] for n in _alive(ray)}
            asked = {ref: node for ref, node in asked.items() if node["NodeID"] in still}
            for node in lost:
                if node["NodeID"] in still:  # its worker ended, or nobody knows yet that the node did
                    time.sleep(0.5)
                    ask(node)
    for node in asked.values():
        silent[node["NodeID"]] = f"node {node['NodeManagerAddress']} ({_cpus(node)} CPUs): no answer within {ANSWER:.0f} s"
    return sorted(nodes, key=lambda n: (n.address, n.id)), silent


def _alive(ray: Any) -> list[dict[str, Any]]:
    """The nodes that are alive.

    Raises:
        MeasurementProblem: where the one that this process belongs to is not: nothing is done any more.
    """
    found: list[dict[str, Any]] = [n for n in ray.nodes() if n["Alive"]]
    if ray.get_runtime_context().get_node_id() not in {n["NodeID"] for n in found}:
        raise MeasurementProblem(
            "the Ray node of this machine ended; results so far are kept: start it (ray start --address HOST:6379), and run again"
        )
    return found


def _cpus(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))


def _why(error: Exception) -> str:
    text = str(error)
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return f"{missing[1]} is not installed there, or of another version"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def probe() -> dict[str, Any]:
    """What the machine that it runs on is."""
    return facts()


def on_node(*args: Any) -> tuple[dict[str, Any], bytes]:
    """See :func:`qguard.fleet.work.perform`; in one thread, and with the node that it ran on."""
    import ray

    from qguard.machine.cpu import limit

    limit(1)
    told, data = perform(*args)
    return {**told, "node": ray.get_runtime_context().get_node_id()}, data


@dataclass
class _Task:
    """A task in flight."""

    number: int
    item: Item
    key: str = ""
    contents: Any = None
    data: bytes = b""


@dataclass
class RayFleet:
    """See :class:`qguard.fleet.Fleet`.

    Attributes:
        nodes: Those that do tasks.
        alike: Whether nodes that differ are left out; otherwise they are refused.
        silent: Nodes that could not say what they are, by id, each with why.
        left_out: How many are.
    """

    ray: Any
    nodes: list[Node]
    silent: dict[str, str]
    alike: bool = False
    left_out: int = 0
    _excluded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        others = unlike(facts(), self.nodes)
        if (others or self.silent) and not self.alike:
            if others:
                raise refusal(facts(), self.nodes)
            raise MeasurementProblem(
                "\n  ".join(["nodes of the Ray cluster cannot be used:", *self.silent.values()])
                + "\nInstall the same qguard there; or leave such nodes out of this run: --ray-alike"
            )
        self._excluded = {*(n.id for n in others), *self.silent}
        self.left_out = len(self._excluded)
        self.nodes = [n for n in self.nodes if n.id not in self._excluded]
        if not self.nodes:
            raise MeasurementProblem(
                "no node of the Ray cluster is like this machine and has a CPU for tasks; run the command on a machine like "
                "the nodes" + "".join(f"\n  {line}" for line in self.silent.values())
            )

    @property
    def lanes(self) -> int:
        """See :class:`qguard.fleet.Fleet`."""
        return sum(n.cores for n in self.nodes)

    @property
    def facts(self) -> dict[str, Any]:
        """See :class:`qguard.fleet.Fleet`."""
        engine = f"ray {self.ray.__version__}"
        return {
            "engine": engine,
            "nodes": len(self.nodes),
            "cpus": self.lanes,
            "left_out": self.left_out,
            "alike": digest()[:16],
        }

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()

    def map(self, task: str, shared: Shared, items: Iterable[Item], kept: Kept | None = None) -> Iterator[Result]:
        """See :class:`qguard.fleet.Fleet`."""
        run = _Run(self, task, shared, kept)
        try:
            yield from run.results(iter(items))
        except Exception as e:
            if type(e).__module__.partition(".")[0] != "ray":
                raise
            raise self.problem(e, task) from None
        finally:
            run.cancel()

    def problem(self, error: Exception, task: str) -> MeasurementProblem:
        """An error of Ray, in words."""
        what = task.rpartition(":")[2].strip("_")
        if "OutOfMemory" in type(error).__name__:
            return MeasurementProblem(
                f"a node had too little memory for the task {what!r}; give nodes fewer CPUs: ray start --num-cpus"
            )
        if type(error).__name__ in _GONE:
            return MeasurementProblem(
                f"the task {what!r} ended the process of its worker {RETRIES + 1} times (out of memory?); results so far are "
                "kept, run again"
            )
        return MeasurementProblem(f"Ray could not do the task {what!r} ({_why(error)}); results so far are kept, run again")

    def exclude(self, told: Mapping[str, Any]) -> None:
        """A node joined meanwhile that differs.

        Raises:
            MeasurementProblem: where such nodes are refused.
        """
        if not self.alike:
            raise refusal(facts(), [*self.nodes, Node(told["node"], "that joined meanwhile", 1, told["facts"])])
        self._excluded.add(told["node"])
        self.left_out += 1

    def remote(self) -> Any:
        """The function that Ray calls on a node."""
        where = {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(self._excluded))})"}} if self._excluded else {}
        return self.ray.remote(num_cpus=1, max_retries=RETRIES)(on_node).options(**where)

    def alone(self) -> bool:
        """Whether no node is left that could do a task; raises where that of this machine ended."""
        return not [n for n in _alive(self.ray) if _cpus(n) and n["NodeID"] not in self._excluded]


class _Run:
    """One call of :meth:`RayFleet.map`."""

    def __init__(self, fleet: RayFleet, task: str, shared: Shared, kept: Kept | None) -> None:
        self.fleet, self.task, self.shared, self.kept = fleet, task, shared, kept
        self.ray, self.remote = fleet.ray, fleet.remote()
        self.given = self.ray.put(shared.to_json())
        self.parts = {p.name: p for p in shared.parts}
        self.sent: dict[tuple[str, ...], Any] = {}
        self.waiting: dict[Any, _Task] = {}
        self.ready: dict[int, Told] = {}

    def results(self, items: Iterator[Item]) -> Iterator[Result]:
        """In the order of the items."""
        taken, given, more = 0, 0, True
        while True:
            while more and len(self.waiting) < AHEAD * self.fleet.lanes and taken - given < BUFFERED * self.fleet.lanes:
                item = next(items, None)
                if item is None:
                    more = False
                    break
                self._take(_Task(taken, item))
                taken += 1
            if given in self.ready:
                yield result_of(self.ready.pop(given))
                given += 1
                continue
            if given == taken and not more:
                return
            self._await()

    def cancel(self) -> None:
        """Nobody waits for what is still in flight."""
        for ref in self.waiting:
            try:
                self.ray.cancel(ref)
            except Exception:  # it is done, or the cluster is gone
                return

    def _take(self, task: _Task) -> None:
        if self.kept:
            task.key = self.kept.key(self.task, self.shared.key, task.item.given, task.item.data)
        found = self.kept.read(task.key) if self.kept else None
        if found is not None:
            self.ready[task.number] = {"told": "done", "result": found[0]}, found[1]
        else:
            task.data = task.item.data
            self._submit(task)

    def _submit(self, task: _Task) -> None:
        ref = self.remote.remote(self.task, self.given, digest(), task.item.given, task.data, task.contents)
        self.waiting[ref] = task

    def _await(self) -> None:
        """Wait until something is done, and see what it says."""
        begun = time.monotonic()
        while True:
            done, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=_LOOK)
            if done:
                break
            if not self.fleet.alone():
                begun = time.monotonic()
            elif time.monotonic() - begun > ALONE:
                raise MeasurementProblem(
                    f"no node of the Ray cluster is left since {ALONE:.0f} s; results so far are kept: start nodes, and run again"
                )
        done, _ = self.ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=0)
        for ref in done:
            self._see(self.waiting.pop(ref), self.ray.get(ref))

    def _see(self, task: _Task, found: Told) -> None:
        told, data = found
        if told["told"] == "unlike":
            self.fleet.exclude(told)
            self.remote = self.fleet.remote()
            self._submit(task)
        elif told["told"] == "parts":
            names = tuple(sorted(told["names"]))
            if names not in self.sent:
                self.sent[names] = self.ray.put({name: self.parts[name].contents() for name in names})
            task.contents = self.sent[names]
            self._submit(task)
        elif told["told"] == "data" and task.item.later is not None and not task.data:
            task.data = task.item.later()
            self._submit(task)
        else:
            if self.kept and told["told"] == "done":
                self.kept.write(task.key, (told["result"], data))
            self.ready[task.number] = found
