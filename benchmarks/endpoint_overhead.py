"""What a server adds to the time of judging int8 of MiniLM on ``core``: the gate in this process and through ``qguard serve``.

Both judge the same artifact with the same golden, one after the other in each round, and the order changes from round to round.
Seconds are those of the whole command, imports and the reading of the golden included. The server is started before and stays.

usage: python benchmarks/endpoint_overhead.py [ROUNDS]    3 unless said; a round takes some minutes on two cores
"""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAMILIES = "embeddings or similarity or ranking or task"  # what both judge
SERVE = "import sys; from qguard.cli import main; sys.exit(main())"
OFF = ("--qguard-latency=off", "--qguard-robustness=off", "-p", "no:cacheprovider", "-q")


def seconds(*options: str) -> float:
    """The time of a gate, which has to pass."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "pytest", *OFF, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"expected that {' '.join(options)} passes, found exit status {done.returncode}:\n{done.stdout[-2000:]}")
    return took


def main(rounds: int) -> None:
    """Print seconds and ratios."""
    serve = [sys.executable, "-c", SERVE, "serve", "--precision", "int8", "--port", "0"]
    with subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found, "int8 is not served"
            served = ("--precision", "served", "--endpoint", found[0])
            ways = {
                "in this process": ("--precision", "int8", "-k", FAMILIES),
                "through the server": (*served, "-k", FAMILIES),
                "with test_service": (*served, "-k", f"{FAMILIES} or service"),
            }
            took: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(rounds):
                for name in list(ways)[:: -1 if turn % 2 else 1]:
                    took[name].append(seconds(*ways[name]))
                    print(f"round {turn + 1}: {name} {took[name][-1]:.1f} s", flush=True)
        finally:
            server.kill()
    own = took["in this process"]
    print("| | seconds, median | over in process, median of rounds |\n|---|--:|--:|")
    for name, times in took.items():
        ratios = [a / b for a, b in zip(times, own, strict=True)]
        print(f"| {name} | {statistics.median(times):.1f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
