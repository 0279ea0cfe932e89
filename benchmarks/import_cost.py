"""What the installed plugin adds to `pytest --help` and to collecting an unrelated test: medians of 20 paired runs.

Wall time and, since that moves by more than the plugin costs on a shared machine, CPU time of the process.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "test_unrelated.py").write_text("def test_unrelated():\n    pass\n")
    for name, arguments in (("--help", ["--help"]), ("collection", ["--collect-only", "-q"])):
        wall: dict[str, list[float]] = {"with": [], "without": []}
        cpu: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(20):
            arms = [("with", []), ("without", ["-p", "no:qguard"])]
            for key, extra in arms[:: 1 if turn % 2 else -1]:
                start = time.perf_counter()
                command = [sys.executable, "-m", "pytest", *extra, *arguments]
                process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                wall[key].append((time.perf_counter() - start) * 1000)
                cpu[key].append((usage.ru_utime + usage.ru_stime) * 1000)
                assert status == 0
        for kind, times in (("wall", wall), ("CPU", cpu)):
            for what, of in (("median", statistics.median), ("fastest", min)):
                a, b = of(times["without"]), of(times["with"])
                print(f"pytest {name}: {kind} time, {what}: without {a:.0f} ms, with {b:.0f} ms, added {b - a:+.1f} ms")
