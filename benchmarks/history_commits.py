"""The history of this repository's own gate: commits of the main line, checked out, judged here, and shown by `qguard history`.

usage: python benchmarks/history_commits.py OUT [--commits 36] [--batch N] [--planted]

Each chosen commit is checked out into a clone and runs its own gate, `pytest --precision int8`, with its own code, suite and
golden and with the packages of this environment. Latency and generated texts are left out where the commit has the options for
it. Its artifacts are made anew, because older keys of the cache do not name all code that decides them. A commit that cannot be
judged, or whose report this version does not read, is noted in OUT/notes.json with the reason, and shown.

Two are judged at a time, since nothing is timed. --batch N stops after N pairs; run the command again to go on.

--planted shows what is judged so far, without and with ten copies of the newest commit's report in which overlap@10 falls by a
fifth of what other texts would make of it, each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qguard.cli import main as qguard
from qguard.errors import UsageProblem
from qguard.files import dump_json, write_atomic
from qguard.report.shape import read_report

ROOT = Path(__file__).parent.parent
OPTIONS = {"--qguard-latency": "off", "--qguard-robustness": "off"}
TIMEOUT = 900  # seconds for a commit
JOBS = 2


def git(folder: Path, *words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout


def chosen(out: Path, count: int) -> list[tuple[int, str]]:
    """Commits of the main line with their places in it, spread evenly over those that write reports; the same in every call."""
    file = out / "commits.json"
    if not file.exists():
        line = git(ROOT, "log", "--first-parent", "--reverse", "--format=%H").split()
        first = next(i for i, c in enumerate(line) if options(c, "--qguard-report"))
        places = sorted({round(first + i * (len(line) - 1 - first) / (count - 1)) for i in range(count)})
        write_atomic(file, dump_json({"commits": [[i, line[i]] for i in places]}))
    return [(int(i), str(c)) for i, c in json.loads(file.read_text())["commits"]]


def options(commit: str, name: str) -> bool:
    """Whether a commit's plugin has an option."""
    found = subprocess.run(["git", "-C", str(ROOT), "grep", "-q", "-e", f'"{name}"', commit, "--", "qguard"], check=False)
    return found.returncode == 0


def judged(tree: Path, cache: Path, report: Path, words: list[str]) -> str:
    """Run a gate in a tree; the reason if it leaves no report."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"PYTHONPATH": str(tree), "QGUARD_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *words]
    command.append(f"--qguard-report={report}")
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {TIMEOUT} s"
    if report.exists():
        return ""
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"exit code {done.returncode}, no report: {' | '.join(said[-3:])[:500]}"


def commit_judged(out: Path, job: int, name: str, commit: str) -> str:
    """Judge a commit in the tree of a job; the reason if that cannot be done."""
    tree, cache, made = out / f"tree-{job}", out / f"cache-{job}", out / f"{name}.json"
    if not tree.exists():
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", str(ROOT), str(tree)], check=True)
    git(tree, "checkout", "-q", "--force", "--detach", commit)
    git(tree, "clean", "-qfdx")
    shutil.rmtree(cache, ignore_errors=True)
    words = ["--precision", "int8", *(f"{option}={value}" for option, value in OPTIONS.items() if options(commit, option))]
    # pytest reads the commit's own tests, too, which may need other packages than there are here
    why = judged(tree, cache, made, words) and judged(tree, cache, made, [*words, "--pyargs", "qguard.gate"])
    if why:
        return why
    try:
        read_report(made)
    except UsageProblem as e:
        return str(e)
    made.replace(out / "reports" / made.name)
    return ""


def work(out: Path, count: int, batch: int | None) -> bool:
    """Do what is not done yet; whether nothing is left."""
    (out / "reports").mkdir(parents=True, exist_ok=True)
    notes = out / "notes.json"
    noted = json.loads(notes.read_text()) if notes.exists() else {}
    todo = [(f"{place:04d}-{commit[:10]}", commit) for place, commit in chosen(out, count)]
    todo = [t for t in todo if t[0] not in noted and not (out / "reports" / f"{t[0]}.json").exists()]
    with ThreadPoolExecutor(JOBS) as pool:
        for first in range(0, len(todo), JOBS):
            if batch is not None and first >= batch * JOBS:
                return False
            begun = time.perf_counter()
            pair = todo[first : first + JOBS]
            results = [f.result() for f in [pool.submit(commit_judged, out, j, *one) for j, one in enumerate(pair)]]
            for (name, _), why in zip(pair, results, strict=True):
                print(f"{name} {time.perf_counter() - begun:.0f} s: {why or 'judged'}", flush=True)
                if why:
                    noted[name] = re.sub(re.escape(str(out)), "OUT", why)
                    write_atomic(notes, dump_json(noted))
    return True


def plant(out: Path) -> Path:
    """The reports of commits with ten copies of the newest, each a little worse, in a folder of their own."""
    folder = out / "planted"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out / "reports", folder)
    newest = max(folder.iterdir())
    for i in range(1, 11):
        report = json.loads(newest.read_text())
        (run,) = report["runs"]
        run["artifact"]["sha256"] = hashlib.sha256(bytes([i])).hexdigest()
        check = next(c for c in run["checks"] if c["name"] == "ranking.overlap@10" and c["slice"] is None and not c["accepted"])
        low, high = check["interval"]
        fall = i / 5 * 2**0.5 * (high - low) / 2
        check |= {"value": check["value"] - fall, "interval": [low - fall, high - fall]}
        (folder / f"{newest.stem[:4]}-planted-{i:02d}.json").write_bytes(dump_json(report))
    return folder


def main() -> None:
    """Judge, and show the history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--commits", type=int, default=36)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--planted", action="store_true")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.planted:
        for folder in (out / "reports", plant(out)):
            code = qguard(["history", str(folder), "--out", str(out / f"{folder.name}.html"), "--gate"])
            print(f"{folder.name}: exit code {code}\n")
        return
    if not work(out, args.commits, args.batch):
        sys.exit("not all are judged yet; run this again")
    for name, why in json.loads((out / "notes.json").read_text() if (out / "notes.json").exists() else "{}").items():
        print(f"not judged: {name}: {why}")
    sys.exit(
        qguard(["history", str(out / "reports"), "--out", str(out / "trend.html"), "--json", str(out / "trend.json"), "--gate"])
    )


if __name__ == "__main__":
    main()
