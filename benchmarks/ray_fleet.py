"""A Ray cluster of three nodes on this machine against one process: a large suite, a matrix and a self-test, and twenty kills.

usage: python benchmarks/ray_fleet.py FOLDER --data DATA --model REFERENCE [--documents 20000] [--kills 20] [--steps alone,…]

DATA holds scifact/ in BEIR's layout, tweeteval/texts.jsonl, legal_texts/texts.jsonl and stsb_en/pairs.jsonl. The documents are
their sentences, and distinct pairs of them from the number on at which they are used up; the queries are SciFact's claims. FOLDER
keeps the project, its goldens and the caches. Each step is a process of its own:

alone     encode the documents with int8 in blocks, and search them, in one process that uses all cores. No golden of them is
          recorded, which takes sentence-transformers a quarter of an hour for a million documents of a static model
fleet     the same on the cluster; vectors, their record and what is found must be the same bytes
matrix    three precisions on four suites: the same rows from one process and from the cluster
selftest  the same verdicts from processes of this machine and from the cluster
kills     the large suite again, while workers, nodes and the driver are killed at random; then compared with `alone`
matrix-kills, selftest-kills   the same of these two, with fewer kills

The cluster's nodes have one CPU each. Its head is not killed: Ray keeps the state of a cluster there. A killed node is replaced.
Efficiency is the time of one process divided by that of the cluster on the same cores.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

SMALL = ("abstracts", "tweets", "clauses", "captions")
PRECISIONS = "fp32,int8,int8-weight"
REPEATS, NODES = 6, 3
CONFIG = """[tool.qguard]
suites = ["large"]
[tool.qguard.models]
model = {model}
{suites}
[tool.qguard.latency]
mode = "off"
[tool.qguard.robustness]
mode = "off"
"""


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sources(data: Path) -> dict[str, list[tuple[str, str]]]:
    """Id and text of the sentences of each source."""
    abstracts = [
        (f"{row['_id']}-{i}", text)
        for row in lines(data / "scifact" / "corpus.jsonl")
        for i, text in enumerate(re.split(r"(?<=[.!?])\s+", row["text"]))
        if len(text) > 30
    ]
    found = {
        "abstracts": abstracts,
        "tweets": [(f"t{i}", r["text"]) for i, r in enumerate(lines(data / "tweeteval" / "texts.jsonl"))],
        "clauses": [(f"c{i}", r["text"]) for i, r in enumerate(lines(data / "legal_texts" / "texts.jsonl"))],
        "captions": [
            (f"s{i}{side}", r[f"text_{side}"]) for i, r in enumerate(lines(data / "stsb_en" / "pairs.jsonl")) for side in "ab"
        ],
    }
    return {name: [(i, t) for i, t in rows if t.strip()] for name, rows in found.items()}


def documents(rows: list[tuple[str, str]], count: int) -> Iterator[tuple[str, str]]:
    """So many distinct texts: the sentences, then pairs of them."""
    seen: set[bytes] = set()
    some, number = list(rows), 0
    random.Random(0).shuffle(some)
    while len(seen) < count:
        key, text = some[number % len(some)]
        if turn := number // len(some):
            key, text = f"{key}+{turn}", f"{text} {some[(number * 7919 + turn * 104729) % len(some)][1]}"
        number += 1
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield key, text


def project(folder: Path, data: Path, model: str, count: int) -> None:
    """The project with its suites."""
    found, suites = sources(data), []
    for name in SMALL:
        texts = list(dict.fromkeys(text for _, text in found[name]))[:400]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        suites.append(f'[tool.qguard.suite.{name}]\npath = "{name}.jsonl"')
    (folder / "large").mkdir()
    rows = [row for name in SMALL for row in found[name]]
    abstracts: dict[str, list[str]] = {}
    with (folder / "large" / "corpus.jsonl").open("w") as file:
        for key, text in documents(rows, count):
            file.write(json.dumps({"_id": key, "text": text}) + "\n")
            if "+" not in key and key[0].isdigit():
                abstracts.setdefault(key.partition("-")[0], []).append(key)
    judged = [line.split("\t") for line in (data / "scifact" / "qrels.tsv").read_text().splitlines()[1:]]
    pairs = [(q, d) for q, document, grade in judged if int(grade) for d in abstracts.get(document, ())]
    (folder / "large" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t1\n" for q, d in pairs))
    claims = {q for q, _ in pairs}
    (folder / "large" / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": r["_id"], "text": r["text"]}) + "\n"
            for r in lines(data / "scifact" / "queries.jsonl")
            if r["_id"] in claims
        )
    )
    suites.append('[tool.qguard.suite.large]\npath = "large"')
    (folder / "pyproject.toml").write_text(CONFIG.format(model=json.dumps(model), suites="\n".join(suites)))


def low(count: int) -> None:
    """A suite of so many documents is large, also where it is small enough to be held."""
    from qguard.suites import corpus

    corpus.LARGE = min(corpus.LARGE, count - 1)


def encode(folder: Path, count: int, address: str) -> dict[str, Any]:
    """Encode and search with int8; digests and seconds."""
    from qguard.config import load_config
    from qguard.fleet import connect
    from qguard.goldens.vectors import BLOCK, candidate_coder, encode_corpus
    from qguard.judging.nodes import candidate_elsewhere
    from qguard.judging.session import Session, Target
    from qguard.metrics.neighbours import search
    from qguard.precisions import parse_precision
    from qguard.vectors.similarity import similarity_of

    low(count)
    session = Session(load_config(folder), fleet=connect(address) if address else None)
    precision = parse_precision("int8")
    target, suite = Target(precision, "model", SMALL[0]), session.suite("large")
    assert suite.corpus is not None
    similarity = similarity_of(session.model("model").pipeline)
    encoder = session.encoder(precision, "model")
    queries = encoder.encode([suite.texts[q] for q in suite.queries], "query")
    coder = candidate_coder(session.artifact(precision, "model"), precision, "cpu", lambda: encoder, similarity)
    if session.fleet is not None:
        coder = replace(coder, elsewhere=candidate_elsewhere(session, target, session.fleet))
    began = time.perf_counter()
    vectors, _ = encode_corpus(suite.corpus, coder, BLOCK)
    encoded = time.perf_counter()
    rows, scores = search(suite, queries, vectors, similarity, session.fleet)
    ended = time.perf_counter()
    state = (vectors.path.parent / "state.json").read_bytes()
    assert vectors.path.stat().st_size == vectors.rows * vectors.dim * 4, "rows that nobody asked for"
    assert len(vectors.blocks) == -(-vectors.rows // BLOCK), "blocks that were encoded twice"
    return {
        "same": [digest(vectors.path), *(hashlib.sha256(x).hexdigest() for x in (state, rows.tobytes(), scores.tobytes()))],
        "encode": encoded - began, "search": ended - encoded, "rows": vectors.rows,
    }  # fmt: skip


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command(name: str, folder: Path, address: str, faults: str) -> dict[str, Any]:
    """A command of qguard: what it found, without times."""
    from qguard import cli
    from qguard.judging import compare

    out = folder / f"{name}-{'ray' if address else 'alone'}.json"
    common = ["--json", str(out), "--config", str(folder), *(("--ray", address) if address else ())]
    compare.speed = lambda *_: (1.0, False)  # times are another matter
    began = time.perf_counter()
    if name == "matrix":
        code = cli.main(["compare", "--precision", PRECISIONS, *(x for s in SMALL for x in ("--suite", s)), *common])
    else:
        only = [x for f in faults.split(",") if f for x in ("--fault", f)]
        code = cli.main(["selftest", "--precision", "int8", "--suite", "tweets", "--repeats", str(REPEATS), *only, *common])
    seconds, found = time.perf_counter() - began, json.loads(out.read_text())
    for row in (*found.get("results", ()), *found.get("repeats", ())):
        row.pop("seconds", None)
        row.pop("process", None)
    found.pop("fleet", None)
    count = len(found.get("rows", ())) or len(found["results"]) + len(found["repeats"])
    text = json.dumps(found, sort_keys=True)
    return {"same": [hashlib.sha256(text.encode()).hexdigest(), code], "seconds": seconds, "rows": count}


def step(name: str, folder: Path, count: int, address: str, faults: str = "") -> dict[str, Any]:
    """One step, in a process of its own."""
    if name == "golden":
        from qguard import goldens
        from qguard.config import load_config
        from qguard.judging.session import Session

        session = Session(load_config(folder))
        for suite in SMALL:
            goldens.record(session.model("model"), session.suite(suite), session.config.golden_root, "benchmark")
        return {}
    return encode(folder, count, address) if name == "encode" else command(name, folder, address, faults)


class Cluster:
    """Nodes of one CPU each, in this process' hands; drivers are processes of their own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster as Nodes

        room = {"num_cpus": 1, "object_store_memory": 300 << 20, "include_dashboard": False}
        self._room = room
        self.nodes = Nodes(initialize_head=True, head_node_args=room)
        # at addresses of their own: a driver belongs to the node of its machine's address, which is the head
        self._addresses = itertools.count(2)
        for _ in range(NODES - 1):
            self.add()
        self.address: str = self.nodes.address

    def kill_node(self, random_: random.Random) -> None:
        """End a node at once, and start another one."""
        some = [n for n in self.nodes.list_all_nodes() if n is not self.nodes.head_node]
        self.nodes.remove_node(random_.choice(some), allow_graceful=False)
        self.add()

    def add(self) -> None:
        """Start another node."""
        self.nodes.add_node(**self._room, node_ip_address=f"127.0.0.{next(self._addresses)}")

    def kill_worker(self, random_: random.Random) -> bool:
        """End a process that does tasks."""
        raylets = {n.all_processes["raylet"][0].process.pid for n in self.nodes.list_all_nodes()}
        workers = [pid for pid, parent, name in processes() if parent in raylets and name.startswith("ray::on_node")]
        if not workers:
            return False
        os.kill(random_.choice(workers), signal.SIGKILL)
        return True

    def close(self) -> None:
        """End all nodes."""
        self.nodes.shutdown()


def processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent and command line of each process."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "status").read_text()
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        yield int(place.name), int(re.search(r"^PPid:\s+(\d+)", status, re.M)[1]), line  # type: ignore[index]


def started(name: str, given: argparse.Namespace, cache: str, address: str = "") -> subprocess.Popen[str]:
    """The process of a step."""
    environment = {**os.environ, "QGUARD_CACHE": str(given.folder / cache)}
    line = [sys.executable, __file__, str(given.folder), "--documents", str(given.documents), "--step", name, "--ray", address,
            "--faults", given.faults]  # fmt: skip
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)


def done(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a step found."""
    text = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"a step ended with {process.returncode}")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def killed(name: str, given: argparse.Namespace, cluster: Cluster, kills: int, cache: str) -> dict[str, Any]:
    """A step, while something is killed at random every few seconds; the driver is started again when it was killed."""
    chance, counts, drivers, ended = random.Random(given.seed), {"worker": 0, "node": 0, "driver": 0}, 1, list[Any]()
    process, began = started(name, given, cache, cluster.address), time.perf_counter()
    while sum(counts.values()) < kills:
        try:
            process.wait(chance.uniform(*given.between))
        except subprocess.TimeoutExpired:
            what = chance.choice([name for name, count in counts.items() if count == min(counts.values())])
            if what == "node":
                cluster.kill_node(chance)
            elif what == "driver":
                process.kill()
                process.communicate()
                process, drivers = started(name, given, cache, cluster.address), drivers + 1
            elif not struck(cluster, chance, process):
                continue  # it ended meanwhile
            counts[what] += 1
            print(f"{time.perf_counter() - began:.0f} s: a {what} was killed", file=sys.stderr, flush=True)
            continue
        ended.append(done(process)["same"])  # it was quicker than the kills: the same again, from nothing
        clear(given.folder / cache)
        process, drivers = started(name, given, cache, cluster.address), drivers + 1
    found = done(process)
    ended.append(found["same"])
    same = ended[0] if all(e == ended[0] for e in ended) else "different"
    return {
        **found,
        "same": same,
        "kills": counts,
        "drivers": drivers,
        "ended": len(ended),
        "seconds": time.perf_counter() - began,
    }


def struck(cluster: Cluster, chance: random.Random, process: subprocess.Popen[str]) -> bool:
    """End a worker as soon as one works; false where the driver ends before."""
    while process.poll() is None:
        if cluster.kill_worker(chance):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def cluster_of(folder: Path) -> Iterator[Cluster]:
    """The cluster, ended whatever happens."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()


def main() -> None:
    """Make the project, run the steps, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(2.0, 6.0), help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default="alone,fleet,matrix,selftest,kills,matrix-kills,selftest-kills")
    parser.add_argument("--faults", default="", help="of the self-test, separated by commas; all of them by default")
    parser.add_argument("--step")
    parser.add_argument("--ray", default="")
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    if given.step:
        print(json.dumps(step(given.step, given.folder, given.documents, given.ray, given.faults)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder / "pyproject.toml").exists():
        project(given.folder, given.data, given.model, given.documents)
    if not (given.folder / "golden" / "model" / "captions").exists():
        done(started("golden", given, "cache"))
    for cache in ("cache-ray", "cache-kills"):  # artifacts and goldens are made once; vectors are not
        (given.folder / cache).mkdir(exist_ok=True)
    steps = given.steps.split(",")
    print("| step | one process, s | cluster, s | efficiency | |\n|---|--:|--:|--:|---|", flush=True)
    alone: dict[str, Any] = {}
    if "alone" in steps:
        clear(given.folder / "cache")
        alone = done(started("encode", given, "cache"))
        (given.folder / "alone.json").write_text(json.dumps(alone))
    elif (given.folder / "alone.json").exists():
        alone = json.loads((given.folder / "alone.json").read_text())
    with cluster_of(given.folder) as cluster:
        if "fleet" in steps:
            clear(given.folder / "cache-ray")
            found = done(started("encode", given, "cache-ray", cluster.address))
            for part in ("encode", "search"):
                row(f"{part} {found['rows']} documents", alone[part], found[part], found["same"] == alone["same"])
        for name in ("matrix", "selftest"):
            if name in steps:
                one = done(started(name, given, "cache"))
                found = done(started(name, given, "cache-ray", cluster.address))
                row(f"{name} of {one['rows']}", one["seconds"], found["seconds"], one["same"] == found["same"])
                (given.folder / f"{name}-same.json").write_text(json.dumps(one))
        for name, kills in (("kills", given.kills), ("matrix-kills", 3), ("selftest-kills", 6)):
            if name in steps:
                what = name.removesuffix("-kills").replace("kills", "encode")
                clear(given.folder / "cache-kills")
                one = alone if what == "encode" else json.loads((given.folder / f"{what}-same.json").read_text())
                found = killed(what, given, cluster, kills, "cache-kills")
                killed_ = ", ".join(f"{n} {what}s" for what, n in found["kills"].items())
                words = f"in {found['ended']} runs by {found['drivers']} drivers; killed: {killed_}"
                row(f"{what} under kills", None, found["seconds"], one["same"] == found["same"], words)


def clear(cache: Path) -> None:
    """Vectors of a corpus are encoded anew."""
    for place in cache.glob("corpus-*"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def row(name: str, one: float | None, many: float, same: bool, words: str = "") -> None:
    """A line of the table."""
    ratio = f"{one / many:.2f} | " if one else " | "
    print(
        f"| {name} | {f'{one:.1f}' if one else ''} | {many:.1f} | {ratio}{'same' if same else 'DIFFERENT'} {words} |", flush=True
    )


if __name__ == "__main__":
    main()
