"""From a model's reference to a verdict, as a new user gets there: minutes, accuracy, size and speed as a table.

An empty folder and an empty cache; ``qguard init REF``, then one ``pytest --precision P`` each, all in processes of their own.

usage: python benchmarks/verdicts.py REF [--precisions fp32,fp16,bf16,int8,int8@openvino] [--accuracy-only] [--json OUT]

--accuracy-only leaves speed out, which a busy machine cannot measure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ACCURACY = {
    "mean": "embedding.cosine_mean", "p01": "embedding.cosine_p01", "worst": "embedding.cosine_min",
    "overlap@10": "ranking.overlap@10", "size": "artifact.size_ratio",
}  # fmt: skip
SPEED = ("64x1", "64x32")


def run(command: list[str], folder: Path) -> tuple[int, float, str]:
    """Exit status, minutes and output of a command of the environment that runs this."""
    environment = os.environ | {"QGUARD_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    command = [sys.executable, "-m", *command]
    done = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, (time.perf_counter() - start) / 60, done.stdout + done.stderr


def row(report: dict[str, Any]) -> dict[str, float]:
    """The figures of one precision in a JSON report."""
    (found,) = report["runs"]
    whole = {c["name"]: c["value"] for c in found["checks"] if c["slice"] is None}
    cells = {name: whole[metric] for name, metric in ACCURACY.items() if metric in whole}
    speeds = {t["bucket"]: t["ratio"] for t in found["latency"] if t["metric"] == "latency.speedup"}
    return cells | {name: speeds[name] for name in SPEED if name in speeds}


def main() -> None:
    """Run the commands and print a row for each precision."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ref")
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8,int8@openvino")
    parser.add_argument("--accuracy-only", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    ref = str(Path(args.ref).resolve()) if Path(args.ref).exists() else args.ref
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        status, minutes, said = run(["qguard.cli", "init", ref], folder)
        print(f"qguard init: exit {status}, {minutes:.1f} min", flush=True)
        if status:
            sys.exit(said)
        names = ["verdict", *ACCURACY, *SPEED, "minutes"]
        print("| precision | " + " | ".join(names) + " |\n|---|" + "---|" * len(names), flush=True)
        rows = {}
        for precision in args.precisions.split(","):
            gate = ["pytest", "--pyargs", "qguard.gate", "--precision", precision, "--qguard-report=report.json", "-q"]
            gate += ["--qguard-latency=off"] * args.accuracy_only
            (folder / "report.json").unlink(missing_ok=True)
            status, minutes, said = run(gate, folder)
            if not (folder / "report.json").exists():
                sys.exit(said)
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            rows[precision] = {"verdict": report["verdict"], **row(report), "minutes": minutes}
            if status:
                print(said, file=sys.stderr)
            cells = [f"{v:.4g}" if isinstance(v := rows[precision].get(n, ""), float) else str(v) for n in names]
            print(f"| {precision} | " + " | ".join(cells) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
