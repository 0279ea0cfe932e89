"""What the installed plugin adds to `pytest --help` and to collecting an unrelated test: medians of 20, in turn."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "test_unrelated.py").write_text("def test_unrelated():\n    pass\n")
    for name, arguments in (("--help", ["--help"]), ("collection", ["--collect-only", "-q"])):
        times: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(20):
            for key, extra in (("with", []), ("without", ["-p", "no:qguard"])):
                start = time.perf_counter()
                subprocess.run([sys.executable, "-m", "pytest", *extra, *arguments], cwd=folder, check=True, capture_output=True)
                times[key].append(time.perf_counter() - start)
        a, b = (statistics.median(times[k]) * 1000 for k in ("without", "with"))
        print(f"pytest {name}: without {a:.0f} ms, with {b:.0f} ms, added {b - a:+.1f} ms")
