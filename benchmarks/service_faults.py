"""Servers that break one thing, and healthy ones again and again: what ``test_service`` says of each.

Of each broken server the whole family is judged, so that the table also shows what else fails with it. A healthy server is
judged ``--runs`` times, each time against a session of its own; ``--busy`` other processes compute meanwhile.

usage: python benchmarks/service_faults.py [--runs N] [--busy N] [--minilm] [--only healthy|broken]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qguard import goldens
from qguard.config import load_config
from qguard.endpoints.settings import Endpoint
from qguard.gates.check import Check, PartlyMeasured
from qguard.judging.service import judge_service
from qguard.judging.session import Session, Target
from qguard.precisions import precision_at
from tests import kinds, servers
from tests.broken_servers import BROKEN, OF_TEI, moved

ROOT = Path(__file__).parent.parent
OF_KIND = {"cross-encoder": kinds.tiny_cross_encoder, "sparse": kinds.tiny_sparse, "dense": kinds.tiny_dense}
BURN = "import time; end = time.time() + 36000\nwhile time.time() < end: sum(range(10_000))"


def project(folder: Path, kind: str) -> Path:
    """A project with a tiny model and its golden."""
    folder = folder / kind
    folder.mkdir()
    make = OF_KIND.get(kind) or (lambda at: kinds.tiny_dense(at, exact=True))
    make(folder / "model")
    (folder / "pyproject.toml").write_text('[tool.qguard.models]\ntiny = "model"\n' + kinds.OWN_SUITE)
    kinds.write_suite(folder / "own.jsonl", pairs=kind == "cross-encoder")
    session = Session(load_config(folder))
    goldens.record(session.model("tiny"), session.suite_of("own", "tiny"), session.config.golden_root, "benchmark")
    return folder


def judged(folder: Path, url: str, model: str, **settings: Any) -> tuple[list[Check], str]:
    """The checks of a server, and what could not be measured."""
    config = load_config(folder)
    at = Target(precision_at(Endpoint("served", url, **settings)), model, config.suites[0])
    try:
        return judge_service(Session(config), at), ""
    except PartlyMeasured as e:
        return e.checks, str(e)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes compute meanwhile."""
    started = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def broken(folders: dict[str, Path], served: dict[str, Any]) -> None:
    """One line a fault."""
    every = [("openai", name, b) for name, b in BROKEN.items()] + [("tei", name, b) for name, b in OF_TEI.items()]
    for protocol, name, fault in every:
        with servers.running(fault.around(servers.application(served[fault.kind]))) as url:
            told(name, fault.metric, *judged(folders[fault.kind], url, "tiny", protocol=protocol, timeout=4, retries=0))
    app, changed = servers.application(served["dense"]), moved()(servers.application(served["dense"]))
    with servers.running(app) as url, servers.running(changed) as other:
        told("two replicas disagree", "service.replicas", *judged(folders["dense"], url, "tiny", replicas=(other,)))
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "restarted"
        app, changed = (
            servers.application(served["dense"]),
            moved()(servers.application(served["dense"])),
        )  # the others have ended
        with servers.running(servers.either(made.exists, changed, app)) as url:
            command = (sys.executable, "-c", f"open({str(made)!r}, 'w').close()")
            told("other vectors after a restart", "service.restart", *judged(folders["dense"], url, "tiny", restart=command))


def told(name: str, metric: str, checks: list[Check], problem: str) -> None:
    """A fault, what had to fail, what failed, and the reason."""
    failed = {c.name: c for c in checks if c.outcome == "fail"}
    caught = "caught" if metric in failed else "MISSED"
    others = ", ".join(sorted(failed.keys() - {metric})) or "-"
    reason = failed[metric].worst[0] if metric in failed else "-"
    print(
        f"{caught} | {name} | {metric} | others: {others} | {reason[:160]}" + (f" | {problem[:100]}" if problem else ""),
        flush=True,
    )


def healthy(folder: Path, model: str, served: Any, runs: int) -> None:
    """Judge a good server so often."""
    alarms, unmeasured, seconds = 0, 0, []
    with servers.running(servers.application(served)) as url:
        for run in range(runs):
            start = time.monotonic()
            checks, problem = judged(folder, url, model, replicas=(url,))
            seconds.append(time.monotonic() - start)
            failed = [f"{c.name} {c.value} {c.worst}" for c in checks if c.outcome == "fail"]
            alarms += bool(failed)
            unmeasured += bool(problem)
            if failed or problem:
                print(f"run {run}: {failed} {problem}", flush=True)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{model}: {runs} runs, {len(checks)} checks each, {alarms} with a false alarm, {unmeasured} not measured; "
        f"{sorted(seconds)[len(seconds) // 2]:.1f} s a run (slowest {max(seconds):.1f}); load average {load}"
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of the healthy server")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--minilm", action="store_true", help="the healthy server has int8 of MiniLM, judged on core")
    parser.add_argument("--only", choices=("healthy", "broken"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, busy(args.busy):
        needed = ["dense"] if args.only == "healthy" else ["dense", "exact", "cross-encoder", "sparse"]
        folders = {kind: project(Path(place), kind) for kind in needed} if not (args.minilm and args.only) else {}
        served = {kind: servers.model_of(folder) for kind, folder in folders.items()}
        if args.only != "healthy":
            broken(folders, served)
        if args.only != "broken" and args.minilm:
            healthy(ROOT, "minilm", servers.model_of(ROOT, name="minilm"), args.runs)
        elif args.only != "broken":
            healthy(folders["dense"], "tiny", served["dense"], args.runs)


if __name__ == "__main__":
    main()
